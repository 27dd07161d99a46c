"""Token maps, number grids and the shapes of networks."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from minivar.book.plots.base import COLOURS, scale_colour, show_image


def show_tokens(ax, grid: np.ndarray, codebook_size: int) -> None:
    """One token map (h, w), coloured by index, with the indices written in."""
    ax.imshow(grid, cmap="cividis", vmin=0, vmax=codebook_size - 1)
    for (i, j), token in np.ndenumerate(grid):
        colour = "black" if token > codebook_size / 2 else "white"
        ax.text(j, i, str(token), ha="center", va="center", fontsize=max(5, 11 - len(grid)), color=colour)


def first_component(features: list[Tensor]) -> list[Tensor]:
    """Maps (C, h_k, w_k) -> (h_k, w_k): all cells along the one direction in which they differ most."""
    flat_LC = torch.cat([f.flatten(1).T for f in features])
    flat_LC = flat_LC - flat_LC.mean(0)
    direction_C = torch.linalg.svd(flat_LC, full_matrices=False).Vh[0]
    values_L = flat_LC @ (direction_C * direction_C[direction_C.abs().argmax()].sign())  # its sign is arbitrary
    parts = values_L.split([f[0].numel() for f in features])
    return [part.view(f.shape[1:]) for part, f in zip(parts, features, strict=True)]


def token_maps(tokens: list[Tensor], schedule, codebook_size: int, title: str) -> Figure:
    """The pyramid of one image: each scale's codes as a coloured grid with the indices written in. K x (1, l)."""
    figure, axes = plt.subplots(1, schedule.num_scales, figsize=(2.2 * schedule.num_scales, 2.7))
    for k, (ax, tokens_1l) in enumerate(zip(np.atleast_1d(axes), tokens, strict=True)):
        grid = tokens_1l[0].view(schedule.grids[k]).numpy()
        show_tokens(ax, grid, codebook_size)
        ax.set_title(f"scale {k + 1}: {grid.shape[0]} x {grid.shape[1]}", fontsize=9, color=scale_colour(k))
        ax.set_xticks([])
        ax.set_yticks([])
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    return figure


def scale_inputs(before, f_hats, tokens, after, schedule, codebook_size: int, title: str) -> Figure:
    """What VAR reads and answers, a row a scale: image so far, its features on the grid, target, image after.

    ``before`` and ``after``: K images (1 or 3, H, W) in [0, 1]; ``f_hats``: K - 1 maps (C, h_k, w_k), shown as their
    first principal component, since the first scale reads the class instead; ``tokens``: K x (1, h_k * w_k).
    """
    K = schedule.num_scales
    maps = first_component(f_hats)
    limit = max(float(values.abs().max()) for values in maps)
    figure, axes = plt.subplots(K, 4, figsize=(8.4, 2.05 * K + 0.6), squeeze=False)
    names = ("image so far", "input: its features, averaged", "target: token map", "image with this scale")
    for k, row in enumerate(axes):
        show_image(row[0], before[k])
        grid = tokens[k][0].view(schedule.grids[k]).numpy()
        if k == 0:
            row[1].text(0.5, 0.5, "class\n+ start position", ha="center", va="center", transform=row[1].transAxes)
            row[1].set_box_aspect(grid.shape[0] / grid.shape[1])
        else:
            row[1].imshow(maps[k - 1].numpy(), cmap="PuOr", vmin=-limit, vmax=limit)
        show_tokens(row[2], grid, codebook_size)
        show_image(row[3], after[k])
        row[0].set_ylabel(f"scale {k + 1}\n{grid.shape[0]} x {grid.shape[1]}", fontsize=10, color=scale_colour(k))
        for ax, name in zip(row, names, strict=True):
            ax.set(xticks=[], yticks=[], title=name if k == 0 else "")
            ax.title.set_fontsize(9)
    figure.suptitle(title, fontsize=11)
    figure.tight_layout(pad=0.6)
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


def pyramid_by_hand(f: Tensor, codebook: Tensor, tokens: list[Tensor], title: str) -> Figure:
    """Residual quantisation of a map f (n, n) by scalar codes (V,), repeated over blocks; K grids (n_k, n_k)."""
    rows, f_hat = [], torch.zeros_like(f)
    for k, picked in enumerate(tokens):
        side, block = len(picked), len(f) // len(picked)
        residual = f - f_hat
        mean = residual.unflatten(0, (side, block)).unflatten(2, (side, block)).mean(dim=(1, 3))
        code = codebook[picked]
        f_hat = f_hat + code.repeat_interleave(block, 0).repeat_interleave(block, 1)
        step = {"residual": residual, "averaged down": mean, "token": picked, "its code": code}
        rows.append((f"scale {k + 1}", [*step.items(), ("$\\hat f$ so far", f_hat)]))
    return number_grids(rows, title)


def schedule_sides(schedules: dict[str, tuple[tuple[int, int], ...]], title: str) -> Figure:
    """The grids' sides by number of the scale, one line a schedule (square grids), on a logarithmic axis."""
    figure, ax = plt.subplots(figsize=(7, 3.4))
    for i, (name, grids) in enumerate(schedules.items()):
        numbers, sides = range(1, len(grids) + 1), [height for height, _ in grids]
        ax.plot(numbers, sides, "os^Dv"[i], ls="-", color=COLOURS[i], lw=1.2, ms=11 - 2 * i, label=name)
    ax.set_yscale("log", base=2)
    ticks = [2**i for i in range(7)]
    ax.set_yticks(ticks, [str(tick) for tick in ticks])
    ax.set(xlabel="number of the scale, k", ylabel="side of its grid, $h_k = w_k$")
    ax.set_xticks(range(1, 1 + max(map(len, schedules.values()))))
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)
    ax.set_title(title, fontsize=11)
    figure.tight_layout()
    return figure


def phi_ticks(assignments: dict[int, tuple[int, ...]], ticks, title: str) -> Figure:
    """For each number of scales K, scale k at (k - 1) / (K - 1), joined to the tick of the convolution it uses."""
    figure, ax = plt.subplots(figsize=(9, 1.3 * len(assignments) + 1.2))
    for row, (scales, indices) in enumerate(assignments.items()):
        for k, i in enumerate(indices):
            x = k / max(scales - 1, 1)
            ax.plot([x, ticks[i]], [row, row + 0.55], color=COLOURS[i], lw=1.2)
            ax.plot(x, row, "o", color=COLOURS[i], ms=7)
            ax.text(x, row - 0.22, str(k + 1), ha="center", va="center", fontsize=8)
        for i, tick in enumerate(ticks):
            ax.plot(tick, row + 0.55, "s", color=COLOURS[i], ms=9, label=f"convolution {i}" if row == 0 else None)
    ax.set_yticks(range(len(assignments)), [f"K = {scales}" for scales in assignments])
    ax.set(xlabel="(k - 1) / (K - 1) of scale k", xlim=(-0.04, 1.04), ylim=(-0.5, len(assignments) - 0.1))
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
