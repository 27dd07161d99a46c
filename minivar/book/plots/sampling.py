"""Sampling: what a cache holds, guidance as a line, filters, and where the time goes."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import LogLocator, NullFormatter
from torch import Tensor

from minivar.book.plots.base import COLOURS, scale_colour

READ, EMPTY = "#BFD7E8", "#F2F2F2"
WITHOUT_SCALE = {"class and AdaLN": "once:\nclass", "decoder": "once:\ndecoder"}  # parts that are done once an image


def cache_reads(schedule, title: str) -> Figure:
    """Which tokens run through the network at each step, with a cache and without, and what is read of the cache."""
    total, steps = schedule.num_tokens, schedule.num_scales
    figure, axes = plt.subplots(2, 1, figsize=(9.6, 0.42 * steps * 2 + 2.2), sharex=True, layout="constrained")
    for ax, cached in zip(axes, (True, False), strict=True):
        run = 0
        for k, (begin, end) in enumerate(schedule.bounds):
            for i in range(total):
                computed = begin <= i < end or (not cached and i < end)
                colour = scale_colour(k) if begin <= i < end else (READ if i < end else EMPTY)
                again = not cached and i < begin
                face = {"facecolor": "white" if again else colour, "edgecolor": "0.55" if again else "white"}
                ax.add_patch(Rectangle((i, k - 0.42), 1, 0.84, hatch="////" if again else None, lw=0.8, **face))
                run += computed
            words = f"appends {end - begin}, reads {end}" if cached else f"computes {end}, of these {end - begin} new"
            ax.text(total + 0.6, k, words, va="center", fontsize=9)
        ax.set(xlim=(0, total + 0.32 * total), ylim=(steps - 0.4, -0.6), yticks=range(steps))
        ax.set_yticklabels([f"scale {k + 1}" for k in range(steps)])
        name = "With a cache" if cached else "Without one"
        ax.set_title(f"{name}: {run} tokens pass through the blocks", fontsize=10)
        ax.spines[["top", "right"]].set_visible(False)
    axes[1].set_xlabel("position in the sequence")
    axes[1].set_xticks([begin for begin, _ in schedule.bounds] + [total])
    legend = {
        "new: keys and values are computed": {"facecolor": scale_colour(0)},
        "read from the cache": {"facecolor": READ},
        "computed again": {"facecolor": "white", "edgecolor": "0.55", "hatch": "////"},
        "not there yet": {"facecolor": EMPTY},
    }
    handles = [Patch(label=label, **style) for label, style in legend.items()]
    figure.legend(handles=handles, loc="outside lower center", ncol=4, fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=11)
    return figure


def _corner(p: np.ndarray) -> np.ndarray:
    """Probabilities of three codes (..., 3) -> points of a triangle with corners A, B (below) and C (above)."""
    return p @ np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 3**0.5 / 2]])


def _softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def guidance_line(p_null: Tensor, p_class: Tensor, strengths: list[float], title: str) -> Figure:
    """Three codes: guidance as a line of logits, and as the curve that this line is among probabilities."""
    null, klass = (p.double().log().numpy() for p in (p_null, p_class))
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
    fine = np.linspace(-1, max(strengths) * 1.15, 200)
    logits = klass + fine[:, None] * (klass - null)
    chosen = klass + np.array(strengths)[:, None] * (klass - null)
    # Only differences of logits matter: two of three codes' against the third are the plane to draw in.
    planes = ((left, lambda x: x[..., :2] - x[..., 2:], (9, 4)), (right, lambda x: _corner(_softmax(x)), (-14, -16)))
    for ax, place, offset in planes:
        ax.plot(*place(logits).T, color=COLOURS[0], lw=2)
        ax.plot(*place(null), "s", color=COLOURS[5], ms=9, label="null class")
        ax.plot(*place(klass), "o", color=COLOURS[2], ms=9, label="with the class, t = 0")
        others = [t for t in strengths if t > 0]
        ax.plot(*place(chosen[len(strengths) - len(others) :]).T, "D", color=COLOURS[0], ms=7, label="guided")
        for t, point in zip(strengths, place(chosen), strict=True):
            if t > 0:
                ax.annotate(f"t = {t:g}", point, xytext=offset, textcoords="offset points", fontsize=9)
    left.set(xlabel="logit of A minus logit of C", ylabel="logit of B minus logit of C")
    left.set_title("In logits: a straight line, equal steps", fontsize=10)
    left.grid(alpha=0.3)
    left.legend(fontsize=8)
    corners = _corner(np.eye(3))
    right.plot(*np.vstack([corners, corners[:1]]).T, color="black", lw=1)
    for name, corner, offset in zip("ABC", corners, ((0, -14), (0, -14), (0, 7)), strict=True):
        right.annotate(f"only {name}", corner, xytext=offset, textcoords="offset points", fontsize=9, ha="center")
    mixed = _corner(np.exp(klass) + np.array([[0.0], [1.6]]) * (np.exp(klass) - np.exp(null)))
    right.plot(*mixed.T, color=COLOURS[3], ls="--", lw=1.5, label="probabilities extrapolated")
    right.set_title("In probabilities: a curve that stays in the triangle", fontsize=10)
    right.set(aspect="equal", xlim=(-0.1, 1.4), ylim=(-0.12, 0.98))
    right.axis("off")
    right.legend(fontsize=8, loc="upper right")
    figure.suptitle(title, fontsize=11)
    return figure


def guidance_frames(p_null: Tensor, frames: dict[float, Tensor], title: str, shown: int = 40) -> Figure:
    """One position's codes under growing guidance: a frame for each strength, codes in the order of the first frame.

    ``frames``: strength -> probabilities (V,), the first without guidance; ``p_null`` are those of the null class.
    """
    first = next(iter(frames.values()))
    order = first.argsort(descending=True)
    favoured = (first > p_null)[order]
    colours = [COLOURS[2] if yes else COLOURS[1] for yes in favoured[:shown].tolist()]
    size = (9.4, 1.35 * len(frames) + 1.1)
    figure, axes = plt.subplots(len(frames), 1, figsize=size, sharex=True, layout="constrained")
    for ax, (t, p) in zip(axes, frames.items(), strict=True):
        sizes = p[order].tolist()
        ax.bar(range(1, shown + 1), sizes[:shown], color=colours, width=0.8)
        best = max(range(len(sizes)), key=sizes.__getitem__)
        effective = float((-(p * p.clamp_min(1e-30).log()).sum()).exp())
        words = f"t = {t:g}: the code of rank {best + 1} leads; {effective:.1f} effective codes"
        ax.text(0.99, 0.86, words, transform=ax.transAxes, ha="right", va="top", fontsize=9)
        if best < shown:
            ax.plot(best + 1, sizes[best] * 1.09, "v", color="black", ms=5)
        ax.set(ylim=(0, max(sizes) * 1.22), xlim=(0.3, shown + 0.7), ylabel="probability")
        ax.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("rank of the code before guidance")
    handles = [Patch(color=COLOURS[2], label="likelier with the class than without")]
    handles += [Patch(color=COLOURS[1], label="likelier without the class")]
    figure.legend(handles=handles, loc="outside lower center", ncol=2, fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=11)
    return figure


def filter_orders(probabilities: Tensor, top_k: int, top_p: float, title: str, shown: int = 40) -> Figure:
    """One position's codes (V,), the likeliest first: which are kept if top-k comes first, which if top-p does."""
    p = probabilities.sort(descending=True).values.double()
    before = p.cumsum(0) - p  # the mass of better codes
    of_k = float(p[:top_k].sum())
    first = int((before[:top_k] < top_p * of_k).sum())  # kept if top-p is a share of what top-k leaves
    second = int((before[:top_k] < top_p).sum())  # and if it is a share of everything
    figure, ax = plt.subplots(figsize=(9.4, 3.6), layout="constrained")
    rank = np.arange(1, shown + 1)
    colours = [COLOURS[0] if i <= first else COLOURS[1] if i <= second else "0.75" for i in rank]
    ax.bar(rank, p[:shown].numpy(), color=colours)
    ax.set(xlabel="rank of the code", ylabel="probability", xlim=(0.3, shown + 0.7))
    mass = ax.twinx()
    mass.plot(rank, p.cumsum(0)[:shown].numpy(), color="black", lw=1.2)
    mass.set(ylim=(0, 1.04), ylabel="mass of the best codes (line)")
    for height, colour, words in (
        (top_p * of_k, COLOURS[0], f"{top_p:g} x {of_k:.2f}"),
        (top_p, COLOURS[1], f"{top_p:g}"),
    ):
        mass.axhline(height, color=colour, lw=1.2, ls="--")
        mass.text(shown + 0.5, height + 0.015, words, fontsize=9, ha="right")
    ax.axvline(top_k + 0.5, color="black", lw=1, ls=":")
    ax.text(top_k + 0.7, float(p[0]) * 0.6, f"top-k = {top_k}", fontsize=9)
    handles = [Patch(color=COLOURS[0], label=f"kept in either order ({first} codes)")]
    handles += [Patch(color=COLOURS[1], label=f"kept only where top-p comes first ({second - first})")]
    handles += [Patch(color="0.75", label="dropped in either order")]
    ax.legend(handles=handles, fontsize=8, loc="center right", bbox_to_anchor=(1, 0.4))
    ax.set_title(title, fontsize=11)
    return figure


def mixtures(weights: dict[str, Tensor], title: str, shown: int = 4) -> Figure:
    """Weights of mixtures of codes, a panel a scale: name -> (N, V); each bar is a mixture, a piece of it a code.

    The ``shown`` largest weights have colours of their own, the others are grey.
    """
    figure, axes = plt.subplots(1, len(weights), figsize=(9.6, 3.0), sharey=True, layout="constrained")
    for ax, (name, each) in zip(axes, weights.items(), strict=True):
        largest = each.sort(dim=-1, descending=True).values
        pieces = [*largest[:, :shown].T.tolist(), largest[:, shown:].sum(-1).tolist()]
        colours = [COLOURS[i] for i in (0, 1, 2, 3, 5, 6)[:shown]] + ["0.75"]
        bottom = np.zeros(len(each))
        for piece, colour in zip(pieces, colours, strict=True):
            ax.bar(range(1, len(each) + 1), piece, bottom=bottom, color=colour, width=0.85)
            bottom += np.array(piece)
        ax.set(title=name, xlabel="mixture", ylim=(0, 1))
        ax.title.set_size(10)
    axes[0].set_ylabel("weights")
    names = ["largest weight", "second", "third", "fourth", "fifth", "sixth"][:shown] + ["all others"]
    handles = [Patch(color=colour, label=label) for colour, label in zip(colours, names, strict=True)]
    figure.legend(handles=handles, loc="outside lower center", ncol=len(handles), fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=11)
    return figure


def time_bars(panels: dict[str, dict[tuple[str, int], float]], parts: tuple[str, ...], title: str) -> Figure:
    """Milliseconds of each scale, stacked by part; ``panels``: name -> {(part, k): seconds} of one call.

    The class and the decoder, which are done once an image, have bars of their own.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(5 * len(panels), 4.0), squeeze=False, layout="constrained")
    colours = dict(
        zip(parts, (COLOURS[3], COLOURS[6], COLOURS[0], COLOURS[1], COLOURS[2], COLOURS[5], COLOURS[4], "0.5"))
    )
    for ax, (name, seconds) in zip(axes[0], panels.items(), strict=True):
        scales = sorted({k for _, k in seconds})
        first, last = WITHOUT_SCALE.values()
        bars = [first, *[f"scale {k + 1}" for k in scales], last]
        bottom = dict.fromkeys(bars, 0.0)
        for part in parts:
            for k in scales:
                bar = WITHOUT_SCALE.get(part, f"scale {k + 1}")
                height = 1e3 * seconds.get((part, k), 0.0)
                ax.bar(bar, height, bottom=bottom[bar], color=colours[part], width=0.75)
                bottom[bar] += height
        ax.set_xticks(range(len(bars)), bars, fontsize=8)
        ax.set_ylabel("milliseconds")
        ax.set_title(f"{name}: {sum(bottom.values()):.1f} ms", fontsize=10)
        ax.grid(axis="y", alpha=0.3)
        ax.set_axisbelow(True)
    handles = [Patch(color=colours[part], label=part) for part in parts]
    figure.legend(handles=handles, loc="outside lower center", ncol=4, fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=11)
    return figure


def roofline(
    series: dict[str, tuple[list[float], list[float]]], names: list[str], peak: float, bandwidth: float, title
):
    """GFLOP/s against FLOPs per byte under the roof min(peak, intensity * bandwidth), all in units of 10^9 a second.

    ``series``: name -> (intensities, GFLOP/s), a point for each of ``names``.
    """
    figure, ax = plt.subplots(figsize=(8.6, 4.6), layout="constrained")
    intensities = [x for xs, _ in series.values() for x in xs]
    x = np.geomspace(min(intensities) / 1.6, max(intensities) * 1.6, 200)
    ax.plot(x, np.minimum(peak, x * bandwidth), color="black", lw=1.8, label="roof")
    ridge = peak / bandwidth
    ax.axvline(ridge, color="0.5", lw=1, ls=":")
    styles = ((COLOURS[1], "o"), (COLOURS[0], "^"), (COLOURS[2], "s"))
    for (name, (xs, ys)), (colour, marker) in zip(series.items(), styles, strict=False):
        ax.plot(xs, ys, color=colour, marker=marker, ms=7, lw=1, label=name)
    lowest = [min(ys[i] for _, ys in series.values()) for i in range(len(names))]
    for name, at, y in zip(names, next(iter(series.values()))[0], lowest, strict=True):
        ax.annotate(name, (at, y), xytext=(0, -15), textcoords="offset points", ha="center", fontsize=8)
    ax.set(xscale="log", yscale="log", xlabel="arithmetic intensity: FLOPs per byte read and written")
    ax.set_ylabel("GFLOP/s")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    low, high = ax.get_ylim()
    low /= 1.3  # room for the names of the lowest points
    ax.set_ylim(low, max(high, 2 * peak))
    ax.text(ridge / 1.08, low * 1.15, "waits for memory", ha="right", fontsize=9)
    ax.text(ridge * 1.08, low * 1.15, "waits for arithmetic", ha="left", fontsize=9)
    ax.grid(alpha=0.3, which="both")
    ax.legend(fontsize=8, loc="lower right", bbox_to_anchor=(1, 0.1))
    figure.suptitle(title, fontsize=11)
    return figure
