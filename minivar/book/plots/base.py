"""Colours, single images, and writing to files; what the other figure modules share."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000"]


def scale_colour(k: int) -> str:
    """The colour that scale k has in every figure."""
    return COLOURS[k % len(COLOURS)]


def save_images(images: Tensor, path: Path | str, columns: int = 10) -> None:
    """Write (N, 1 or 3, H, W) in [0, 1] as one PNG, row by row."""
    from torchvision.utils import save_image  # here, because it takes seconds

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    save_image(images, path, nrow=columns, padding=1, pad_value=0.5)


def save_figure(figure: Figure, path: Path | str) -> None:
    """Write a figure as PNG, creating its folder."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, bbox_inches="tight")


def to_unit(images: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1], for showing what a tokenizer decoded."""
    return (images.clamp(-1, 1) + 1) / 2


def stack_rows(rows: list[Tensor]) -> Tensor:
    """R tensors (N, C, H, W) -> (R * N, C, H, W), for ``image_grid`` with N columns."""
    return torch.cat(rows)


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
