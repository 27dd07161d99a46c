"""Blocks of transformers as diagrams: VAR's, where the six vectors of AdaLN act, and LlamaGen's."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from minivar.book.plots.base import COLOURS
from minivar.book.plots.system import LIT, Box, draw_arrow, draw_box

LINE_Y, MAKER_Y = 0.6, 2.35
ATTENTION, MLP = "#A9D0F0", "#A8DCC8"  # light shades of the palette's blue and green
STEPS = (  # along the residual stream: place, width, text, colour
    (1.55, 0.9, "layer\nnorm", "0.94"),
    (2.75, 1.1, r"$\times (1 + s_1)$" + "\n" + r"$+\, b_1$", LIT),
    (4.0, 1.0, "attention", ATTENTION),
    (5.1, 0.7, r"$\times\, \gamma_1$", LIT),
    (7.0, 0.9, "layer\nnorm", "0.94"),
    (8.2, 1.1, r"$\times (1 + s_2)$" + "\n" + r"$+\, b_2$", LIT),
    (9.4, 0.9, "MLP", MLP),
    (10.45, 0.7, r"$\times\, \gamma_2$", LIT),
)
SUMS = (6.0, 11.3)  # where a branch joins the stream again
VECTORS = (  # name, where it stands, the step that it acts on
    (r"$s_1$", 2.5, 1),
    (r"$b_1$", 3.0, 1),
    (r"$\gamma_1$", 5.1, 3),
    (r"$s_2$", 7.95, 5),
    (r"$b_2$", 8.45, 5),
    (r"$\gamma_2$", 10.45, 7),
)
LLAMA_STEPS = (
    (1.6, 1.0, "RMSNorm", "0.94"),
    (2.75, 0.9, "linear:\n$q, k, v$", "0.94"),
    (3.95, 1.1, "turn $q$ and $k$\nby their place", LIT),
    (5.15, 0.9, "causal\nattention", ATTENTION),
    (6.2, 0.8, "linear", "0.94"),
    (8.2, 1.0, "RMSNorm", "0.94"),
    (9.5, 1.0, "SwiGLU", MLP),
)
LLAMA_SUMS = (7.1, 10.5)


def llama_block(title: str) -> Figure:
    """x + linear(attention(turned q, turned k, v)) of RMSNorm(x), then x + SwiGLU(RMSNorm(x))."""
    figure, ax = plt.subplots(figsize=(10.5, 1.9), layout="constrained")
    _stream(ax, (LLAMA_STEPS[:5], LLAMA_STEPS[5:]), LLAMA_SUMS)
    ax.set(xlim=(0.1, 11.5), ylim=(-0.45, 1.15), aspect="equal")
    ax.axis("off")
    ax.set_title(title, fontsize=11)
    return figure


def adaln_block(title: str) -> Figure:
    """x + gamma_1 attention(LN(x) (1 + s_1) + b_1), then the same with the MLP; the class makes the six vectors."""
    figure, ax = plt.subplots(figsize=(10.5, 3.2), layout="constrained")
    _stream(ax, (STEPS[:4], STEPS[4:]), SUMS)
    _makers(ax)
    ax.set(xlim=(0.1, 12.2), ylim=(-0.45, 2.85), aspect="equal")
    ax.axis("off")
    ax.set_title(title, fontsize=11)
    return figure


def _stream(ax, branches, sums: tuple[float, float]) -> None:
    """The residual stream: two branches of steps, each of which joins it again at its sum."""
    for place, width, text, colour in (step for branch in branches for step in branch):
        draw_box(ax, Box(place, LINE_Y, width, 0.66, text), colour, 8)
    for branch, total in zip(branches, sums, strict=True):
        start = branch[0][0] - branch[0][1] / 2 - 0.3
        ax.plot((start, start), (LINE_Y, -0.25), color="0.35", lw=1.1)  # around the branch
        ax.plot((start, total), (-0.25, -0.25), color="0.35", lw=1.1)
        draw_arrow(ax, (total, -0.25), (total, LINE_Y - 0.17))
        ax.text(total, LINE_Y, "+", ha="center", va="center", fontsize=11,
                bbox={"boxstyle": "circle,pad=0.15", "fc": "white", "ec": "0.35"})  # fmt: skip
        ends = [start - 0.35, *(place for place, *_ in branch), total]
        for (place, width, *_), after in zip(branch, ends[2:], strict=True):
            half = 0.17 if after == total else next(w for p, w, *_ in branch if p == after) / 2
            draw_arrow(ax, (place + width / 2, LINE_Y), (after - half, LINE_Y))
        draw_arrow(ax, (start - 0.35, LINE_Y), (branch[0][0] - branch[0][1] / 2, LINE_Y))
    ax.text(0.35, LINE_Y, "$x$", ha="center", va="center", fontsize=10)
    draw_arrow(ax, (sums[1] + 0.17, LINE_Y), (sums[1] + 0.55, LINE_Y))
    ax.text(sums[1] + 0.7, LINE_Y, "$x$", ha="center", va="center", fontsize=10)


def _makers(ax) -> None:
    """From the class to the six vectors, and down to where they act."""
    for place, width, text in (
        (0.75, 0.8, "class"),
        (1.95, 1.1, "embedding"),
        (3.35, 1.15, "SiLU, linear\n$D \\to 6D$"),
    ):
        draw_box(ax, Box(place, MAKER_Y, width, 0.6, text), "0.94", 8)
    for start, end in ((1.15, 1.4), (2.5, 2.77), (3.93, 4.3)):
        draw_arrow(ax, (start, MAKER_Y), (end, MAKER_Y))
    ax.plot((4.3, 10.45), (MAKER_Y, MAKER_Y), color=COLOURS[1], lw=1.3)
    ax.plot((2.5, 4.3), (1.82, 1.82), color=COLOURS[1], lw=1.3)
    ax.plot((4.3, 4.3), (1.82, MAKER_Y), color=COLOURS[1], lw=1.3)
    for name, place, _ in VECTORS:
        top = 1.82 if place < 4.3 else MAKER_Y
        ax.plot((place, place), (top, 1.62), color=COLOURS[1], lw=1.3)
        draw_box(ax, Box(place, 1.42, 0.42, 0.4, name), LIT, 9)
        draw_arrow(ax, (place, 1.22), (place, LINE_Y + 0.33))
