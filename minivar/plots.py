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
    figure, axes = plt.subplots(
        rows, columns, figsize=(width, width / columns * rows + 0.6), squeeze=False, layout="constrained"
    )
    for ax in axes.flat:
        ax.axis("off")
    for i, image in enumerate(images):
        ax = axes[i // columns, i % columns]
        ax.axis("on")
        show_image(ax, image, column_titles[i % columns] if column_titles and i < columns else "")
        if row_titles and i % columns == 0:
            ax.set_ylabel(row_titles[i // columns], rotation=0, ha="right", va="center", fontsize=9)
    figure.suptitle(title, fontsize=11)
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
            ax.plot(
                steps, [e[total] for e in rows], color="black", lw=1.8, label="pixels" if total == "mse" else "all"
            )
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
    """Bool masks (L, L) side by side, dark where a query (row) may look; ``bounds`` (or a dict): scales' borders."""
    figure, axes = plt.subplots(1, len(masks), figsize=(4.6 * len(masks), 4.6), squeeze=False)
    for ax, (name, mask_LL) in zip(axes[0], masks.items(), strict=True):
        ax.imshow(mask_LL.numpy(), cmap="Blues", vmin=0, vmax=1.4, interpolation="nearest")
        for begin, _ in (bounds.get(name, ()) if isinstance(bounds, dict) else bounds) or ():
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
    axes[1].set(xlabel="scale", ylabel="perplexity of codes")
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


def line_panels(panels, title: str, reference: tuple[str, float] | None = None) -> Figure:
    """Line plots side by side; each panel is (title, x, {name: y}, x label, y label).

    ``reference``, (name, y), is a dashed line in the first panel.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(4.8 * len(panels), 3.1), squeeze=False)
    for ax, (name, x, series, x_label, y_label) in zip(axes[0], panels, strict=True):
        for i, (label, y) in enumerate(series.items()):
            ax.plot(x, y, color=COLOURS[i], lw=1.6, label=label)
        ax.set(xlabel=x_label, ylabel=y_label, ylim=(0, None))
        ax.set_title(name, fontsize=10)
        ax.grid(alpha=0.3)
        if reference and ax is axes[0, 0]:
            ax.axhline(reference[1], color="black", lw=1, ls="--", label=reference[0])
        if len(ax.lines) > 1:
            ax.legend(fontsize=7, ncol=2)
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    return figure


def scale_inputs(before, f_hats, tokens, after, schedule, codebook_size: int, title: str) -> Figure:
    """What VAR reads and answers, a row a scale: image so far, its features on the grid, target, image after.

    ``before`` and ``after``: K images (1 or 3, H, W) in [0, 1]; ``f_hats``: K - 1 maps (C, h_k, w_k), shown as their
    first principal component, since the first scale reads the class instead; ``tokens``: K x (1, h_k * w_k).
    """
    K = schedule.num_scales
    flat_LC = torch.cat([f.flatten(1).T for f in f_hats])
    direction_C1 = torch.pca_lowrank(flat_LC, q=1)[2]
    values_L = ((flat_LC - flat_LC.mean(0)) @ direction_C1)[:, 0]
    limit = float(values_L.abs().max())
    figure, axes = plt.subplots(K, 4, figsize=(8.4, 2.05 * K + 0.6), squeeze=False)
    names = ("image so far", "input: its features, averaged", "target: token map", "image with this scale")
    begin = 0
    for k, row in enumerate(axes):
        show_image(row[0], before[k])
        grid = tokens[k][0].view(schedule.grids[k]).numpy()
        if k == 0:
            row[1].text(0.5, 0.5, "class\n+ start position", ha="center", va="center", transform=row[1].transAxes)
            row[1].set_box_aspect(grid.shape[0] / grid.shape[1])
        else:
            values = values_L[begin : begin + grid.size].view(schedule.grids[k])
            row[1].imshow(values.numpy(), cmap="PuOr", vmin=-limit, vmax=limit)
            begin += grid.size
        row[2].imshow(grid, cmap="cividis", vmin=0, vmax=codebook_size - 1)
        for (i, j), token in np.ndenumerate(grid):
            colour = "black" if token > codebook_size / 2 else "white"
            row[2].text(j, i, str(token), ha="center", va="center", fontsize=max(5, 11 - len(grid)), color=colour)
        show_image(row[3], after[k])
        row[0].set_ylabel(f"scale {k + 1}\n{grid.shape[0]} x {grid.shape[1]}", fontsize=10, color=scale_colour(k))
        for ax, name in zip(row, names, strict=True):
            ax.set(xticks=[], yticks=[], title=name if k == 0 else "")
            ax.title.set_fontsize(9)
    figure.suptitle(title, fontsize=11)
    figure.tight_layout(pad=0.6)
    return figure


def leakage(panels: dict[str, Tensor], title: str) -> Figure:
    """(K, K) matrices side by side: how far the logits of a scale (column) move when a token of one (row) changes."""
    figure, axes = plt.subplots(1, len(panels), figsize=(3.5 * len(panels), 4.2), squeeze=False)
    for ax, (name, moved_KK) in zip(axes[0], panels.items(), strict=True):
        names = [str(k + 1) for k in range(len(moved_KK))]
        ax.imshow(moved_KK.numpy(), cmap="Blues", vmin=0, vmax=2 * float(moved_KK.max()))
        for (i, j), value in np.ndenumerate(moved_KK.numpy()):
            ax.text(j, i, f"{value:.2g}", ha="center", va="center", weight="bold" if value else "normal")
            if value > 0 and j <= i:  # a leak
                ax.add_patch(plt.Rectangle((j - 0.45, i - 0.45), 0.9, 0.9, fill=False, ec=COLOURS[5], lw=2.5))
        ax.set(xlabel="scale whose logits move", ylabel="scale of the changed token")
        ax.set_xticks(range(len(names)), names)
        ax.set_yticks(range(len(names)), names)
        ax.set_title(name, fontsize=10)
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    return figure


def attention_pyramid(weights_HL: Tensor, schedule, query: tuple[int, int], title: str) -> Figure:
    """Where one token of the last scale looks: rows are heads, columns scales; ``query`` is its (row, column)."""
    parts = zip(weights_HL.split(schedule.counts, 1), schedule.grids, strict=True)
    weights = [part.view(-1, *grid) for part, grid in parts]
    rows, columns = weights_HL.shape[0], schedule.num_scales
    figure, axes = plt.subplots(rows, columns, figsize=(2.1 * columns + 0.8, 2.2 * rows + 0.7), squeeze=False)
    for (head, k), ax in np.ndenumerate(axes):
        shown = ax.imshow(weights[k][head].numpy(), cmap="viridis", vmin=0, vmax=float(weights_HL.max()))
        ax.set(xticks=[], yticks=[])
        even = schedule.counts[k] / schedule.num_tokens
        name = f"{weights[k][head].sum():.0%} on scale {k + 1} (even: {even:.0%})"
        ax.set_title(name, fontsize=9, color=scale_colour(k))
        if k == 0:
            ax.set_ylabel(f"head {head + 1}", fontsize=10)
        if k == columns - 1:
            ax.plot(query[1], query[0], marker="x", color=COLOURS[5], ms=9, mew=2.5)
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    figure.colorbar(shown, ax=axes, label="attention weight", fraction=0.03)
    return figure


def number_grids(rows, title: str) -> Figure:
    """Small matrices with their numbers written in; each row is (label, [(title, (h, w) tensor), ...]).

    Amounts (float) are coloured by sign and size. Indices (int) stay white: they are names, not amounts.
    """
    columns = max(len(grids) for _, grids in rows)
    limit = max(float(grid.abs().max()) for _, grids in rows for _, grid in grids if grid.is_floating_point())
    figure, axes = plt.subplots(len(rows), columns, figsize=(1.75 * columns, 1.9 * len(rows) + 0.5), squeeze=False)
    for row, (label, grids) in zip(axes, rows, strict=True):
        for ax, (name, grid) in zip(row, grids, strict=False):
            amounts = grid.numpy() if grid.is_floating_point() else np.zeros(grid.shape)
            ax.imshow(amounts, cmap="PuOr_r", vmin=-1.4 * limit, vmax=1.4 * limit)
            for (i, j), value in np.ndenumerate(grid.numpy()):
                ax.text(j, i, f"{round(float(value), 2):g}", ha="center", va="center", fontsize=9)
            ax.set_xticks(np.arange(grid.shape[1] + 1) - 0.5, [])
            ax.set_yticks(np.arange(grid.shape[0] + 1) - 0.5, [])
            ax.grid(color="grey", lw=0.6)
            ax.tick_params(length=0)
            ax.set_title(name, fontsize=9)
        row[0].set_ylabel(label, fontsize=10)
        for ax in row[len(grids) :]:
            ax.axis("off")
    figure.suptitle(title, fontsize=11)
    figure.tight_layout(pad=0.5)
    return figure


def phi_ticks(assignments: dict[int, tuple[int, ...]], ticks, title: str) -> Figure:
    """For each number of scales K, the scales at k / (K - 1), joined to the tick of the convolution they use."""
    figure, ax = plt.subplots(figsize=(9, 1.3 * len(assignments) + 1.2))
    for row, (scales, indices) in enumerate(assignments.items()):
        for k, i in enumerate(indices):
            x = k / max(scales - 1, 1)
            ax.plot([x, ticks[i]], [row, row + 0.55], color=COLOURS[i], lw=1.2)
            ax.plot(x, row, "o", color=COLOURS[i], ms=7)
            ax.text(x, row - 0.22, str(k), ha="center", va="center", fontsize=8)
        for i, tick in enumerate(ticks):
            ax.plot(tick, row + 0.55, "s", color=COLOURS[i], ms=9, label=f"convolution {i}" if row == 0 else None)
    ax.set_yticks(range(len(assignments)), [f"K = {scales}" for scales in assignments])
    ax.set(xlabel="k / (K - 1)", xlim=(-0.04, 1.04), ylim=(-0.5, len(assignments) - 0.1))
    ax.legend(fontsize=8, ncol=len(ticks), loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False)
    ax.set_title(title, fontsize=11)
    figure.tight_layout()
    return figure


def network_shapes(stages: list[tuple[str, tuple[int, int, int], int]], title: str) -> Figure:
    """Stages (name, (channels, h, w) of the output, parameters): height shows resolution, width channels, in log."""
    figure, ax = plt.subplots(figsize=(10, 3.4))
    x = 0.0
    for name, (channels, height, width), _ in stages:
        side = 1 + 0.7 * np.log2(height)
        wide = 0.15 + 0.12 * np.log2(1 + channels)
        colour = COLOURS[1] if "quant" in name or name in ("enc conv_out", "f_hat") else COLOURS[4]
        ax.add_patch(plt.Rectangle((x, -side / 2), wide, side, facecolor=colour, edgecolor="black", lw=0.7))
        ax.text(
            x + wide / 2,
            side / 2 + 0.15,
            f"{height}²" if height == width else f"{height}x{width}",
            ha="center",
            fontsize=7,
        )
        ax.text(x + wide / 2, 0, str(channels), ha="center", va="center", fontsize=8)
        ax.text(x + wide / 2, -side / 2 - 0.2, name, ha="right", va="top", fontsize=7, rotation=40)
        x += wide + 0.4
    top = max(0.5 + 0.35 * np.log2(height) for _, (_, height, _), _ in stages)
    ax.set(xlim=(-0.9, x), ylim=(-top - 2.2, top + 0.7))
    ax.axis("off")
    ax.set_title(title, fontsize=11)
    figure.tight_layout()
    return figure
