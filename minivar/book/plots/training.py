"""Curves and bars of a training run."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from minivar.book.plots.base import COLOURS, scale_colour


def training_curves(entries: list[dict], title: str) -> Figure:
    """Both phases of a run from its ``metrics.jsonl``: reconstruction and usage above, losses and accuracy below.

    Where the run looked at held-out images, their curve is dashed: where it leaves the other, learning by heart
    begins.
    """
    figure, axes = plt.subplots(2, 2, figsize=(10, 6.4))
    tokenizer = [e for e in entries if e["phase"] == "tokenizer"]
    transformer = [e for e in entries if e["phase"] in ("var", "gpt")]
    by = "row" if any(e["phase"] == "gpt" for e in transformer) else "scale"
    panels = (
        (axes[0, 0], tokenizer, "mse", "scale_errors", "squared error", "Tokenizer: pixels, and features by scale"),
        (axes[0, 1], tokenizer, None, "usage", "share of codes in a batch", "Tokenizer: codes that each scale uses"),
        (axes[1, 0], transformer, "loss", f"{by}_losses", "cross-entropy (nats)", f"Transformer: loss by {by}"),
        (axes[1, 1], transformer, "accuracy", f"{by}_accuracies", "top-1 accuracy", f"Transformer: accuracy by {by}"),
    )  # fmt: skip
    for ax, rows, total, by_scale, label, name in panels:
        steps = [e["step"] for e in rows]
        unit = by if rows is transformer else "scale"
        for k in range(len(rows[0][by_scale]) if rows else 0):
            ax.plot(
                steps,
                [e[by_scale][k] for e in rows],
                color=scale_colour(k),
                lw=1,
                label=f"{unit} {k + 1}",
            )
        if total and rows:
            name_of_all = "pixels" if total == "mse" else "all"
            ax.plot(steps, [e[total] for e in rows], color="black", lw=1.8, label=name_of_all)
        judged = [e for e in rows if f"validation_{total}" in e]
        if judged:
            heldout = [e[f"validation_{total}"] for e in judged]
            style = {"color": "black", "lw": 1.2, "ls": "--", "marker": "o", "ms": 3}
            ax.plot([e["step"] for e in judged], heldout, label=f"{name_of_all}, held out", **style)
        ax.set(xlabel="step", ylabel=label)
        ax.set_title(name, fontsize=10)
        ax.grid(alpha=0.3)
        if rows:
            ax.legend(fontsize=7, ncol=2)
    axes[0, 0].set_yscale("log")
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    return figure


def line_panels(panels, title: str, reference: tuple[str, float] | None = None, low: float = 0) -> Figure:
    """Line plots side by side; each panel is (title, x, {name: y}, x label, y label).

    ``reference``, (name, y), is a dashed line in the first panel, whose axis reaches to it; ``low`` is where the
    vertical axes begin.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(4.8 * len(panels), 3.1), squeeze=False)
    for ax, (name, x, series, x_label, y_label) in zip(axes[0], panels, strict=True):
        for i, (label, y) in enumerate(series.items()):
            ax.plot(x, y, color=COLOURS[i], lw=1.6, label=label)
        if reference and ax is axes[0, 0]:
            ax.axhline(reference[1], color="black", lw=1, ls="--", label=reference[0])
        ax.margins(y=0.3)  # above the curves, for the legend
        ax.set(xlabel=x_label, ylabel=y_label, ylim=(low, None))
        ax.set_title(name, fontsize=10)
        ax.grid(alpha=0.3)
        if len(ax.lines) > 1:
            ax.legend(fontsize=7, ncol=2)
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    return figure


def usage_bars(usage: list[dict[str, float]], codebook_size: int, title: str) -> Figure:
    """Per scale, the share of the codebook that occurs, and the perplexity of its codes."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3))
    names = [str(k + 1) for k in range(len(usage))]
    colours = [scale_colour(k) for k in range(len(usage))]
    axes[0].bar(names, [100 * u["used"] for u in usage], color=colours)
    axes[0].set(xlabel="scale", ylabel="codes used (%)", ylim=(0, 100))
    axes[1].bar(names, [u["perplexity"] for u in usage], color=colours)
    axes[1].axhline(codebook_size, color="black", lw=0.8, ls="--", label="all codes equally often")
    axes[1].set(xlabel="scale", ylabel="perplexity of codes")
    axes[1].legend(fontsize=8)
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    return figure
