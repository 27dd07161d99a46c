"""Figures of chapter 15a: how long guests wait."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from minivar.book.plots.base import COLOURS

STYLES = {  # of the policies: colour and marker
    "one by one": (COLOURS[3], "o"),
    "static": (COLOURS[1], "s"),
    "continuous": (COLOURS[0], "^"),
}


def latencies(
    loads: Sequence[float], curves: Mapping[str, Sequence[np.ndarray | None]], alone: float, title: str
) -> Figure:
    """Seconds from arrival to end over the load, for the median guest and for one in twenty; None: no end."""
    figure, axes = plt.subplots(1, 2, figsize=(10.5, 4), sharey=True, layout="constrained")
    for i, (ax, who) in enumerate(zip(axes, ("half of all guests wait", "one guest in twenty waits"), strict=True)):
        for name, found in curves.items():
            colour, marker = STYLES[name]
            points = [(load, seconds[i]) for load, seconds in zip(loads, found, strict=True) if seconds is not None]
            x, y = np.array(points).T
            ax.plot(x, 1000 * y, marker=marker, ms=6, color=colour, label=name)
        ax.axhline(1000 * alone, color="0.5", lw=1, ls=":")
        ax.text(loads[-1], 1000 * alone, "a picture alone", fontsize=8, color="0.4", ha="right", va="bottom")
        ax.set(yscale="log", xlabel="arrivals, as a share of what full batches draw", title=f"{who} longer than")
        ax.title.set_fontsize(10)
        for axis_formatter in (ax.yaxis.set_major_formatter, ax.yaxis.set_minor_formatter):
            axis_formatter("{x:g}")
        ax.grid(alpha=0.3, which="both")
    axes[0].set_ylabel("milliseconds")
    axes[0].legend(fontsize=8)
    figure.suptitle(title, fontsize=11)
    return figure
