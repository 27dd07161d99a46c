"""The picture of the system: from an image to tokens, above, and from tokens to an image, below.

It is drawn once, here; each chapter lights the part that it is about.
"""

from collections.abc import Iterable
from typing import NamedTuple

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from minivar.book.plots.base import scale_colour

LIT, PLAIN, LINE = "#FFD27F", "0.94", "0.35"  # the first is a light shade of the palette's orange


class Box(NamedTuple):
    """A part: centre, size, and what is written in it."""

    x: float
    y: float
    width: float
    height: float
    text: str


UP, DOWN = 2.45, 0.75  # the two lanes
PARTS = {
    "image": Box(0.55, UP, 0.8, 0.62, "image"),
    "encoder": Box(1.75, UP, 0.95, 0.62, "encoder"),
    "features": Box(2.95, UP, 0.75, 0.62, "features\n$f$"),
    "quantiser": Box(6.05, UP, 4.55, 1.35, ""),
    "tokens": Box(9.55, UP, 1.3, 0.95, ""),
    "transformer": Box(9.3, DOWN, 1.8, 0.8, "transformer"),
    "drawing": Box(7.25, DOWN, 1.3, 0.62, "guide, filter,\ndraw"),
    "f_hat": Box(5.0, DOWN, 1.65, 0.95, ""),
    "decoder": Box(2.95, DOWN, 0.95, 0.62, "decoder"),
    "samples": Box(1.55, DOWN, 0.95, 0.62, "image"),
    "judge": Box(0.4, DOWN, 0.6, 0.5, "judge"),
}
ROUND = {  # what the quantiser does at every scale
    "average\ndown": 4.28,
    "nearest\ncode": 5.16,
    "resize\nup": 6.04,
    r"$\phi_k$": 6.92,
    "subtract": 7.8,
}
GRIDS = (1, 2, 4)  # a pyramid of three scales, as an example


def system(lit: Iterable[str] = (), title: str = "", simple: bool = False, raster: bool = False) -> Figure:
    """All of VAR in one picture; the parts in ``lit`` (of ``PARTS``) are coloured. ``simple``: without formulas.

    ``raster``: the same of a model in raster order, whose tokens are one grid, and whose codes are not added up.

    Raises ``ValueError`` for a part that there is not.
    """
    lit = set(lit)
    if unknown := lit - set(PARTS):
        raise ValueError(f"Unknown part {sorted(unknown)[0]!r}: expected one of {', '.join(PARTS)}.")
    figure, ax = plt.subplots(figsize=(10.5, 3.5), layout="constrained")
    for name, box in PARTS.items():
        draw_box(ax, box, LIT if name in lit else PLAIN)
    if raster:
        box = PARTS["quantiser"]
        ax.text(box.x, box.y, "quantiser:\nthe nearest code, for every cell", ha="center", va="center", fontsize=8.5)
        _grid(ax, PARTS["tokens"], "tokens" if simple else r"tokens $x_1, x_2, \ldots, x_N$")
        _grid(ax, PARTS["f_hat"], "the codes of the tokens")
    else:
        _quantiser(ax, simple)
        _pyramid(ax, PARTS["tokens"], "tokens" if simple else r"tokens $r_1, r_2, \ldots, r_K$")
        _sum(ax, PARTS["f_hat"], simple)
    _arrows(ax, simple, raster)
    ax.text(-0.05, UP + 0.86, "an image becomes tokens", fontsize=8.5, color="0.3", style="italic")
    ax.text(-0.05, DOWN + 0.72, "tokens become an image", fontsize=8.5, color="0.3", style="italic")
    ax.set(xlim=(-0.15, 10.55), ylim=(-0.3, 3.5), aspect="equal")
    ax.axis("off")
    ax.set_title(title, fontsize=11)
    return figure


def draw_box(ax, box: Box, colour: str, size: float = 8.5) -> None:
    """A rounded box with a text in it."""
    corner = (box.x - box.width / 2, box.y - box.height / 2)
    style = "round,pad=0.0,rounding_size=0.08"
    ax.add_patch(FancyBboxPatch(corner, box.width, box.height, boxstyle=style, facecolor=colour, edgecolor=LINE))
    ax.text(box.x, box.y, box.text, ha="center", va="center", fontsize=size)


def draw_arrow(
    ax, start: tuple[float, float], end: tuple[float, float], bend: float = 0.0, dashed: bool = False
) -> None:
    """From one point to another."""
    style = {"arrowstyle": "-|>", "mutation_scale": 9, "color": LINE, "shrinkA": 0, "shrinkB": 0}
    style |= {"connectionstyle": f"arc3,rad={bend}", "ls": "--" if dashed else "-"}
    ax.add_patch(FancyArrowPatch(start, end, **style))


def _quantiser(ax, simple: bool) -> None:
    """The five steps of a scale, and the residual that goes round."""
    box = PARTS["quantiser"]
    if simple:
        text = "quantiser: from coarse to fine,\nthe nearest code of what is still missing"
        ax.text(box.x, box.y, text, ha="center", va="center", fontsize=8.5)
        return
    y = box.y + 0.08
    for text, x in ROUND.items():
        draw_box(ax, Box(x, y, 0.74, 0.5, text), "white", 7)
    places = list(ROUND.values())
    for before, after in zip(places, places[1:], strict=False):
        draw_arrow(ax, (before + 0.37, y), (after - 0.37, y))
    draw_arrow(ax, (places[-1], y - 0.25), (places[0], y - 0.25), bend=-0.1)
    ax.text(
        box.x, y - 0.6, "what is left goes round, scale by scale", ha="center", va="center", fontsize=7, color="0.3"
    )
    ax.text(
        box.x, box.y + 0.52, "quantiser, for each scale $k = 1, \\ldots, K$", ha="center", va="center", fontsize=7.5
    )


def _pyramid(ax, box: Box, text: str) -> None:
    """Token maps of three scales."""
    left = box.x - 0.52
    for k, cells in enumerate(GRIDS):
        side = 0.3
        for row in range(cells):
            for column in range(cells):
                corner = (left + k * 0.38 + column * side / cells, box.y - 0.02 + row * side / cells)
                ax.add_patch(Rectangle(corner, side / cells, side / cells, fc=scale_colour(k), ec="white", lw=0.8))
    ax.text(box.x, box.y - 0.25, text, ha="center", va="center", fontsize=7)


def _grid(ax, box: Box, text: str) -> None:
    """One token map, and the path through it."""
    cells, side = GRIDS[-1], 0.13
    left, top = box.x - cells * side / 2, box.y + 0.4
    for row in range(cells):
        for column in range(cells):
            corner = (left + column * side, top - (row + 1) * side)
            ax.add_patch(Rectangle(corner, side, side, fc=scale_colour(1), ec="white", lw=0.8))
    corners = [(x, row) for row in range(cells) for x in (0, cells - 1)]
    x, y = zip(*((left + (x + 0.5) * side, top - (row + 0.5) * side) for x, row in corners), strict=True)
    ax.plot(x, y, color="white", lw=0.9)
    ax.text(box.x, box.y - 0.3, text, ha="center", va="center", fontsize=7)


def _sum(ax, box: Box, simple: bool) -> None:
    """The image so far."""
    text = "the image so far" if simple else r"$\hat f = \sum_k \phi_k(\mathrm{up}(\mathrm{codes}_k))$"
    ax.text(box.x, box.y + 0.22, text, ha="center", va="center", fontsize=7.5)
    for k, side in enumerate((0.12, 0.2, 0.3)):
        ax.add_patch(Rectangle((box.x - 0.5 + k * 0.36, box.y - 0.34), side, side, fc=scale_colour(k), ec="white"))
    for k in range(2):
        ax.text(box.x - 0.24 + k * 0.4, box.y - 0.25, "+", ha="center", va="center", fontsize=8)


def _arrows(ax, simple: bool, raster: bool) -> None:
    """What goes where: to the right above, down, to the left below, and back to the transformer."""
    parts = PARTS
    for a, b in (("image", "encoder"), ("encoder", "features"), ("features", "quantiser"), ("quantiser", "tokens")):
        draw_arrow(ax, (parts[a].x + parts[a].width / 2, UP), (parts[b].x - parts[b].width / 2, UP))
    below = ("transformer", "drawing", "f_hat", "decoder", "samples", "judge")
    for a, b in zip(below, below[1:], strict=False):
        draw_arrow(ax, (parts[a].x - parts[a].width / 2, DOWN), (parts[b].x + parts[b].width / 2, DOWN))
    tokens, transformer = parts["tokens"], parts["transformer"]
    draw_arrow(ax, (9.7, tokens.y - tokens.height / 2), (9.7, transformer.y + transformer.height / 2), dashed=True)
    ax.text(9.76, 1.56, "to learn from", fontsize=7, color="0.3", va="center")
    goes_back = parts["drawing" if raster else "f_hat"]
    bend, back = (0.17, "averaged down: input of the next scale")
    if raster:
        bend, back = (0.35, "back: input of the next token")
    draw_arrow(
        ax, (goes_back.x, DOWN - goes_back.height / 2), (transformer.x, DOWN - transformer.height / 2), bend=bend
    )
    back = "back, for the next scale" if simple and not raster else back
    place = (goes_back.x + transformer.x) / 2
    ax.text(place, DOWN - 0.94, back, ha="center", va="center", fontsize=7, color="0.3")
    draw_arrow(ax, (9.0, 1.5), (9.0, transformer.y + transformer.height / 2))
    ax.text(8.95, 1.56, "class", ha="right", fontsize=7, color="0.3", va="center")
