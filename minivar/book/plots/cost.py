"""What images cost: power laws on log-log axes, and the costs of all orders at one size."""

import dataclasses
import functools
import math

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from minivar import presets
from minivar.analysis import complexity
from minivar.book.plots.base import COLOURS

# Colour and marker of each order of ``complexity.ORDERS``, the same in every figure.
ORDER_STYLE = {
    "raster": (COLOURS[5], "o"),
    "raster-cached": (COLOURS[1], "s"),
    "next-scale": (COLOURS[0], "^"),
    "next-scale-cached": (COLOURS[2], "D"),
}
OTHER_STYLES = ((COLOURS[3], "v"), (COLOURS[4], "P"), (COLOURS[7], "X"))  # yellow is faint on white


def _styled(names) -> dict[str, tuple[str, str, str]]:
    """Name -> (label, colour, marker). Names are keys or values of ``ORDERS``; any other gets a style of its own."""
    keys = {label: key for key, label in complexity.ORDERS.items()}
    others = iter(OTHER_STYLES * len(names))
    styles = {name: ORDER_STYLE.get(keys.get(name, name)) or next(others) for name in names}
    return {name: (complexity.ORDERS.get(name, name), *style) for name, style in styles.items()}


def cost_curves(panels, title: str) -> Figure:
    """Costs against n, log-log; each panel is (title, y label, {series: (sides, costs, fit)}).

    A series is named by a key of ``complexity.ORDERS`` or freely. ``fit`` comes from ``complexity.fit_exponent``: its
    power law is dashed, its exponent and standard error are in the legend. With ``None`` the points are joined.
    """
    figure, axes = plt.subplots(
        1, len(panels), figsize=(min(4.6 * len(panels), 11.5), 4.6), squeeze=False, layout="constrained"
    )
    styles = _styled(list(dict.fromkeys(name for _, _, series in panels for name in series)))
    for ax, (name, y_label, series) in zip(axes[0], panels, strict=True):
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ticks = sorted({side for sides, _, _ in series.values() for side in sides})
        for key, (sides, costs, fit) in series.items():
            costs = np.asarray(costs, dtype=float)  # counts may exceed 64 bits
            label, colour, marker = styles[key]
            if fit:
                label += f": {fit['exponent']:.2f} ± {fit['error']:.2f}"
                # the line of least squares passes through the mean of the logarithms
                x, y = np.log(sides), np.log(costs)
                line_x = np.log([ticks[0] / 1.15, ticks[-1] * 1.15])
                line_y = y.mean() + fit["exponent"] * (line_x - x.mean())
                ax.plot(np.exp(line_x), np.exp(line_y), color=colour, ls="--", lw=1.2)
            ax.plot(sides, costs, color=colour, marker=marker, ms=7, lw=0 if fit else 1.2, label=label)
        ax.set_xticks(ticks, [str(side) for side in ticks])
        ax.minorticks_off()
        ax.set(xlabel="n: side of the token grid", ylabel=y_label)
        ax.set_title(name, fontsize=10)
        ax.grid(alpha=0.3)
        fits = [fit for _, _, fit in series.values()]
        ax.legend(
            title="exponent ± standard error" if any(fits) else None,
            fontsize=8,
            title_fontsize=8,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.15),
            frameon=False,
        )
    figure.suptitle(title, fontsize=11)
    return figure


PUBLISHED_SIZE = {"raster": "llamagen-l-256", "next-scale": "var-d16"}  # both of width 1024 and 0.3 G parameters


@functools.cache
def order_costs(order: str, n: int) -> dict[str, float]:
    """What one n x n image costs in an order of ``complexity.ORDERS``, in closed form, for one sequence.

    ``steps``; ``pairs`` of query and key; FLOPs of the ``small`` models of ``complexity`` and of the ``published``
    LlamaGen-L or VAR-d16; ``cache``: bytes of the latter's cache in bfloat16. n must be a power of two.
    """
    with torch.device("meta"):
        _, small, steps = complexity.sampling(order, n)
    large = presets.get(PUBLISHED_SIZE[order.removesuffix("-cached")]).model
    change = {"grid": (n, n)} if order.startswith("raster") else {"schedule": complexity.doubling(n)}
    large = dataclasses.replace(large, **change)
    return {
        "steps": len(steps),
        "pairs": sum(s.queries * s.keys for s in steps),
        "small": complexity.model_flops(steps, small),
        "published": complexity.model_flops(steps, large),
        "cache": complexity.cache_bytes(steps, large) if order.endswith("cached") else 0,
    }


def _short(value: float) -> str:
    """1234567 -> 1.2M."""
    if value == 0:
        return "none"
    power = min(int(math.log10(value)) // 3, 6)
    number = value / 1000**power
    return f"{number:.1f}{' kMGTPE'[power]}" if power else f"{number:g}"


def cost_bars(n: int, limits: tuple[int, int] = (2, 64)) -> Figure:
    """Steps, attention pairs, FLOPs and cache of one n x n image in every order, on axes that fit both ``limits``."""
    panels = {
        "steps": "sequential steps",
        "pairs": "attention: pairs\nof query and key",
        "small": "FLOPs, small model\n(width 64, 2 layers)",
        "published": "FLOPs, published size\n(LlamaGen-L, VAR-d16)",
        "cache": "bytes of KV cache,\npublished size, bf16",
    }
    costs, *ends = ([order_costs(order, side) for order in ORDER_STYLE] for side in (n, *limits))
    figure, axes = plt.subplots(1, len(panels), figsize=(11.5, 2.7), sharey=True, layout="constrained")
    for ax, (what, name) in zip(axes, panels.items(), strict=True):
        values = [row[what] for row in costs]
        lowest, highest = (f(row[what] for rows in ends for row in rows if row[what]) for f in (min, max))
        # room for the numbers to the right of the longest bar
        left, right = lowest / 3, highest * (3 * highest / lowest) ** 0.5
        for i, (value, (colour, _)) in enumerate(zip(values, ORDER_STYLE.values(), strict=True)):
            ax.barh(i, max(value - left, 0), left=left, color=colour)
            ax.text(max(value, left) * (right / left) ** 0.02, i, _short(value), va="center", fontsize=9)
        ax.set_xscale("log")
        ax.set(xlim=(left, right))
        ax.set_title(name, fontsize=9)
        ax.tick_params(axis="x", labelsize=7)
        ax.grid(axis="x", alpha=0.3)
        ax.set_axisbelow(True)
    axes[0].set_yticks(range(len(ORDER_STYLE)), list(complexity.ORDERS.values()), fontsize=9)
    axes[0].invert_yaxis()
    scales = ", ".join(str(height) for height, _ in complexity.doubling(n).grids)
    figure.suptitle(f"What one image of {n} x {n} tokens costs (next-scale: grids of side {scales})", fontsize=11)
    return figure


def cost_lines(panels, title: str, log: bool | str = False) -> Figure:
    """Curves side by side; each panel is (title, x label, y label, x, {series: y}, reference), styled by order.

    Series are named as in ``cost_curves``; ``reference``, (name, y), is a horizontal dashed line, None for none.
    Linear axes share their y; ``log`` makes both logarithmic, "x" the horizontal ones, each panel with its own y.
    """
    size = (min(4.8 * len(panels), 11.5), 4.2)
    figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False, sharey=not log, layout="constrained")
    for ax, (name, x_label, y_label, x, series, reference) in zip(axes[0], panels, strict=True):
        for key, (label, colour, marker) in _styled(list(series)).items():
            ax.plot(x, series[key], color=colour, marker=marker, ms=6, markevery=max(len(x) // 12, 1), label=label)
        if reference:
            ax.axhline(reference[1], color="black", lw=1, ls="--", label=reference[0])
        if log:
            ax.set_xscale("log", base=2)
            ax.xaxis.set_major_formatter("{x:g}")
            ax.set_yscale("linear" if log == "x" else "log")
        ax.set(xlabel=x_label, ylabel=y_label)
        ax.set_title(name, fontsize=10)
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.17), frameon=False)
    figure.suptitle(title, fontsize=11)
    return figure


def pair_counts(panels: dict[str, np.ndarray], title: str) -> Figure:
    """How often each pair (query, key) is computed for one image: integer matrices (N, N), one panel each.

    Hatched pairs have the key after the query: the causal mask throws them away.
    """
    highest = max(counts.max() for counts in panels.values())
    figure, axes = plt.subplots(1, len(panels), figsize=(4.2 * len(panels), 4.4), squeeze=False, layout="constrained")
    for ax, (name, counts) in zip(axes[0], panels.items(), strict=True):
        ax.imshow(np.where(counts, counts, np.nan), cmap="cividis", vmin=0, vmax=highest)  # never: white
        for (query, key), count in np.ndenumerate(counts):
            if not count:
                continue
            ink = "black" if count > highest / 2 else "white"
            ax.text(key, query, str(count), ha="center", va="center", fontsize=9, color=ink)
            if key > query:
                ax.add_patch(plt.Rectangle((key - 0.5, query - 0.5), 1, 1, fill=False, hatch="//", ec="0.6", lw=0))
        names = [str(i + 1) for i in range(len(counts))]
        ax.set_xticks(range(len(counts)), names)
        ax.set_yticks(range(len(counts)), names)
        ax.set(xlabel="key", ylabel="query")
        ax.set_title(f"{name}: {counts.sum()} pairs", fontsize=10)
    figure.suptitle(title, fontsize=11)
    return figure
