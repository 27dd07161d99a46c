"""Figures of chapters 08a and 12: the sides of the head-to-head, the published field, ladders of ablations."""

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from minivar.book.plots.base import COLOURS
from minivar.book.rivals import NAMES, Run, mean_interval
from minivar.evaluation.published import Result

KINDS = {  # of what is published: colour and marker
    "GAN": ("0.55", "v"),
    "diffusion": (COLOURS[2], "D"),
    "masked": (COLOURS[4], "P"),
    "raster": (COLOURS[1], "s"),
    "next scale": (COLOURS[0], "^"),
}
SIDES = {  # of what is measured here: a colour for what orders the tokens, a marker for the side
    "var": (COLOURS[0], "^"),
    "var-prefix": (COLOURS[0], "v"),
    "raster": (COLOURS[1], "s"),
    "raster-prefix": (COLOURS[1], "D"),
    "llamagen": (COLOURS[1], "P"),
    "gpt2": (COLOURS[1], "o"),
    "maskgit": (COLOURS[4], "X"),
    "dit": (COLOURS[2], "h"),
    "dit-pixels": (COLOURS[2], "p"),
}
NO_SIDE = ("0.3", "o")


def published_field(results: Sequence[Result], title: str) -> Figure:
    """FID over the time for an image, both logarithmic; who published no time stands at the right edge."""
    figure, ax = plt.subplots(figsize=(9, 5.2), layout="constrained")
    edge = 3 * max(result.time for result in results if result.time)
    for kind, (colour, marker) in KINDS.items():
        of_kind = [result for result in results if result.kind == kind]
        x = [result.time or edge for result in of_kind]
        ax.scatter(x, [result.fid for result in of_kind], s=45, color=colour, marker=marker, label=kind, zorder=3)
        for place, result in zip(x, of_kind, strict=True):
            size = "" if result.millions is None else f" {result.millions / 1000:.1f}B"
            text = f"{result.name}{size if result.kind in ('raster', 'next scale') else ''}"
            left = place == edge or kind == "raster"
            ax.annotate(
                text,
                (place, result.fid),
                xytext=(-6 if left else 6, -8 if kind == "GAN" else 2),
                textcoords="offset points",
                ha="right" if left else "left",
                fontsize=7,
            )
    ax.axvline(edge / 1.6, color="0.7", lw=0.8, ls=":")
    ax.set(xscale="log", yscale="log", xlabel="time for an image, VAR-d30: 1 (right of the line: not published)")
    ax.set_ylabel("FID, lower is better")
    ax.set_yticks([2, 3, 5, 10, 20, 30], [2, 3, 5, 10, 20, 30])
    ax.set_xticks([0.3, 1, 3, 10, 30, 100], [0.3, 1, 3, 10, 30, 100])
    ax.minorticks_off()
    ax.grid(alpha=0.25)
    ax.legend(fontsize=8, loc="upper left")
    ax.set_title(title, fontsize=11)
    return figure


def fid_by_size(families: Mapping[str, Sequence[Result]], title: str, floor: tuple[str, float]) -> Figure:
    """FID over the number of parameters, a line a family, and a dashed line at ``floor``, (name, FID)."""
    figure, ax = plt.subplots(figsize=(7.6, 4), layout="constrained")
    for family, results in families.items():
        colour, marker = KINDS[results[0].kind]
        x, y = [result.millions for result in results], [result.fid for result in results]
        ax.plot(x, y, color=colour, marker=marker, ms=6, label=family)
        for result in results:
            name, place = result.name.split("-", 1)[1], (result.millions, result.fid)
            shift = (-8, -9) if results[0].kind == "next scale" else (4, 6)
            style = {"ha": "left" if shift[0] > 0 else "right", "fontsize": 8.5}
            style["bbox"] = {"fc": "white", "ec": "none", "pad": 0.3, "alpha": 0.8}
            ax.annotate(name, place, shift, textcoords="offset points", **style)
    ax.margins(y=0.12)
    ax.axhline(floor[1], color="black", lw=1, ls="--", label=floor[0])
    ax.set(xscale="log", xlabel="parameters (millions)", ylabel="FID, lower is better", ylim=(0, None))
    ax.set_xticks([100, 300, 1000, 3000], ["100", "300", "1,000", "3,000"])
    ax.minorticks_off()
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8.5)
    ax.set_title(title, fontsize=11)
    return figure


def side_points(
    rows: Mapping[str, Sequence[Run]],
    columns: Mapping[str, Callable[[Run], float]],
    title: str,
    log: Sequence[str] = (),
) -> Figure:
    """A row for each side, a panel for each number: a marker a seed, and a bar over the interval of the mean.

    The panels whose names are in ``log`` have a logarithmic axis.
    """
    figure, axes = plt.subplots(
        1, len(columns), figsize=(11, 0.42 * len(rows) + 1.4), sharey=True, squeeze=False, layout="constrained"
    )
    for ax, (label, read) in zip(axes[0], columns.items(), strict=True):
        for y, (side, runs) in enumerate(rows.items()):
            colour, marker = SIDES.get(side, NO_SIDE)
            values = [read(run) for run in runs]
            mean, low, high = mean_interval(values)
            ax.plot((low, high), (y, y), color=colour, lw=5, alpha=0.3, solid_capstyle="butt")
            ax.plot(2 * [mean], (y - 0.3, y + 0.3), color=colour, lw=2)
            ax.scatter(
                values, np.linspace(y - 0.18, y + 0.18, len(values)), s=20, marker=marker, color=colour, zorder=3
            )
        ax.set_xscale("log" if label in log else "linear")
        ax.set_xlabel(label, fontsize=9)
        ax.tick_params(axis="x", labelsize=8)
        ax.margins(x=0.12)
        ax.grid(axis="x", alpha=0.3)
    axes[0, 0].set_yticks(range(len(rows)), [NAMES.get(side, side) for side in rows], fontsize=9)
    axes[0, 0].set_ylim(len(rows) - 0.4, -0.6)
    figure.suptitle(title, fontsize=11)
    return figure


def rungs(
    published: Mapping[str, float], measured: Mapping[str, Sequence[float]], labels: tuple[str, str], title: str
) -> Figure:
    """The paper's ladder of ablations beside the same in miniature, each on an axis of its own; lines: intervals."""
    figure, axes = plt.subplots(
        1, 2, figsize=(10.5, 0.4 * max(len(published), len(measured)) + 1.4), layout="constrained"
    )
    for ax, names in zip(axes, (published, measured), strict=True):
        ax.set_yticks(range(len(names)), names, fontsize=9)
        ax.set_ylim(len(names) - 0.4, -0.6)
        ax.grid(axis="x", alpha=0.3)
    for y, fid in enumerate(published.values()):
        axes[0].barh(y, fid, color=COLOURS[4], height=0.6)
        axes[0].text(fid, y, f" {fid:.2f}", va="center", fontsize=8)
    for y, values in enumerate(measured.values()):
        mean, low, high = mean_interval(values)
        axes[1].barh(y, mean, color=COLOURS[0], height=0.6, alpha=0.8)
        axes[1].plot((low, high), (y, y), color="black", lw=1.5)
        axes[1].plot(values, [y] * len(values), "o", ms=4, color="black", mfc="white")
    for ax, label in zip(axes, labels, strict=True):
        ax.set_xlabel(label, fontsize=9)
        ax.margins(x=0.14)
    figure.suptitle(title, fontsize=11)
    return figure


def precision_and_recall(frontiers: Mapping[str, Sequence[Mapping]], judge: str, title: str) -> Figure:
    """What each side can choose by guidance and nucleus: recall over precision, joined where no other is better."""
    figure, ax = plt.subplots(figsize=(7.6, 5), layout="constrained")
    for side, settings in frontiers.items():
        colour, marker = SIDES[side]
        points = np.array([[s["judges"][judge][key] for key in ("precision", "recall")] for s in settings])
        best = [p for p in points if not ((points >= p).all(1) & (points > p).any(1)).any()]
        edge = np.array(sorted(best, key=lambda p: p[0]))
        ax.scatter(*points.T, s=14, marker=marker, color=colour, alpha=0.35)
        ax.plot(
            *edge.T, marker=marker, ms=6, color=colour, lw=1.4, ls="-" if side == "var" else "--", label=NAMES[side]
        )
    ax.set(xlabel=f"precision ({judge})", ylabel=f"recall ({judge})")
    return _finished(figure, ax, title)


def learning_by_minute(rows: Mapping[str, Sequence[Run]], title: str, ylabel: str) -> Figure:
    """Held-out losses of seed 0 of several sides over the minutes of one core that they had by then."""
    figure, ax = plt.subplots(figsize=(7.6, 4.2), layout="constrained")
    for side, runs in rows.items():
        colour, marker = SIDES[side]
        steps, losses = np.array(runs[0]["validation"]).T
        minutes = steps / steps[-1] * runs[0]["minutes"]
        style = "-" if side in ("var", "raster") else "--"
        ax.plot(minutes, losses, style, marker=marker, ms=5, color=colour, label=NAMES[side])
    ax.set(xlabel="minutes of one core", ylabel=ylabel)
    return _finished(figure, ax, title)


def _finished(figure: Figure, ax, title: str) -> Figure:
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)
    ax.set_title(title, fontsize=11)
    return figure
