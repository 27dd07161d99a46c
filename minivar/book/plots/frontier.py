"""Quality against milliseconds: what drawing with less arithmetic saves and costs."""

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


def frontier(found: dict, families: list[str], count: int, title: str) -> Figure:
    """A panel a family of ``data/results/frontier.json``: distance over the floor, against milliseconds an image.

    ``count``: images drawn at a time. Points are means over the seeds, bars reach from the least to the most. The
    line joins those that nothing beats in both.
    """
    figure, axes = plt.subplots(
        1, len(families), figsize=(4.9 * len(families), 4.6), squeeze=False, layout="constrained"
    )
    for ax, family in zip(axes[0], families, strict=True):
        points = {name: _point(entry, count) for name, entry in found[family].items()}
        for name, (ms, low, mean, high) in points.items():
            label = found[family][name]["kind"]
            colour, marker = KINDS[label]
            known = label in ax.get_legend_handles_labels()[1]
            ax.errorbar(
                ms,
                mean,
                [[mean - low], [high - mean]],
                color=colour,
                marker=marker,
                label="" if known else label,
                ls="",
            )
            ax.annotate(name, (ms, mean), xytext=(5, 4), textcoords="offset points", fontsize=7)
        best = sorted(p for p in points.values() if not any(q[0] < p[0] and q[2] < p[2] for q in points.values()))
        ax.step([p[0] for p in best], [p[2] for p in best], where="post", color="0.6", lw=1, zorder=0)
        ax.axhline(1, color="0.6", ls=":", lw=1)
        ax.set(xscale="log", yscale="log", title=family, xlabel=f"milliseconds an image, {count} at a time")
        ax.set_ylabel("distance to held-out images / that of training images")
        ax.xaxis.set_major_formatter(plt.FormatStrFormatter("%g"))
        ax.xaxis.set_minor_formatter(plt.FormatStrFormatter("%g"))
        ax.yaxis.set_major_formatter(plt.FormatStrFormatter("%g"))
        ax.yaxis.set_minor_formatter(plt.FormatStrFormatter("%g"))
        ax.tick_params(which="both", labelsize=7)
    axes[0, 0].legend(fontsize=7, loc="upper right")
    figure.suptitle(title, fontsize=11)
    return figure


def _point(entry: dict, count: int) -> tuple[float, float, float, float]:
    """Milliseconds, and the least, the mean and the largest distance over the seeds."""
    distances = [scores["distance"] for scores in entry["scores"].values()]
    return (
        entry["milliseconds"][str(count)]["median"],
        min(distances),
        sum(distances) / len(distances),
        max(distances),
    )
