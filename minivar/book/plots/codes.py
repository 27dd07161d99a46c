"""Vector quantisation: codes on the line and in the plane, what tokens say and change, the ablation of codebooks."""

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from torch import Tensor

from minivar.book.plots.base import COLOURS, image_grid, show_image


def outline(ax, cell: tuple[int, int, int], colour: str) -> None:
    """A frame around the cell (top, left, side), in pixels."""
    top, left, side = cell
    ax.add_patch(plt.Rectangle((left - 0.5, top - 0.5), side, side, fill=False, ec=colour, lw=1.6))


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


def pulls(feature: Tensor, code: Tensor, wish: Tensor, beta: float, title: str) -> Figure:
    """What moves a feature (2,) and the code (2,) that it picked.

    Left the decoder's ``wish`` (2,) at the code, and the same at the feature: straight through. Right the steps down
    the two terms of the quantiser's loss, in proportion: the code's, and ``beta`` times as long the feature's.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9.0, 4.6), layout="constrained")

    def arrow(ax, start: Tensor, step: Tensor, colour: str, label: str) -> None:
        shape = {"arrowstyle": "-|>", "color": colour, "lw": 2.2, "mutation_scale": 15, "shrinkA": 0, "shrinkB": 0}
        ax.annotate("", (start + step).tolist(), start.tolist(), arrowprops=shape, zorder=4)
        ax.plot([], [], color=colour, lw=2, label=label)

    arrow(axes[0], code, wish, COLOURS[1], "what the decoder wishes")
    arrow(axes[0], feature, wish, COLOURS[2], "what the feature is told")
    axes[0].set_title("Straight through: the wish is handed on", fontsize=10)
    reach = 0.75 * (feature - code)
    arrow(axes[1], code, reach, COLOURS[5], "codebook loss")
    arrow(axes[1], feature, -beta * reach, COLOURS[0], "commitment loss")
    axes[1].set_title("The loss: the code comes, the feature leans", fontsize=10)
    low, high = torch.stack([feature, code]).amin(0) - 1.2, torch.stack([feature, code]).amax(0) + 1.2
    for ax in axes:
        ax.plot(*feature, "o", color="#444444", ms=9, label="feature")
        ax.plot(*code, "o", mfc="white", mec=COLOURS[5], mew=2, ms=10, label="its code")
        ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xlabel="first channel", ylabel="second channel")
        ax.set_aspect("equal")
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8, loc="lower right", framealpha=0.9)
    figure.suptitle(title, fontsize=11)
    return figure


def code_plane(panels, title: str, columns: int = 2) -> Figure:
    """Features and codes in two dimensions, with the region in which each code is nearest (its Voronoi cell).

    Panels are (name, features (N, 2), codes (V, 2), kind). Kind "circle" projects both onto the unit circle first;
    "plane" shows all features, "codes" a window that just holds the codes. Codes that no feature picks are hollow.
    Cells are told apart by four pale tints, taken in turn.
    """
    rows = -(-len(panels) // columns)
    size = (4.7 * columns, 4.7 * rows + 0.8)
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
        few = len(points) < 10
        ax.plot(*points.T, ".", color="#444444", ms=12 if few else 2.5, alpha=1 if few else 0.5, label="features")
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


def cells_that_share(crops: Tensor, cell: tuple[int, int, int], title: str, row_titles: list[str]) -> Figure:
    """Crops (R * N, 1, H, W) in [0, 1], a row for each token: the average, then single ones; ``cell`` is outlined."""
    columns = len(crops) // len(row_titles)
    figure = image_grid(crops, title, columns, ["average", *[""] * (columns - 1)], row_titles)
    for ax in figure.axes:
        outline(ax, cell, COLOURS[1])
    return figure


def token_flips(rows, influence: Tensor, cell: tuple[int, int, int], title: str) -> Figure:
    """What one token changes; rows are (label, before, after, (top, left, side)), images (1, H, W) in [0, 1].

    Columns: before, after, their difference, with the flipped token's own cell outlined. The panel on the right is
    ``influence`` (H, W), the average absolute difference over many images, for the flipped cell ``cell``.
    """
    figure = plt.figure(figsize=(10, 2.05 * len(rows) + 0.7), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(3, 1.75))
    axes = left.subplots(len(rows), 3, squeeze=False)

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
    joins their means. Names are those of ``KINDS``. ``labels`` are those of the axes; ``top`` is the upper
    end of y, None: automatic.
    """
    figure, axes = plt.subplots(len(rows), len(rows[0]), figsize=(10, 2.9 * len(rows) + 0.8), layout="constrained")
    seen = {}
    for row, panels in zip(axes, rows, strict=True):
        for ax, (name, x, series, (x_label, y_label), top) in zip(row, panels, strict=True):
            for label, values in series.items():
                style = list(KINDS.values()).index(label)
                places = [j for j, found in enumerate(values) if found]
                means = [float(np.mean(values[j])) for j in places]
                ax.plot(places, means, color=COLOURS[style], lw=1.4, ls=("-", ":", "-.", "--")[style])
                dots = [(j, value) for j in places for value in values[j]]
                (seen[label],) = ax.plot(*zip(*dots), "osD^"[style], color=COLOURS[style], ms=5)  # noqa: B905
            ax.set_xticks(range(len(x)), [str(v) for v in x])
            highest = max(v for values in series.values() for found in values for v in found)
            ax.set(xlabel=x_label, ylabel=y_label, ylim=(0, top or 1.12 * highest), xlim=(-0.4, len(x) - 0.6))
            ax.set_title(name, fontsize=9)
            ax.grid(alpha=0.3)
    figure.legend(seen.values(), seen.keys(), fontsize=9, loc="outside lower center", ncol=len(seen), frameon=False)
    figure.suptitle(title, fontsize=11)
    return figure


KINDS = {  # of tokenizers, by their names in data/results/codes.json
    "sphere": "digits, on the sphere",
    "plain": "digits, not projected",
    "short": "digits, on the sphere, begun near zero",
    "paper": "paper",
}


def code_ablation(found: list[dict], dims: dict[int, tuple], sizes: dict[int, tuple], title: str) -> Figure:
    """Error and usage over code dimension and codebook size, beside the paper's.

    Above by code dimension, at V = 1,024 for the digits, below by codebook size, at C = 8; error, rFID, usage.
    """

    def panel(name: str, key: str, x: list[int], kinds: list[str], paper: dict | None, label: str, y: str, top=None):
        at = (lambda v: (v, 1024)) if "dimension" in label else (lambda v: (8, v))
        factor = 100 if key == "used" else 1
        series = {
            KINDS[kind]: [
                [factor * row[key] for row in found if (row["dim"], row["size"], row["kind"]) == (*at(v), kind)]
                for v in x
            ]
            for kind in kinds
        }
        if paper:
            series[KINDS["paper"]] = [[paper[v][key == "used"]] if v in paper else [] for v in x]
        return name, [f"{v // 1024} k" if v >= 1024 else v for v in x], series, (label, y), top

    rows = []
    for which, paper, kinds, label in (
        ("dim", dims, ["sphere", "plain", "short"], "code dimension C"),
        ("size", sizes, ["sphere"], "codebook size V (k = 1,024)"),
    ):
        fixed = ("size", 1024) if which == "dim" else ("dim", 8)
        ours = sorted({row[which] for row in found if row[fixed[0]] == fixed[1]}, reverse=which == "dim")
        every = sorted({*ours, *paper}, reverse=which == "dim")
        rows.append(
            [
                panel("Digits: error", "mse", ours, kinds, None, label, "squared error"),
                panel("ImageNet (paper): rFID", "rFID", list(paper), [], paper, label, "rFID"),
                panel("Usage", "used", every, kinds, paper, label, "codes used (%)", 105),
            ]
        )
    return ablation(rows, title)
