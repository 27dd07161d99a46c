"""Figures of chapter 09: two clouds and their Gaussians, the bias of few samples, balls, damages, the trade-off."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Ellipse
from torch import Tensor

from minivar.book.plots.base import COLOURS, show_image


def gaussians_in_plane(clouds: Mapping[str, Tensor], title: str) -> Figure:
    """Features (N, F) of several sets in the plane where the first varies most, each with its Gaussian's ellipse.

    The ellipses reach to two standard deviations.
    """
    first = next(iter(clouds.values()))
    mean_F = first.mean(0)
    _, _, basis = torch.pca_lowrank(first - mean_F, q=2, center=False)
    figure, ax = plt.subplots(figsize=(7.6, 4.6), layout="constrained")
    for (name, cloud), colour in zip(clouds.items(), (COLOURS[0], COLOURS[1], COLOURS[3]), strict=False):
        flat = ((cloud - mean_F) @ basis).numpy()
        ax.scatter(*flat.T, s=7, alpha=0.35, color=colour, linewidths=0)
        values, vectors = np.linalg.eigh(np.cov(flat.T))
        angle = np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1]))
        size = 4 * np.sqrt(values[::-1])
        ax.add_patch(Ellipse(flat.mean(0), *size, angle=angle, fill=False, color=colour, lw=2, label=name))
        ax.plot(*flat.mean(0), "+", color=colour, ms=12, mew=2.5)
    ax.set(xlabel="first principal direction of the features", ylabel="second", aspect="equal")
    ax.legend(fontsize=8)
    ax.set_title(title, fontsize=11)
    return figure


def size_bias(rows: Mapping[str, Sequence[tuple[int, float, float]]], title: str) -> Figure:
    """Fréchet distance against 1 / N, (N, mean, deviation) of several draws a row; lines are fitted to the means."""
    figure, ax = plt.subplots(figsize=(7.6, 4.2), layout="constrained")
    for (name, points), colour, marker in zip(rows.items(), COLOURS, "os^D", strict=False):
        counts, means, spreads = (np.array(column, dtype=float) for column in zip(*points, strict=True))
        ax.errorbar(1 / counts, means, spreads, fmt=marker, color=colour, capsize=3, label=name)
        slope, start = np.polyfit(1 / counts, means, 1)
        line = np.array([0, 1.05 / counts.min()])
        ax.plot(line, start + slope * line, "--", color=colour, lw=1.2)
    ticks = sorted({count for points in rows.values() for count, _, _ in points})
    ax.set_xticks([1 / n for n in ticks], [f"1/{n}" for n in ticks], fontsize=8)
    ax.set(xlabel="1 / number of samples", ylabel="Fréchet distance", xlim=(0, None), ylim=(0, None))
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)
    ax.set_title(title, fontsize=11)
    return figure


def balls(real: Tensor, fake: Tensor, k: int, title: str) -> Figure:
    """Two sets of points (N, 2): on the left the balls around real ones, on the right those around generated ones."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.6), sharex=True, sharey=True, layout="constrained")
    names = ("real", "generated")
    sides = ((axes[0], real, fake, 0), (axes[1], fake, real, 1))
    for ax, manifold, points, own in sides:
        radius = torch.cdist(manifold, manifold).kthvalue(k + 1, dim=1).values
        for centre, r in zip(manifold.tolist(), radius.tolist(), strict=True):
            ax.add_patch(Circle(centre, r, color=COLOURS[(0, 1)[own]], alpha=0.13, lw=0))
        inside = (torch.cdist(points, manifold) <= radius).any(1)
        colours, other = (COLOURS[0], COLOURS[1]), names[1 - own]
        ax.scatter(*manifold.T.numpy(), s=9, color=colours[own], label=f"{names[own]}, with balls")
        mark = {"s": 26, "color": colours[1 - own], "edgecolor": "black", "lw": 0.6}
        ax.scatter(*points[inside].T.numpy(), **mark, label=f"{other}, inside")
        ax.scatter(*points[~inside].T.numpy(), s=30, marker="x", color="black", label=f"{other}, outside")
        share, name = inside.float().mean().item(), ("Precision", "Recall")[own]
        ax.set_title(f"{name} {share:.2f}: {other} points inside the balls of {names[own]} ones", fontsize=10)
        ax.set(aspect="equal")
        ax.set_xticks([])
        ax.set_yticks([])
        ax.legend(fontsize=8, loc="upper left")
    figure.suptitle(title, fontsize=11)
    return figure


def damage_table(scores: Mapping[str, Mapping[str, float]], pictures: Mapping[str, Tensor], title: str) -> Figure:
    """Sets of images by name: examples of each, and a bar for each judge on a logarithmic axis, dotted at 1."""
    names = list(scores)
    judges = list(next(iter(scores.values())))
    figure = plt.figure(figsize=(10, 0.62 * len(names) + 1.3), layout="constrained")
    grid = figure.add_gridspec(len(names), 2, width_ratios=(1, 1.6))
    for row, name in enumerate(names):
        left = figure.add_subplot(grid[row, 0])
        show_image(left, torch.cat(list(pictures[name]), dim=-1))
        left.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    right = figure.add_subplot(grid[:, 1])
    height = 0.8 / len(judges)
    for j, judge in enumerate(judges):
        values = [max(scores[name][judge], 1e-2) for name in names]
        places = np.arange(len(names)) + (j - (len(judges) - 1) / 2) * height
        bars = right.barh(places, values, height, color=COLOURS[j], label=judge)
        labels = [f"{value:.0f}" if value >= 10 else f"{value:.1f}" for value in values]
        right.bar_label(bars, labels, padding=2, fontsize=7)
    right.axvline(1, color="black", ls=":", lw=1)
    right.set(
        xscale="log",
        xlabel="Fréchet distance, over that of real digits to real digits",
        ylim=(len(names) - 0.5, -0.5),
    )
    right.set_yticks([])
    right.margins(x=0.12)
    right.legend(fontsize=8, loc="lower right")
    figure.suptitle(title, fontsize=11)
    return figure


def trade_off(
    rows: Mapping[str, Sequence[tuple[str, float, float, float]]], floor: Sequence[float], title: str
) -> Figure:
    """Lines through (name, recall, precision, Fréchet distance): precision against recall, and the distance.

    ``floor``: distances of several draws of real images, from the least to the most of which a band reaches.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.4), layout="constrained")
    for (line, points), colour, marker in zip(rows.items(), COLOURS, "os^D", strict=False):
        labels, recalls, precisions, distances = zip(*points, strict=True)
        left.plot(recalls, precisions, marker=marker, color=colour, label=line)
        for label, x, y in zip(labels, recalls, precisions, strict=True):
            left.annotate(label, (x, y), (4, 4), textcoords="offset points", fontsize=7.5, color=colour)
        right.plot(range(len(points)), distances, marker=marker, color=colour, label=line)
        for place, (label, distance) in enumerate(zip(labels, distances, strict=True)):
            right.annotate(
                label, (place, distance), (0, 6), textcoords="offset points", fontsize=7.5, color=colour, ha="center"
            )
    left.set(
        xlabel="recall: share of real digits among the samples",
        ylabel="precision: share of samples among real digits",
    )
    left.set_title("Variety against likeness", fontsize=10)
    right.axhspan(min(floor), max(floor), color="0.85", zorder=0, label="real training digits, several draws")
    right.set(ylabel="Fréchet distance", ylim=(0, None), xlabel="from off (left) to strong (right)")
    right.set_xticks([])
    right.set_title("One number for both", fontsize=10)
    for ax in (left, right):
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8)
    figure.suptitle(title, fontsize=11)
    return figure
