"""Quality against milliseconds: what drawing with less arithmetic saves and costs."""

from string import ascii_lowercase

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from minivar.book.plots.base import COLOURS

# Shapes as well as colours tell the kinds of variants apart.
KINDS = {
    "all of it": (COLOURS[7], "o"),
    "guidance on fewer scales": (COLOURS[0], "s"),
    "scales or tokens left out": (COLOURS[1], "D"),
    "a small model": (COLOURS[2], "^"),
    "the last scale in parts": (COLOURS[3], "v"),
    "fewer bits": (COLOURS[5], "P"),
}


def frontier(found: dict, families: list[str], count: int, standard: str, title: str) -> Figure:
    """A panel a family of ``data/results/frontier.json``: distance over the floor, against milliseconds an image.

    ``count``: images drawn at a time; ``standard``: the variant that the others were timed beside. Points are means
    over the seeds, with letters in the order of the file. Bars reach from least to most, and half of the rounds lie
    within their width. The line joins those that nothing beats in both.
    """
    figure, axes = plt.subplots(
        len(families), 1, figsize=(9.6, 3.9 * len(families)), squeeze=False, layout="constrained"
    )
    for ax, family in zip(axes[:, 0], families, strict=True):
        unit = found[family][standard]["milliseconds"][str(count)]["median"]
        points = {}
        for letter, (name, entry) in zip(ascii_lowercase, found[family].items()):
            took, distances = entry["milliseconds"][str(count)], [s["distance"] for s in entry["scores"].values()]
            x, y = unit * took["ratio"], sum(distances) / len(distances)
            points[name] = x, y
            colour, marker = KINDS[entry["kind"]]
            known = entry["kind"] in ax.get_legend_handles_labels()[1]
            bars = {"xerr": x * took["spread"] / 2, "yerr": [[y - min(distances)], [max(distances) - y]]}
            style = {"color": colour, "marker": marker, "ls": "", "lw": 0.8, "label": "" if known else entry["kind"]}
            ax.errorbar(x, y, **bars, **style)
            ax.annotate(letter, (x, y), xytext=(5, 4), textcoords="offset points", fontsize=9)
        best = sorted(p for p in points.values() if not any(q[0] < p[0] and q[1] < p[1] for q in points.values()))
        ax.step([x for x, _ in best], [y for _, y in best], where="post", color="0.6", lw=1, zorder=0)
        ax.axhline(1, color="0.6", ls=":", lw=1)
        ax.set(xscale="log", yscale="log", title=family, xlabel=f"milliseconds an image, {count} at a time")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("{x:g}")
        ax.tick_params(which="both", labelsize=7)
        ax.set_ylabel("distance / that of training images")
    axes[0, 0].legend(fontsize=7, loc="upper right")
    figure.suptitle(title, fontsize=11)
    return figure
