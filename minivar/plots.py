"""Every figure of the book. Functions take data and return a matplotlib figure; nothing is computed twice here.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import save_image

COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000"]


def scale_colour(k: int) -> str:
    """The colour that scale k has in every figure."""
    return COLOURS[k % len(COLOURS)]


def save_images(images: Tensor, path: Path | str, columns: int = 10) -> None:
    """Write (N, 1 or 3, H, W) in [0, 1] as one PNG, row by row."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    save_image(images, path, nrow=columns, padding=1, pad_value=0.5)


def _to_pixels(image: Tensor) -> np.ndarray:
    """(1 or 3, H, W) in [0, 1] -> array for imshow."""
    array = image.detach().cpu().clamp(0, 1).numpy()
    return array[0] if array.shape[0] == 1 else array.transpose(1, 2, 0)


def show_image(ax, image: Tensor, title: str = "") -> None:
    """One image (1 or 3, H, W) in [0, 1] without ticks."""
    ax.imshow(_to_pixels(image), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_title(title, fontsize=9)
    ax.set_xticks([])
    ax.set_yticks([])


def image_grid(images: Tensor, title: str, columns: int = 10, column_titles=None, row_titles=None) -> Figure:
    """(N, 1 or 3, H, W) in [0, 1], row by row, with optional titles of columns and rows."""
    rows = -(-len(images) // columns)
    width = min(10.0, 1.0 * columns + 0.5)
    figure, axes = plt.subplots(rows, columns, figsize=(width, width / columns * rows + 0.6), squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for i, image in enumerate(images):
        ax = axes[i // columns, i % columns]
        ax.axis("on")
        show_image(ax, image, column_titles[i % columns] if column_titles and i < columns else "")
        if row_titles and i % columns == 0:
            ax.set_ylabel(row_titles[i // columns], rotation=0, ha="right", va="center", fontsize=9)
    figure.suptitle(title, fontsize=11)
    figure.tight_layout(pad=0.3)
    return figure


def training_curves(entries: list[dict], title: str) -> Figure:
    """Both phases of a run from its ``metrics.jsonl``: reconstruction and usage above, losses and accuracy below."""
    figure, axes = plt.subplots(2, 2, figsize=(10, 6.4))
    tokenizer = [e for e in entries if e["phase"] == "tokenizer"]
    var = [e for e in entries if e["phase"] == "var"]
    panels = (
        (axes[0, 0], tokenizer, "mse", "scale_errors", "squared error", "Tokenizer: pixels, and features by scale"),
        (axes[0, 1], tokenizer, None, "usage", "share of codes in a batch", "Tokenizer: codes that each scale uses"),
        (axes[1, 0], var, "loss", "scale_losses", "cross-entropy (nats)", "Transformer: loss, all and by scale"),
        (axes[1, 1], var, "accuracy", "scale_accuracies", "top-1 accuracy", "Transformer: token accuracy by scale"),
    )  # fmt: skip
    for ax, rows, total, by_scale, label, name in panels:
        steps = [e["step"] for e in rows]
        for k in range(len(rows[0][by_scale]) if rows else 0):
            ax.plot(steps, [e[by_scale][k] for e in rows], color=scale_colour(k), lw=1, label=f"scale {k + 1}")
        if total and rows:
            ax.plot(steps, [e[total] for e in rows], color="black", lw=1.8, label="all")
        ax.set(xlabel="step", ylabel=label)
        ax.set_title(name, fontsize=10)
        ax.grid(alpha=0.3)
        if rows:
            ax.legend(fontsize=7, ncol=2)
    axes[0, 0].set_yscale("log")
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    return figure


def save_figure(figure: Figure, path: Path | str) -> None:
    """Write a figure as PNG, creating its folder."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, bbox_inches="tight")


def token_maps(tokens: list[Tensor], schedule, codebook_size: int, title: str) -> Figure:
    """The pyramid of one image: each scale's codes as a coloured grid with the indices written in. K x (1, l)."""
    figure, axes = plt.subplots(1, schedule.num_scales, figsize=(2.2 * schedule.num_scales, 2.7))
    for k, (ax, tokens_1l) in enumerate(zip(np.atleast_1d(axes), tokens, strict=True)):
        grid = tokens_1l[0].view(schedule.grids[k]).numpy()
        ax.imshow(grid, cmap="cividis", vmin=0, vmax=codebook_size - 1)
        for (i, j), token in np.ndenumerate(grid):
            colour = "black" if token > codebook_size / 2 else "white"
            ax.text(j, i, str(token), ha="center", va="center", fontsize=max(5, 11 - grid.shape[0]), color=colour)
        ax.set_title(f"scale {k + 1}: {grid.shape[0]} x {grid.shape[1]}", fontsize=9, color=scale_colour(k))
        ax.set_xticks([])
        ax.set_yticks([])
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    return figure


def attention_masks(masks: dict[str, Tensor], bounds=None) -> Figure:
    """Bool masks (L, L) side by side, dark where a query (row) may look; ``bounds`` draws the scales' borders."""
    figure, axes = plt.subplots(1, len(masks), figsize=(4.6 * len(masks), 4.6), squeeze=False)
    for ax, (name, mask_LL) in zip(axes[0], masks.items(), strict=True):
        ax.imshow(mask_LL.numpy(), cmap="Blues", vmin=0, vmax=1.4, interpolation="nearest")
        for begin, _ in bounds or ():
            ax.axhline(begin - 0.5, color=COLOURS[1], lw=0.8)
            ax.axvline(begin - 0.5, color=COLOURS[1], lw=0.8)
        ax.set(xlabel="key: token looked at", ylabel="query: token predicted")
        ax.set_title(name, fontsize=10)
    figure.tight_layout()
    return figure


def usage_bars(usage: list[dict[str, float]], codebook_size: int, title: str) -> Figure:
    """Per scale, the share of the codebook that occurs, and the perplexity of its codes."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3))
    names = [str(k + 1) for k in range(len(usage))]
    colours = [scale_colour(k) for k in range(len(usage))]
    axes[0].bar(names, [100 * u["used"] for u in usage], color=colours)
    axes[0].set(xlabel="scale", ylabel="codes used (%)", ylim=(0, 100))
    axes[1].bar(names, [u["perplexity"] for u in usage], color=colours)
    axes[1].axhline(codebook_size, color="black", lw=0.8, ls="--", label="all codes equally often")
    axes[1].set(xlabel="scale", ylabel="perplexity of codes", yscale="log")
    axes[1].legend(fontsize=8)
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    return figure


def to_unit(images: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1], for showing what a tokenizer decoded."""
    return (images.clamp(-1, 1) + 1) / 2


def stack_rows(rows: list[Tensor]) -> Tensor:
    """R tensors (N, C, H, W) -> (R * N, C, H, W), for ``image_grid`` with N columns."""
    return torch.cat(rows)
