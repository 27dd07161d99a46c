"""Figures of the full run: crops of a picture, memory and days of a plan, the discriminator's turn in the log."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from minivar.book.plots.base import COLOURS, show_image

# Parts of a GPU's memory, in the order in which they are stacked; the same colour in every figure.
MEMORY_PARTS = {
    "weights": COLOURS[0],
    "gradients": COLOURS[4],
    "optimiser": COLOURS[2],
    "held gradients": COLOURS[6],
    "gathered blocks": COLOURS[3],
    "activations": COLOURS[1],
}


def crop_windows(panels, title: str) -> Figure:
    """Where crops lie, and what they see; each panel is (name, picture, corners, crops, titles).

    ``picture`` (C, h, w) in [0, 1], as resized; ``corners`` (top, left) of the ``crops`` (N, C, S, S), each of which
    has a title. Crops that share a corner share a window.
    """
    columns = 5
    rows = [-(-len(crops) // columns) for _, _, _, crops, _ in panels]
    figure = plt.figure(figsize=(9.6, 1.75 * sum(rows) + 0.9), dpi=76, layout="constrained")  # photographs are large
    grid = figure.add_gridspec(sum(rows), columns + 2)
    top = 0
    for (name, picture, corners, crops, titles), height in zip(panels, rows, strict=True):
        ax = figure.add_subplot(grid[top : top + height, :2])
        show_image(ax, picture, name)
        side = crops.shape[-1]
        for i, (y, x) in enumerate(dict.fromkeys(corners)):
            inset = 0.12 * i  # windows that nearly coincide stay apart
            box = (x - 0.5 + inset, y - 0.5 + inset)
            length = side - 2 * inset
            ax.add_patch(plt.Rectangle(box, length, length, fill=False, ec=COLOURS[i % 6], lw=1.6))
        ax.set_xlabel(f"{picture.shape[-1]} pixels, window {side}", fontsize=8)
        colours = {corner: COLOURS[i % 6] for i, corner in enumerate(dict.fromkeys(corners))}
        for i, (crop, label) in enumerate(zip(crops, titles, strict=True)):
            ax = figure.add_subplot(grid[top + i // columns, 2 + i % columns])
            show_image(ax, crop, label)
            for spine in ax.spines.values():
                spine.set(color=colours[corners[i]], linewidth=2)
        top += height
    figure.suptitle(title, fontsize=11)
    return figure


def memory_bars(plans, limit: float, title: str) -> Figure:
    """Memory of one GPU, a stacked bar for each (label, plan of ``planner.plan``), and the GPU's size, in bytes.

    A label of "" leaves a gap.
    """
    figure, ax = plt.subplots(figsize=(9.6, 0.36 * len(plans) + 1.5), layout="constrained")
    for y, (label, found) in enumerate(plans):
        if not label:
            continue
        left = 0.0
        for part, colour in MEMORY_PARTS.items():
            size = found["memory"].get(part, 0) / 1e9
            ax.barh(y, size, left=left, color=colour, height=0.72)
            left += size
        ax.text(
            left + limit / 1e9 * 0.012, y, f"{left:.0f}" if left >= 10 else f"{left:.1f}", va="center", fontsize=8
        )
    ax.axvline(limit / 1e9, color="black", lw=1.2, ls="--")
    ax.set_yticks(*zip(*[(y, label) for y, (label, _) in enumerate(plans) if label], strict=True), fontsize=9)
    ax.invert_yaxis()
    ax.set(xlabel=f"GB on one GPU (dashed: the {limit / 1e9:.0f} GB that it has)")
    ax.grid(axis="x", alpha=0.3)
    ax.set_axisbelow(True)
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in MEMORY_PARTS.values()]
    figure.legend(
        handles, MEMORY_PARTS, loc="outside lower center", ncol=len(MEMORY_PARTS), fontsize=8, frameon=False
    )
    figure.suptitle(title, fontsize=11)
    return figure


def days_lines(gpu_days: dict[str, float], published: list[dict], range_: tuple[float, float], title: str) -> Figure:
    """Days against number of GPUs, for each preset a band between two utilisations, and what was published.

    ``gpu_days``: of each preset at a utilisation of 1; ``published``: what ``planner.implied_utilisation`` returns,
    drawn where the preset is among them.
    """
    figure, ax = plt.subplots(figsize=(8.6, 4.0), layout="constrained")
    gpus = np.array([8, 16, 32, 64, 128, 256])
    marks = "o^sDvP"
    for i, (name, at_one) in enumerate(gpu_days.items()):
        low, high = (at_one / gpus / share for share in (range_[1], range_[0]))
        ax.fill_between(gpus, low, high, color=COLOURS[i], alpha=0.25, lw=0)
        ax.plot(gpus, np.sqrt(low * high), color=COLOURS[i], lw=1.2, marker=marks[i], ms=4, label=name)
        for run in published:
            if run["preset"] == name:
                at = run["gpus"], run["days"]
                ax.plot(*at, marker=marks[i], ms=11, mfc="white", mec=COLOURS[i], mew=2, lw=0, zorder=3)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xticks(gpus, [str(count) for count in gpus])
    ticks = [0.1, 0.3, 1, 3, 10, 30, 100, 300]
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.set(xlabel="A100 GPUs", ylabel="days")
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    ax.set_title(title, fontsize=11)
    return figure


def gan_curves(entries: list[dict], title: str) -> Figure:
    """A tokenizer's log before and after its discriminator starts: pixels, answers, and the adaptive weight."""
    rows = [entry for entry in entries if entry["phase"] == "tokenizer" and "gan_weight" in entry]
    steps = [entry["step"] for entry in rows]
    playing = [entry for entry in rows if entry["discriminator_loss"] > 0]
    figure, axes = plt.subplots(1, 3, figsize=(10.4, 3.1), layout="constrained")
    axes[0].plot(steps, [entry["mse"] for entry in rows], color=COLOURS[7], label="squared")
    axes[0].plot(steps, [entry["l1"] for entry in rows], color=COLOURS[0], ls="--", label="absolute")
    axes[0].set(ylabel="error of pixels", ylim=(0, None))
    played = [entry["step"] for entry in playing]
    for key, label, colour, line in (
        ("logits_real", "images", COLOURS[2], "-"),
        ("logits_fake", "reconstructions", COLOURS[5], "--"),
    ):
        axes[1].plot(played, [entry[key] for entry in playing], color=colour, ls=line, marker="o", ms=3, label=label)
    axes[1].axhline(0, color="black", lw=0.8)
    axes[1].set(ylabel="mean answer (above 0: real)")
    axes[2].plot(played, [entry["gan_weight"] for entry in playing], color=COLOURS[3], marker="o", ms=3)
    axes[2].set(ylabel="adaptive weight of the GAN", ylim=(0, None))
    for ax, name in zip(axes, ("Reconstruction", "Discriminator", "How much it may pull"), strict=True):
        ax.set(xlabel="step", xlim=(0, steps[-1]))
        ax.set_title(name, fontsize=10)
        ax.grid(alpha=0.3)
        if playing:
            ax.axvspan(0, played[0], color="0.93", zorder=0)
    for ax in axes[:2]:
        ax.legend(fontsize=8)
    figure.suptitle(title, fontsize=11)
    return figure
