"""The system on one line, with the part that a chapter is about lit."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from minivar.book.plots.base import COLOURS

PARTS = ("image", "encoder", "quantiser", "tokens", "transformer", "drawn tokens", "decoder", "samples", "judge")


def system_line(lit: tuple[str, ...], title: str, remarks: dict[str, str] | None = None) -> Figure:
    """``PARTS`` from left to right; those in ``lit`` in colour, with a remark below them."""
    figure, ax = plt.subplots(figsize=(10.5, 1.55), layout="constrained")
    for place, part in enumerate(PARTS):
        is_lit = part in lit
        colour = COLOURS[1] if is_lit else "0.93"
        box = FancyBboxPatch(
            (place - 0.41, -0.27),
            0.82,
            0.54,
            boxstyle="round,pad=0.0,rounding_size=0.1",
            facecolor=colour,
            edgecolor="0.35",
        )
        ax.add_patch(box)
        ax.text(place, 0, part.replace(" ", "\n"), ha="center", va="center", fontsize=8.5)
        if place:
            ax.add_patch(
                FancyArrowPatch((place - 0.6, 0), (place - 0.4, 0), arrowstyle="-|>", mutation_scale=9, color="0.35")
            )
        if remarks and part in remarks:
            ax.text(place, -0.36, remarks[part], ha="center", va="top", fontsize=8)
    ax.set(xlim=(-0.6, len(PARTS) - 0.4), ylim=(-0.8, 0.45), aspect="equal")
    ax.axis("off")
    ax.set_title(title, fontsize=10)
    return figure
