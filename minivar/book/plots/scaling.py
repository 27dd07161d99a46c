"""Figures of chapter 11: losses over parameters and over compute, the frontier, and what the rungs draw."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from minivar.analysis.scaling import PowerLaw
from minivar.book.plots.base import COLOURS, scale_colour

RUNGS = plt.get_cmap("viridis")  # the rungs of a ladder are an order, not identities


def rung_colour(place: int, count: int):
    """From dark (the smallest) to light."""
    return RUNGS(0.9 * place / max(1, count - 1))


def power_laws(
    panels: Mapping[str, tuple[Sequence[float], Sequence[Sequence[float]], Sequence[PowerLaw]]],
    title: str,
    xlabel: str = "parameters N",
) -> Figure:
    """A panel each: x (M,), the runs at each x, and laws that are drawn through them: solid, dashed, dotted.

    Both axes are logarithmic. A law is told as floor + factor x^exponent: with exponents this small the beta of
    (beta x)^alpha is a number like 1e-25.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(5.2 * len(panels), 4), squeeze=False, layout="constrained")
    for ax, (name, (x, runs, laws)) in zip(axes[0], panels.items(), strict=True):
        for place, values in zip(x, runs, strict=True):
            ax.plot([place] * len(values), values, "o", ms=5, color=COLOURS[0], alpha=0.8)
        line = np.geomspace(min(x) / 1.3, max(x) * 1.3, 100)
        for law, style, colour in zip(laws, ("-", "--", ":"), (COLOURS[5], COLOURS[2], COLOURS[3]), strict=False):
            floor = f"{law.floor:.2f} + " if law.floor else ""
            factor = float(law(1.0)) - law.floor
            label = f"{floor}{factor:.3g} $x^{{{law.alpha:.3g}}}$, r = {law.pearson:.4f}"
            ax.plot(line, law(line), style, color=colour, lw=1.6, label=label)
        ax.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=name)
        ax.yaxis.set_major_formatter("{x:.2f}")
        ax.yaxis.set_minor_formatter("{x:.2f}")
        ax.tick_params(axis="y", which="both", labelsize=8)
        ax.grid(alpha=0.3, which="both")
        ax.legend(fontsize=8)
    figure.suptitle(title, fontsize=11)
    return figure


def loss_over_compute(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    frontier: np.ndarray | None,
    title: str,
    ylabel: str,
) -> Figure:
    """Every rung's loss while it learned, (compute, loss), from dark to light, and above all the frontier."""
    figure, ax = plt.subplots(figsize=(8, 4.6), layout="constrained")
    for place, (name, (compute, losses)) in enumerate(curves.items()):
        ax.plot(compute, losses, color=rung_colour(place, len(curves)), lw=1.4, label=name)
    if frontier is not None:
        ax.plot(frontier[:, 0], frontier[:, 1], color="black", lw=2.4, alpha=0.75, label="the best for a budget")
    ax.set(xscale="log", yscale="log", xlabel="compute of training C, FLOPs", ylabel=ylabel)
    ax.yaxis.set_major_formatter("{x:.1f}")
    ax.yaxis.set_minor_formatter("{x:.1f}")
    ax.grid(alpha=0.3, which="both")
    ax.legend(fontsize=8, ncols=2)
    ax.set_title(title, fontsize=11)
    return figure


def seen_and_heldout(names: Sequence[str], seen: Sequence[float], heldout: Sequence[float], title: str) -> Figure:
    """Two losses of every rung, of images that it was trained on once and of held-out ones, and their difference."""
    figure, (ax, gap) = plt.subplots(
        1, 2, figsize=(10.4, 3.6), layout="constrained", gridspec_kw={"width_ratios": (3, 2)}
    )
    places = np.arange(len(names))
    ax.plot(places, seen, "s-", color=COLOURS[1], label="training images, each seen once")
    ax.plot(places, heldout, "o--", color=COLOURS[0], label="held-out images of digits never seen")
    ax.set(ylabel="loss, nats a token")
    ax.legend(fontsize=8)
    gains = -np.diff(heldout, prepend=np.nan)  # the first rung has none below it
    gap.plot(places, np.asarray(heldout) - np.asarray(seen), "D-", color=COLOURS[5], label="held-out less seen")
    gap.plot(places, gains, "o:", color=COLOURS[0], label="gain over the rung below")
    gap.axhline(0, color="0.4", lw=0.8)
    gap.set(ylabel="nats a token")
    gap.legend(fontsize=8)
    for each in (ax, gap):
        each.set_xticks(places, names, fontsize=8)
        each.set_xlabel("parameters")
        each.grid(alpha=0.3)
    figure.suptitle(title, fontsize=11)
    return figure


def losses_by_scale(sizes: Sequence[float], losses: np.ndarray, entropies: Sequence[float], title: str) -> Figure:
    """The loss of every scale over parameters and, dotted, the entropy of the frequencies of its codes.

    ``losses`` (M, K) of M sizes, ``entropies`` (K,); a colour a scale, as in all figures.
    """
    figure, ax = plt.subplots(figsize=(9.6, 4), layout="constrained")
    for k, (row, entropy) in enumerate(zip(np.asarray(losses).T, entropies, strict=True)):
        ax.plot(sizes, row, "o-", ms=4, color=scale_colour(k), label=f"scale {k + 1}")
        ax.axhline(entropy, color=scale_colour(k), lw=1.4, ls=":")
    ax.plot([], [], ":", color="0.3", label="entropy of the codes' frequencies")
    ax.set(xscale="log", xlabel="parameters N", ylabel="loss, nats a token")
    ax.grid(alpha=0.3, which="both")
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))  # beside it: the dotted lines are everywhere
    ax.set_title(title, fontsize=11)
    return figure


def rung_pictures(rows: Mapping[str, np.ndarray], title: str) -> Figure:
    """A row of pictures uint8 (N, 28, 28) for every name, the same seeds below each other."""
    count = max(len(row) for row in rows.values())
    figure, axes = plt.subplots(
        len(rows), count, figsize=(0.9 * count + 1.2, 0.92 * len(rows) + 0.4), squeeze=False, layout="constrained"
    )
    for line, (name, row) in zip(axes, rows.items(), strict=True):
        for ax, image in zip(line, row, strict=True):
            ax.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            ax.set_xticks([])
            ax.set_yticks([])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8.5)
    figure.suptitle(title, fontsize=11)
    return figure
