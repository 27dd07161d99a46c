"""Figures of chapter 14: what lies in published files, how their levels are counted, what a single mistake does."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from minivar.book.plots.base import COLOURS


def file_shares(files: Mapping[str, Mapping[str, int]], title: str) -> Figure:
    """A bar a file, divided by what its numbers are for: file -> part -> how many."""
    parts = list(dict.fromkeys(part for counts in files.values() for part in counts))
    figure, ax = plt.subplots(figsize=(9.5, 0.9 + 0.42 * len(files)), layout="constrained")
    for row, counts in enumerate(files.values()):
        total, left = sum(counts.values()), 0.0
        for number, part in enumerate(parts):
            share = counts.get(part, 0) / total
            label = part if row == 0 or not any(part in other for other in list(files.values())[:row]) else None
            ax.barh(row, share, left=left, color=COLOURS[number % len(COLOURS)], edgecolor="white", label=label)
            if share > 0.06:
                ax.text(left + share / 2, row, f"{share:.0%}", ha="center", va="center", fontsize=8, color="white")
            left += share
    ax.set_yticks(range(len(files)), [f"{name} ({sum(c.values()) / 1e6:,.0f} M)" for name, c in files.items()])
    ax.set(xlim=(0, 1), xlabel="share of the numbers in the file", title=title)
    ax.invert_yaxis()
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def level_numbers(numbers: Mapping[str, Sequence[int]], sides: Sequence[int], title: str) -> Figure:
    """For each way to count the decoder's levels (a row): the number of the level at each of the ``sides``."""
    figure, ax = plt.subplots(figsize=(8.5, 0.9 + 0.5 * len(numbers)), layout="constrained")
    most = max(max(row) for row in numbers.values())
    ax.imshow([[n / most for n in row] for row in numbers.values()], cmap="cividis", aspect="auto", vmin=-0.2, vmax=1)
    for y, row in enumerate(numbers.values()):
        for x, number in enumerate(row):
            colour = "black" if number > most / 2 else "white"
            ax.text(x, y, str(number), ha="center", va="center", color=colour, fontsize=11)
    ax.set_yticks(range(len(numbers)), list(numbers))
    ax.set_xticks(range(len(sides)), [f"{side} x {side}" for side in sides])
    ax.set(xlabel="cells or pixels that the level works on, in the order of the data", title=title)
    return figure


def single_faults(
    faults: Mapping[str, tuple[float, float, float]], bounds: tuple[float, float], title: str
) -> Figure:
    """What single mistakes do: name -> (largest error, mean error, share of greedy tokens that differ).

    ``bounds`` are those of the largest and of the mean error.
    """
    figure, ax = plt.subplots(figsize=(9.5, 1.2 + 0.34 * len(faults)), layout="constrained")
    for y, (largest, mean, changed) in enumerate(faults.values()):
        ax.plot([mean, largest], [y, y], color="0.8", lw=1.5, zorder=1)
        for x, colour in ((largest, COLOURS[0]), (mean, COLOURS[1])):
            ax.scatter(
                x, y, s=46, zorder=2, facecolor=colour if changed else "white", edgecolor=colour, linewidth=1.6
            )
    for bound, colour in zip(bounds, COLOURS, strict=False):
        ax.axvline(bound, color=colour, ls="--", lw=1.2)
    ax.set_xscale("log")
    ax.set_yticks(range(len(faults)), list(faults))
    ax.invert_yaxis()
    marks = {"ls": "", "marker": "o", "markeredgewidth": 1.6}
    ax.legend(
        handles=[
            Line2D([], [], color=COLOURS[0], label="largest error, and its bound", **marks),
            Line2D([], [], color=COLOURS[1], label="mean error, and its bound", **marks),
            Line2D([], [], color="0.3", markerfacecolor="white", label="empty: all greedy tokens are right", **marks),
        ],
        loc="center left",
        bbox_to_anchor=(1, 0.5),
        frameon=False,
        fontsize=8,
    )
    ax.set(xlabel="error of the logits", title=title)
    ax.grid(axis="x", color="0.92")
    ax.spines[["top", "right"]].set_visible(False)
    return figure
