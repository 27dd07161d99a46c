"""Vector quantisation: codes on the line and in the plane, what tokens change, and the ablation of codebooks."""

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from torch import Tensor

from minivar.book.plots.base import COLOURS, show_image


def staircase(codes: Tensor, title: str) -> Figure:
    """Scalar quantisation by the codes (V,): left the value of the nearest code, right its slope and the pretence."""
    codes = codes.sort().values
    span = float(codes[-1] - codes[0])
    x = torch.linspace(float(codes[0]) - 0.15 * span, float(codes[-1]) + 0.15 * span, 1000)
    y = codes[(x[:, None] - codes).abs().argmin(1)]
    edges = ((codes[1:] + codes[:-1]) / 2).tolist()
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.4))
    left.plot(x, x, color=COLOURS[1], lw=1.5, ls="--", label="the identity")
    left.plot(x, y, color=COLOURS[0], lw=2, label="nearest code")
    left.plot(codes, codes, "o", color="black", ms=5, label="codes")
    left.set(xlabel="feature $z$ (no unit)", ylabel="code $q(z)$ (no unit)")
    left.set_title("The value is a staircase", fontsize=10)
    right.axhline(0, color=COLOURS[0], lw=2, label="true slope of $q$")
    right.axhline(1, color=COLOURS[1], lw=1.5, ls="--", label="slope used instead")
    for i, edge in enumerate(edges):
        right.axvline(edge, color="grey", lw=0.8, ls=":", label="jumps" if i == 0 else None)
    right.set(xlabel="feature $z$ (no unit)", ylabel="slope $dq/dz$", xlim=left.get_xlim(), ylim=(-0.25, 1.6))
    right.set_title("Its slope is zero wherever there is one", fontsize=10)
    for ax in (left, right):
        ax.grid(alpha=0.3)
        ax.legend(fontsize=7.5, loc="upper left", ncol=1 if ax is left else 3, columnspacing=1)
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    return figure


def code_plane(panels, title: str, columns: int = 2) -> Figure:
    """Features and codes in two dimensions, with the region in which each code is nearest (its Voronoi cell).

    Panels are (name, features (N, 2), codes (V, 2), kind). Kind "circle" projects both onto the unit circle first;
    "plane" shows all features, "codes" a window that just holds the codes. Codes that no feature picks are hollow.
    Cells are told apart by four pale tints, taken in turn.
    """
    rows = -(-len(panels) // columns)
    size = (4.7 * columns, 4.7 * rows + 0.4)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    tints = ListedColormap([tuple(0.72 + 0.28 * v for v in to_rgb(COLOURS[i])) for i in (0, 1, 2, 3)])
    for ax, (name, points, codes, kind) in zip(axes.flat, panels, strict=True):
        points, codes = points.detach().float(), codes.detach().float()
        if kind == "circle":
            points, codes = F.normalize(points, dim=1), F.normalize(codes, dim=1)
        used = torch.zeros(len(codes), dtype=torch.bool)
        used[torch.cdist(points, codes).argmin(1)] = True
        framed = {"circle": torch.tensor([[-1.15, -1.15], [1.15, 1.15]]), "codes": codes}.get(kind, points)
        centre = (framed.amin(0) + framed.amax(0)) / 2
        half = 0.56 * float((framed.amax(0) - framed.amin(0)).max())
        side = torch.linspace(-half, half, 300)
        grid = torch.stack(torch.meshgrid(side, side, indexing="xy"), -1).flatten(0, 1) + centre
        angle_V = torch.atan2(codes[:, 1], codes[:, 0])
        rank_V = angle_V.argsort().argsort()  # neighbours on the circle get different tints
        owner = rank_V[torch.cdist(grid, codes).argmin(1)].view(300, 300) % 4
        left, bottom, right, top = *(centre - half).tolist(), *(centre + half).tolist()
        ax.imshow(
            owner,
            origin="lower",
            extent=(left, right, bottom, top),
            cmap=tints,
            vmin=0,
            vmax=3,
            interpolation="nearest",
        )
        ax.plot(*points.T, ".", color="#444444", ms=2.5, alpha=0.5, label="features")
        ax.plot(*codes[used].T, "o", color=COLOURS[5], mec="black", mew=0.6, ms=5.5, label="codes in use")
        ax.plot(*codes[~used].T, "o", mfc="white", mec=COLOURS[5], mew=1.0, ms=5.5, label="codes never picked")
        ax.set(xlim=(left, right), ylim=(bottom, top), xlabel="first channel", ylabel="second channel")
        ax.set_title(f"{name}: {int(used.sum())} of {len(codes)} codes in use", fontsize=10)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, fontsize=9, loc="outside lower center", ncol=3, frameon=False, markerscale=1.4)
    figure.suptitle(title, fontsize=11)
    return figure


def image_as_tokens(image: Tensor, tokens: Tensor, decoded: Tensor, codebook_size: int, title: str) -> Figure:
    """An image (1 or 3, H, W) in [0, 1] under the cells of its tokens (h, w), the tokens, and the decoded image."""
    h, w = tokens.shape
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.7))
    show_image(axes[0], image, f"the image, cut into {h} x {w} cells")
    height, width = image.shape[1:]
    for i in range(1, h):
        axes[0].axhline(i * height / h - 0.5, color=COLOURS[1], lw=0.7)
    for j in range(1, w):
        axes[0].axvline(j * width / w - 0.5, color=COLOURS[1], lw=0.7)
    axes[1].imshow(tokens, cmap="cividis", vmin=0, vmax=codebook_size - 1)
    for (i, j), token in np.ndenumerate(tokens.numpy()):
        colour = "black" if token > codebook_size / 2 else "white"
        axes[1].text(j, i, str(token), ha="center", va="center", fontsize=8, color=colour)
    axes[1].set(xticks=[], yticks=[])
    axes[1].set_title("its tokens: one index a cell", fontsize=9)
    show_image(axes[2], decoded, "decoded from the tokens")
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    return figure


def token_flips(rows, influence: Tensor, cell: tuple[int, int, int], title: str) -> Figure:
    """What one token changes; rows are (label, before, after, (top, left, side)), images (1, H, W) in [0, 1].

    Columns: before, after, their difference, with the flipped token's own cell outlined. The panel on the right is
    ``influence`` (H, W), the average absolute difference over many images, for the flipped cell ``cell``.
    """
    figure = plt.figure(figsize=(10, 2.05 * len(rows) + 0.7), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(3, 1.75))
    axes = left.subplots(len(rows), 3, squeeze=False)

    def outline(ax, where: tuple[int, int, int], colour: str) -> None:
        top, start, side = where
        ax.add_patch(plt.Rectangle((start - 0.5, top - 0.5), side, side, fill=False, ec=colour, lw=1.6))

    for row, (label, before, after, where) in zip(axes, rows, strict=True):
        show_image(row[0], before)
        row[0].set_ylabel(label, fontsize=9)
        show_image(row[1], after)
        row[2].imshow((after - before)[0], cmap="PuOr_r", vmin=-1, vmax=1, interpolation="nearest")
        row[2].set(xticks=[], yticks=[])
        for ax, colour in zip(row, (COLOURS[1], COLOURS[1], "black"), strict=True):
            outline(ax, where, colour)
    names = ("all tokens as encoded", "one token changed", "difference, in [-1, 1]")
    for ax, name in zip(axes[0], names, strict=True):
        ax.set_title(name, fontsize=9)
    ax = right.subplots(1, 1)
    shown = ax.imshow(influence, cmap="cividis", vmin=0)
    outline(ax, cell, "white")
    ax.set(xlabel="column (pixels)", ylabel="row (pixels)")
    ax.set_title("average change, many digits\nand replacements", fontsize=9)
    bar = right.colorbar(shown, ax=ax, location="bottom", shrink=0.8)
    bar.set_label("mean absolute difference (pixels in [0, 1])", fontsize=8)
    figure.suptitle(title, fontsize=11)
    return figure


def ablation(rows, title: str) -> Figure:
    """Settings along x, each measured once or more often; rows of panels (title, x, {name: values}, labels, top).

    ``values`` has, for each entry of ``x``, a list of measurements (empty: not measured): each is a dot, and a line
    joins their means. A name with "plain", "paper" or "near zero" in it has its own colour. ``labels`` are those of
    the axes; ``top`` is the upper end of y, None: automatic.
    """
    figure, axes = plt.subplots(len(rows), len(rows[0]), figsize=(10, 2.9 * len(rows) + 0.4), squeeze=False)
    for row, panels in zip(axes, rows, strict=True):
        for ax, (name, x, series, (x_label, y_label), top) in zip(row, panels, strict=True):
            for label, values in series.items():
                style = next((i for i, word in enumerate(("plain", "paper", "near zero"), 1) if word in label), 0)
                places = [j for j, found in enumerate(values) if found]
                if not places:
                    continue
                means = [float(np.mean(values[j])) for j in places]
                ax.plot(places, means, color=COLOURS[style], lw=1.4, ls=("-", ":", "--", "-.")[style])
                dots = [(j, value) for j in places for value in values[j]]
                ax.plot(*zip(*dots), "os^D"[style], color=COLOURS[style], ms=5, label=label)  # noqa: B905
            ax.set_xticks(range(len(x)), [str(v) for v in x])
            highest = max(v for values in series.values() for found in values for v in found)
            ax.set(xlabel=x_label, ylabel=y_label, ylim=(0, top or 1.12 * highest), xlim=(-0.4, len(x) - 0.6))
            ax.set_title(name, fontsize=9)
            ax.grid(alpha=0.3)
            if len(series) > 1:
                ax.legend(fontsize=7, framealpha=0.5)
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    return figure
