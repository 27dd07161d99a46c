"""Raster order: the path through the grid, what it reads, and an image that it fills token by token."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Patch, Rectangle
from torch import Tensor

from minivar.book.plots.base import COLOURS, show_image


def hatched(images: Tensor, drawn: Tensor) -> Tensor:
    """Images (N, 1 or 3, H, W) in [0, 1] as colour, with every cell that is not ``drawn`` covered by stripes.

    ``drawn``: bool (rows, columns) for all images, or (N, rows, columns). Returns (N, 3, H, W).
    """
    count, _, height, width = images.shape
    drawn_N = drawn.expand(count, *drawn.shape[-2:])
    row_H = torch.arange(height) * drawn.shape[-2] // height
    column_W = torch.arange(width) * drawn.shape[-1] // width
    visible = drawn_N[:, row_H][:, :, column_W][:, None]
    stripe = ((torch.arange(height)[:, None] + torch.arange(width)) % 4 < 2)[None, None]
    light, dark = (torch.tensor(colour).view(1, 3, 1, 1) for colour in ((0.80, 0.89, 0.96), (0.62, 0.75, 0.87)))
    return torch.where(visible, images.expand(-1, 3, -1, -1), torch.where(stripe, light, dark))


def filling(
    raster_stages: Tensor,
    pyramid_stages: Tensor,
    raster_titles: list[str],
    pyramid_titles: list[str],
    title: str,
    labels: tuple[str, str] = ("raster order", "next scale"),
    note: str = "",
) -> Figure:
    """One image filled step by step in raster order, in the upper row, and by a pyramid of scales, in the lower.

    Stages are images (S, 1 or 3, H, W) in [0, 1], with a title each; the rows may differ in length. ``note`` stands
    beside the shorter row.
    """
    rows = ((raster_stages, raster_titles), (pyramid_stages, pyramid_titles))
    columns = max(len(stages) for stages, _ in rows)
    size = (min(11.0, 1.3 * columns + 0.5), 2.3 * min(11.0, 1.3 * columns + 0.5) / columns + 0.6)
    figure, axes = plt.subplots(2, columns, figsize=size, squeeze=False, layout="constrained")
    for ax in axes.flat:
        ax.axis("off")
    for row, (stages, titles), label, colour in zip(axes, rows, labels, (COLOURS[1], COLOURS[0]), strict=True):
        for ax, image, name in zip(row, stages, titles, strict=False):
            ax.axis("on")
            show_image(ax, image, name)
            for side in ax.spines.values():
                side.set(color=colour, linewidth=1.5)
        row[0].set_ylabel(label, fontsize=10)
    shorter = min((0, 1), key=lambda i: len(rows[i][0]))
    empty = len(rows[shorter][0])
    if note and empty < columns:
        ax = axes[shorter, empty]
        ax.text(0, 0.5, note, transform=ax.transAxes, va="center", fontsize=10).set_in_layout(False)
    figure.suptitle(title, fontsize=11)
    return figure


def raster_neighbours(amounts: Tensor, grid: tuple[int, int], title: str, y_label: str) -> Figure:
    """The path of raster order through a grid, and an amount, ``y_label``, by distance along it.

    ``amounts``: (offsets,), from distance 1 on. Distances of whole rows have their own colour.
    """
    rows, columns = grid
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.5), width_ratios=(1, 2.2))
    y, x = np.divmod(np.arange(rows * columns), columns)
    axes[0].plot(x, y, color="0.6", lw=1, zorder=0)
    here = rows // 2 * columns + columns // 2
    neighbours = {here - 1: 0, here + 1: 0, here - columns: 1, here + columns: 1}
    for i, (column, row) in enumerate(zip(x, y, strict=True)):
        colour = "black" if i == here else COLOURS[neighbours[i]] if i in neighbours else "white"
        axes[0].scatter(column, row, s=210, color=colour, edgecolor="0.4", linewidth=0.7)
        ink = "white" if i == here or i in neighbours else "black"
        axes[0].text(column, row, str(i + 1), ha="center", va="center", fontsize=7.5, color=ink)
    axes[0].set_aspect("equal")
    axes[0].set(xlim=(-0.7, columns - 0.3), ylim=(rows - 0.3, -0.7), xticks=[], yticks=[])
    axes[0].set_title("the path, and one cell's neighbours", fontsize=10)
    offsets = np.arange(1, len(amounts) + 1)
    colours = [COLOURS[1] if offset % columns == 0 else COLOURS[0] for offset in offsets]
    axes[1].bar(offsets, amounts.numpy(), color=colours)
    axes[1].set(xlabel="distance in the sequence (tokens)", ylabel=y_label, xticks=offsets)
    axes[1].axhline(0, color="black", lw=0.8)
    axes[1].set_title(f"orange: whole rows of {columns} tokens, straight below", fontsize=10)
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    return figure


def teacher_forcing(inputs: list[str], targets: list[str], mask: Tensor, title: str) -> Figure:
    """What each position reads and predicts, shifted by one, beside the mask (L, L) that goes with it."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.9), width_ratios=(2.3, 1))
    count = len(inputs)
    for y, names, colour in ((0.0, inputs, COLOURS[4]), (1.6, targets, COLOURS[1])):
        for x, name in enumerate(names):
            face = COLOURS[2] if name == "class" else colour
            box = FancyBboxPatch((x - 0.36, y - 0.22), 0.72, 0.44, "round,pad=0.03", fc=face, ec="black", lw=0.7)
            axes[0].add_patch(box)
            axes[0].text(x, y, name, ha="center", va="center", fontsize=9)
    for x in range(count):
        axes[0].annotate("", (x, 1.3), (x, 0.3), arrowprops={"arrowstyle": "->", "lw": 1.2})
        if x + 1 < count:  # the target is the next position's input
            arrow = {"arrowstyle": "->", "lw": 0.8, "ls": "--", "color": "0.55"}
            axes[0].annotate("", (x + 0.78, 0.3), (x + 0.2, 1.3), arrowprops=arrow)
    axes[0].text(-0.6, 0, "reads", ha="right", va="center", fontsize=10)
    axes[0].text(-0.6, 1.6, "predicts", ha="right", va="center", fontsize=10)
    axes[0].set(xlim=(-1.9, count - 0.4), ylim=(-0.5, 2.1))
    axes[0].axis("off")
    axes[1].imshow(mask.numpy(), cmap="Blues", vmin=0, vmax=1.4, interpolation="nearest")
    axes[1].set_xticks(range(count), inputs, fontsize=8, rotation=60)
    axes[1].set_yticks(range(count), targets, fontsize=8)
    axes[1].set(xlabel="key: what may be looked at", ylabel="query: what is predicted")
    axes[1].set_xticks(np.arange(count + 1) - 0.5, minor=True)
    axes[1].set_yticks(np.arange(count + 1) - 0.5, minor=True)
    axes[1].grid(which="minor", color="white", lw=0.8)
    axes[1].tick_params(which="minor", length=0)
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    return figure


def cell_maps(
    maps: dict[str, Tensor], title: str, label: str, marks=(), signed: bool = False, numbers: bool = False
) -> Figure:
    """Maps (rows, columns) of one amount on one colour scale, named ``label``; marks: a (row, column) or None a map.

    ``signed``: zero is white. ``numbers``: write the values into the cells.
    """
    high = max(float(values.abs().max() if signed else values.max()) for values in maps.values())
    low = -high if signed else min(float(values.min()) for values in maps.values())
    figure, axes = plt.subplots(
        1, len(maps), figsize=(min(3.2 * len(maps) + 0.6, 11.0), 3.4), squeeze=False, layout="constrained"
    )
    marks = [*marks, *[None] * (len(maps) - len(marks))]
    for ax, (name, values), mark in zip(axes[0], maps.items(), marks, strict=True):
        shown = ax.imshow(values.numpy(), cmap="PuOr_r" if signed else "viridis", vmin=low, vmax=high)
        if numbers:
            for (i, j), value in np.ndenumerate(values.numpy()):
                ink = "black" if signed or value > (low + high) / 2 else "white"
                ax.text(j, i, f"{value:.1f}", ha="center", va="center", fontsize=8, color=ink)
        if mark is not None:
            ax.plot(mark[1], mark[0], marker="x", color=COLOURS[7], ms=10, mew=2.5)
        ax.set_xticks(range(values.shape[1]), [str(i + 1) for i in range(values.shape[1])])
        ax.set_yticks(range(values.shape[0]), [str(i + 1) for i in range(values.shape[0])])
        ax.set(xlabel="column")
        ax.set_title(name, fontsize=10)
    axes[0, 0].set_ylabel("row")
    figure.colorbar(shown, ax=axes, label=label, fraction=0.03)
    figure.suptitle(title, fontsize=11)
    return figure


def hole_sees(given: Tensor, scales_given: list[Tensor], cell: tuple[int, int], title: str) -> Figure:
    """What can be read when one cell of a hole is drawn: in raster order, left, and over the scales of a pyramid.

    ``given``: bool (rows, columns), where the image is known, and the same for every scale; ``cell``: (row, column)
    of the last scale, counted from 0.
    """
    sides = [len(given), *map(len, scales_given)]
    figure, axes = plt.subplots(
        1, len(sides), figsize=(10.5, 3.3), width_ratios=[max(side, 2.5) for side in sides], layout="constrained"
    )
    known, drawn, unread, not_yet = COLOURS[0], COLOURS[4], "0.8", "white"
    for panel, (ax, mask) in enumerate(zip(axes, (given, *scales_given), strict=True)):
        last = panel in (0, len(sides) - 1)
        for i, j in np.ndindex(*mask.shape):
            before = (i, j) < cell if panel == 0 else not last
            colour = (known if before else unread) if mask[i, j] else (drawn if before else not_yet)
            colour = "black" if last and (i, j) == cell else colour
            ax.add_patch(Rectangle((j, i), 1, 1, fc=colour, ec="0.35", lw=0.7))
        ax.set(xlim=(-0.05, mask.shape[1] + 0.05), ylim=(mask.shape[0] + 0.05, -0.05), aspect="equal", anchor="C")
        ax.axis("off")
        ax.set_title("raster order" if panel == 0 else f"scale {panel}", fontsize=10)
    words = {
        "black": "the cell to draw",
        known: "given, and read",
        drawn: "drawn before, and read",
        unread: "given, and not read",
        not_yet: "not there yet",
    }
    handles = [Patch(fc=colour, ec="0.35", label=text) for colour, text in words.items()]
    figure.legend(handles=handles, loc="outside lower center", ncol=len(words), fontsize=8.5, frameon=False)
    figure.suptitle(title, fontsize=11)
    return figure


def kept_codes(panels: dict[str, Tensor], title: str, shown: int = 24) -> Figure:
    """Distributions (V,) over codes after different filters, side by side; ordered by the first, likeliest left."""
    order = next(iter(panels.values())).argsort(descending=True)
    figure, axes = plt.subplots(1, len(panels), figsize=(2.6 * len(panels), 2.9), sharey=True, squeeze=False)
    for i, (ax, (name, probs_V)) in enumerate(zip(axes[0], panels.items(), strict=True)):
        ax.bar(np.arange(1, shown + 1), probs_V[order][:shown].numpy(), color=COLOURS[i])
        kept = int((probs_V > 0).sum())
        ax.set_title(f"{name}\n{kept} code{'s' if kept > 1 else ''} possible", fontsize=9)
        ax.set(xlabel="code, by rank", xlim=(0.2, shown + 0.8))
        ax.grid(axis="y", alpha=0.3)
        ax.set_axisbelow(True)
    axes[0, 0].set_ylabel("probability")
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    return figure
