"""The story of the book in one figure, for README.md: raster order above, next-scale order below."""

from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle
from torch import Tensor

from minivar.book.plots.base import scale_colour
from minivar.book.plots.cost import ORDER_STYLE, order_costs
from minivar.book.plots.raster import hatched
from minivar.scales import ScaleSchedule

ORDERS = {"raster order": ORDER_STYLE["raster"][0], "next-scale order": ORDER_STYLE["next-scale"][0]}
SIDES = (4, 8, 16, 32, 64)  # of the token grid, in the panel on cost
SMALL = 8  # size of all letters but those of the titles and in the tokens
LEFT, RIGHT, BOTTOM, TOP = -0.3, 4.32, 3.22, -0.35  # of a panel of 3 x 4 tiles of side 1, and their names
STEP = 1.1  # from one tile to the next
PANEL, HEAD, MARGIN, BETWEEN = 2.58, 0.52, 0.3, 0.12  # inches: a panel's width, its title, left, between panels
UNIT = PANEL / (RIGHT - LEFT)  # inches a side of a tile
HEIGHT = UNIT * (BOTTOM - TOP)  # of a panel


class Story(NamedTuple):
    """What the panels show. Images are (1 or 3, H, W) in [0, 1]."""

    image: Tensor  # a held-out one
    grid: Tensor  # (h, w): its tokens in one grid
    codebook_size: int  # of the tokenizer that made them
    rows: dict[int, Tensor]  # number of the grid's rows that are drawn -> N images, in raster order
    scales: list[Tensor]  # after each scale, N images of the same classes, in next-scale order
    schedule: ScaleSchedule
    pyramid: list[Tensor]  # the image's tokens again: K x (h_k * w_k,)
    sums: list[Tensor]  # K + 1 images: decoded from no scale, from the first, from the first two, ...
    given: Tensor  # N images, each of which gets a hole
    keep: list[Tensor]  # N x bool (H, W): what stays
    filled: list[Tensor]  # two ways in which the holes were filled, N images each


def arc(story: Story) -> Figure:
    """The book in six panels: tokens, the order in which they are drawn, and what it costs or makes possible.

    The number in front of a title is the chapter's. The upper row is about raster order, the lower about next-scale.
    """
    one_grid, steps = story.grid.numel(), story.schedule.num_scales
    coded = f"{one_grid} numbers, each one of {story.codebook_size} codes"
    panels = (
        (tokens, "01", "An image becomes tokens", coded),
        (raster, "02", f"Raster order: {one_grid} steps", "one token after the other, row by row"),
        (cost, "03", "Attention: n⁶ against n⁴", "pairs of tokens compared, without a cache"),
        (pyramid, "04", "A pyramid of tokens", f"from coarse to fine, {story.schedule.num_tokens} in all"),
        (next_scale, "05", f"Next-scale order: {steps} steps", "a whole grid at once, then a finer one"),
        (holes, "10", "Any hole can be filled", "told the class, with no more training"),
    )
    size = np.array([MARGIN + 3 * PANEL + 2 * BETWEEN + 0.03, 2 * (HEIGHT + HEAD) + BETWEEN + 0.03])
    figure = plt.figure(figsize=size)
    for i, (draw, chapter, title, below) in enumerate(panels):
        row, column = divmod(i, 3)
        corner = np.array(
            [MARGIN + column * (PANEL + BETWEEN), size[1] - (row + 1) * (HEIGHT + HEAD) - row * BETWEEN]
        )
        ax = figure.add_axes((*corner / size, PANEL / size[0], HEIGHT / size[1]))
        colour = list(ORDERS.values())[row]
        heading(figure, (corner + (-LEFT * UNIT, HEIGHT)) / size, chapter, title, below, colour)
        draw(ax, story)
        if column == 0:
            style = {"ha": "center", "va": "center", "rotation": 90, "fontsize": 10, "weight": "bold"}
            figure.text(0.14 / size[0], (corner[1] + HEIGHT / 2) / size[1], list(ORDERS)[row], color=colour, **style)
    return figure


def heading(figure: Figure, place, chapter: str, title: str, below: str, colour: str) -> None:
    """Above a panel: the chapter's number on a patch of colour, the title, and in smaller letters a line below it."""
    patch = {"boxstyle": "round,pad=0.25", "fc": colour, "ec": "none"}
    words = (
        (chapter, (3, 23), {"fontsize": 9, "weight": "bold", "color": "white", "bbox": patch}),
        (title, (23, 23), {"fontsize": 10, "weight": "bold"}),
        (below, (0, 7), {"fontsize": SMALL, "color": "0.3"}),
    )
    for text, points, style in words:
        figure.axes[-1].annotate(text, place, points, "figure fraction", textcoords="offset points", **style)


def board(ax, columns: list[str] = (), rows: list[str] = ()) -> None:
    """An empty panel for 3 x 4 tiles, with names above and beside them."""
    ax.set(xlim=(LEFT, RIGHT), ylim=(BOTTOM, TOP), aspect="equal")
    ax.axis("off")
    for j, name in enumerate(columns):
        ax.text(j * STEP + 0.5, -0.07, name, ha="center", va="bottom", fontsize=SMALL)
    for i, name in enumerate(rows):
        ax.text(-0.07, i * STEP + 0.5, name, ha="right", va="center", rotation=90, fontsize=SMALL)


def tile(ax, i: float, j: float, image, side: float = 1.0, edge: str | None = None, **style) -> None:
    """An image (1 or 3, H, W) in [0, 1], or a map (h, w) with a ``style`` of its own, in row i and column j."""
    picture = image if style else image.clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0)
    x, y = j * STEP, i * STEP
    ax.imshow(np.asarray(picture), extent=(x, x + side, y + side, y), interpolation="nearest", **style)
    if edge:
        ax.add_patch(Rectangle((x, y), side, side, fill=False, ec=edge, lw=1.4))
    ax.set(xlim=(LEFT, RIGHT), ylim=(BOTTOM, TOP))  # which imshow has changed


def numbered(ax, i: float, j: float, grid: Tensor, codebook_size: int, side: float, size: float, edge: str) -> None:
    """A token map (h, w), coloured by index, with the indices written in unless ``size`` is 0."""
    tile(ax, i, j, grid, side, edge, cmap="cividis", vmin=0, vmax=codebook_size - 1)
    if not size:
        return
    for (row, column), token in np.ndenumerate(grid.numpy()):
        x, y = (j * STEP + (column + 0.5) * side / grid.shape[1], i * STEP + (row + 0.5) * side / grid.shape[0])
        ink = "black" if token > codebook_size / 2 else "white"
        ax.text(x, y + 0.01, str(token), ha="center", va="center_baseline", fontsize=size, color=ink)


def tokens(ax, story: Story) -> None:
    """An image, and its grid of tokens."""
    board(ax)
    small, large, top = 1.3, 2.6, 0.25
    left, middle = RIGHT - 0.02 - large, top + large / 2
    tile(ax, (middle - small / 2) / STEP, 0, story.image, small)
    pixels = "{} × {} pixels".format(*story.image.shape[1:])
    ax.text(small / 2, middle + small / 2 + 0.3, pixels, ha="center", fontsize=SMALL)
    numbered(ax, top / STEP, left / STEP, story.grid, story.codebook_size, large, 6.6, "white")
    arrow = {"arrowstyle": "-|>", "mutation_scale": 9, "color": "0.3", "shrinkA": 2, "shrinkB": 2}
    ax.add_patch(FancyArrowPatch((small, middle), (left, middle), **arrow))


def raster(ax, story: Story) -> None:
    """Images that are drawn row by row, a row of tiles each; what is not there yet is hatched."""
    rows, columns = story.grid.shape
    board(ax, [f"{done * columns} tokens" for done in story.rows])
    for j, (done, images) in enumerate(story.rows.items()):
        drawn = torch.zeros(rows, columns, dtype=torch.bool)
        drawn[:done] = True
        for i, image in enumerate(hatched(images, drawn)):
            tile(ax, i, j, image)


def cost(ax, story: Story) -> None:
    """Pairs of query and key for one image in closed form, over the side of the grid, on logarithmic axes."""
    box, inch = ax.get_position(), 1 / ax.figure.get_size_inches()
    left, bottom = 0.5 * inch[0], 0.38 * inch[1]  # room for the numbers and for what they are
    ax.set_position((box.x0 + left, box.y0 + bottom, box.width - 1.1 * left, box.height - 1.05 * bottom))
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set(xlim=(3.4, 76), ylim=(20, 1e11))
    lines = {
        "raster": ("raster order: n⁶", 5),
        "next-scale": ("next-scale order: n⁴", 5),
        "raster-cached": ("raster, KV cache: n⁴", -13),
    }
    for order, (name, offset) in lines.items():
        colour, marker = ORDER_STYLE[order]
        pairs = [order_costs(order, n)["pairs"] for n in SIDES]
        ax.plot(SIDES, pairs, color=colour, marker=marker, ms=4.5, lw=1.6)
        (x0, y0), (x1, y1) = ax.transData.transform([(SIDES[1], pairs[1]), (SIDES[-1], pairs[-1])])
        angle = np.degrees(np.arctan2(y1 - y0, x1 - x0))
        style = {"rotation": angle, "rotation_mode": "anchor", "ha": "center", "fontsize": SMALL, "color": "black"}
        ax.annotate(name, (SIDES[2], pairs[2]), (0, offset), textcoords="offset points", **style)
    ax.set_xticks(SIDES, [str(n) for n in SIDES])
    ax.set_yticks([1e2, 1e4, 1e6, 1e8, 1e10])
    ax.minorticks_off()
    ax.tick_params(labelsize=SMALL, length=2, pad=2)
    ax.set_xlabel("n, for a grid of n × n tokens", fontsize=SMALL, labelpad=2)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.3)


def pyramid(ax, story: Story) -> None:
    """The tokens of each scale, what their codes add, and the sum so far."""
    board(ax, [f"{h} × {w}" for h, w in story.schedule.grids], ["tokens", "adds", "so far"])
    for k, (tokens_l, grid) in enumerate(zip(story.pyramid, story.schedule.grids, strict=True)):
        size = {1: 9, 2: 7.5}.get(grid[0], 0)  # in finer grids there is no room for numbers
        numbered(ax, 0, k, tokens_l.view(grid), story.codebook_size, 1, size, scale_colour(k))
        before, after = story.sums[k : k + 2]
        tile(ax, 1, k, (after - before).mean(0), cmap="PuOr_r", vmin=-1, vmax=1)
        tile(ax, 2, k, after)


def next_scale(ax, story: Story) -> None:
    """Images that are drawn scale by scale, a row of tiles each."""
    board(ax, [f"{h} × {w}" for h, w in story.schedule.grids])
    for j, images in enumerate(story.scales):
        for i, image in enumerate(images):
            tile(ax, i, j, image)


def holes(ax, story: Story) -> None:
    """Held-out images, what is left of them, and two ways to go on."""
    board(ax, ["real", "given", "drawn", "again"])
    for i, (image, keep) in enumerate(zip(story.given, story.keep, strict=True)):
        tile(ax, i, 0, image)
        tile(ax, i, 1, hatched(image[None], keep)[0])
        for j, images in enumerate(story.filled):
            tile(ax, i, 2 + j, images[i])
