"""The head-to-head of chapter 08a: scores of several models and seeds, one panel per metric."""

import math

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from minivar.book.plots.base import COLOURS

# Name, colour and marker of each side, the same in every figure.
DUEL_STYLE = {
    "var": ("next-scale (VAR)", COLOURS[0], "^"),
    "llamagen": ("raster, LlamaGen style", COLOURS[1], "s"),
    "gpt2": ("raster, GPT-2 style", COLOURS[3], "o"),
}
PROTOCOLS = {"images": "", "time": ", equal time"}


def duel_points(entries, metrics: dict[str, str], title: str, limits=None) -> Figure:
    """A row for each entry, (model, protocol, runs), a panel for each of the ``metrics``, key -> label.

    A marker is one seed, hollow where the runs had equal time rather than equal images; the bar is their mean.
    ``limits``, {metric: {model: value}}: what the tokenizer alone reaches, dotted. Runs are dicts as in
    ``data/results/head_to_head.json``.
    """
    figure, axes = plt.subplots(
        1, len(metrics), figsize=(11, 0.45 * len(entries) + 1.5), sharey=True, squeeze=False, layout="constrained"
    )
    names = [DUEL_STYLE[model][0] + PROTOCOLS[protocol] for model, protocol, _ in entries]
    for ax, (metric, label) in zip(axes[0], metrics.items(), strict=True):
        for y, (model, protocol, runs) in enumerate(entries):
            _, colour, marker = DUEL_STYLE[model]
            values = [run[metric] for run in runs]
            ax.plot(2 * [np.mean(values)], (y - 0.32, y + 0.32), color=colour, lw=2)
            face = colour if protocol == "images" else "white"
            offsets = np.linspace(y - 0.14, y + 0.14, len(values))  # so that seeds do not hide each other
            ax.scatter(values, offsets, s=40, marker=marker, facecolor=face, edgecolor=colour, zorder=3)
            limit = (limits or {}).get(metric, {}).get(model)
            if limit is not None:
                ax.plot(2 * [limit], (y - 0.5, y + 0.5), color="0.35", lw=1.2, ls=":")
        ax.set_xlabel(label, fontsize=9)
        ax.tick_params(axis="x", labelsize=8)
        ax.locator_params(axis="x", nbins=4)
        ax.margins(x=0.15)
        ax.grid(axis="x", alpha=0.3)
    axes[0, 0].set_yticks(range(len(names)), names, fontsize=9)
    axes[0, 0].set_ylim(len(names) - 0.4, -0.6)
    figure.suptitle(title, fontsize=11)
    return figure


def duel_guidance(runs, metrics: dict[str, str], title: str) -> Figure:
    """Scores against guidance, a panel for each of the ``metrics``: lines join means over seeds, markers are seeds.

    Dashed with hollow markers: equal time. ``runs`` as in ``data/results/head_to_head.json``.
    """
    columns = min(len(metrics), 2)
    rows = math.ceil(len(metrics) / columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(5 * columns, 2.9 * rows + 0.7), squeeze=False, layout="constrained"
    )
    for ax, (metric, label) in zip(axes.flat, metrics.items(), strict=False):
        for (model, (name, colour, marker)), (protocol, suffix) in (
            (style, kind) for style in DUEL_STYLE.items() for kind in PROTOCOLS.items()
        ):
            mine = [run for run in runs if (run["model"], run["protocol"]) == (model, protocol)]
            if not mine:
                continue
            guidance = sorted({run["guidance"] for run in mine})
            means = [np.mean([run[metric] for run in mine if run["guidance"] == g]) for g in guidance]
            dashes, face = ("-", colour) if protocol == "images" else ("--", "white")
            ax.plot(guidance, means, color=colour, ls=dashes, lw=1.5)
            ax.scatter(
                [run["guidance"] for run in mine],
                [run[metric] for run in mine],
                s=26,
                marker=marker,
                facecolor=face,
                edgecolor=colour,
                zorder=3,
                label=name + suffix,
            )
            ax.set_xticks(guidance)
        ax.set_xlabel("guidance", fontsize=9)
        ax.set_ylabel(label, fontsize=9)
        ax.grid(alpha=0.3)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncol=3, fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=11)
    return figure
