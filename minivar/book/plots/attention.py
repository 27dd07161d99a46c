"""Masks and attention weights."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from minivar.book.plots.base import COLOURS, scale_colour


def attention_masks(masks: dict[str, Tensor], bounds=None) -> Figure:
    """Bool masks (L, L) side by side, dark where a query (row) may look; ``bounds`` (or a dict): scales' borders."""
    figure, axes = plt.subplots(1, len(masks), figsize=(4.6 * len(masks), 4.6), squeeze=False)
    for ax, (name, mask_LL) in zip(axes[0], masks.items(), strict=True):
        edges = (0.5, len(mask_LL) + 0.5, len(mask_LL) + 0.5, 0.5)  # tokens are counted from 1
        ax.imshow(mask_LL.numpy(), cmap="Blues", vmin=0, vmax=1.4, interpolation="nearest", extent=edges)
        for begin, _ in (bounds.get(name, ()) if isinstance(bounds, dict) else bounds) or ():
            ax.axhline(begin + 0.5, color=COLOURS[1], lw=0.8)
            ax.axvline(begin + 0.5, color=COLOURS[1], lw=0.8)
        ax.set(xlabel="key: token looked at", ylabel="query: token predicted")
        ax.set_title(name, fontsize=10)
    figure.tight_layout()
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
