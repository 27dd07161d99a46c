"""Figures of the full run: crops, memory and days of a plan, blur, the discriminator's turn in the log."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

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


def find_windows(picture: Tensor, crops: Tensor, patch: int = 24) -> list[tuple[int, int]]:
    """(top, left) in a picture (C, h, w) of each crop (N, C, S, S), mirrored or not, by its pixels.

    Only ``patch`` pixels near a corner are compared, so the picture must not repeat itself.
    """
    size, found = crops.shape[-1], []
    windows = picture.unfold(1, patch, 1).unfold(2, patch, 1)
    windows = windows[:, : picture.shape[1] - size + 1, : picture.shape[2] - size + 1]
    for window in crops:
        corners = (turned[:, None, None, :patch, :patch] for turned in (window, window.flip(-1)))
        both = [(windows - corner).abs().amax((0, 3, 4)) for corner in corners]
        best = min(both, key=Tensor.min)
        found.append(divmod(int(best.argmin()), best.shape[1]))
    return found


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


def gan_curves(logs: dict[str, list[dict]], title: str) -> Figure:
    """Tokenizers' logs before and after the discriminator starts: pixels, who wins, and the weight of the GAN.

    ``logs``: a name and the entries of ``metrics.jsonl`` of each run; all begin the game at the same step.
    """
    figure, axes = plt.subplots(1, 3, figsize=(10.4, 3.3), layout="constrained")
    panels = (
        ("mse", "mean squared error of pixels", "Reconstruction"),
        ("discriminator_accuracy", "share of patches it gets right", "Discriminator"),
        ("gan_weight", "weight of the adversarial term", "How much it may pull"),
    )
    for i, (name, entries) in enumerate(logs.items()):
        rows = [entry for entry in entries if entry["phase"] == "tokenizer" and "gan_weight" in entry]
        playing = [entry for entry in rows if entry["discriminator_loss"] > 0]
        style = {"color": COLOURS[(0, 5, 2)[i % 3]], "ls": ("-", "--", ":")[i % 3], "marker": "os^"[i % 3], "ms": 3.5}
        for ax, (key, _, _) in zip(axes, panels, strict=True):
            shown = rows if key == "mse" else playing
            ax.plot([entry["step"] for entry in shown], [entry[key] for entry in shown], label=name, **style)
    for ax, (key, label, head) in zip(axes, panels, strict=True):
        ax.set(xlabel="step", ylabel=label, xlim=(0, rows[-1]["step"]))
        ax.set_title(head, fontsize=10)
        ax.grid(alpha=0.3)
        if len(playing) < len(rows):  # grey up to the last entry without a discriminator
            ax.axvspan(0, rows[len(rows) - len(playing) - 1]["step"], color="0.93", zorder=0)
        if key == "discriminator_accuracy":
            ax.axhline(0.5, color="black", lw=0.8)
    axes[0].set(ylim=(0, None))
    axes[1].set(ylim=(0.4, 1.02))
    axes[2].set(yscale="log")
    axes[0].legend(fontsize=8)
    figure.suptitle(title, fontsize=11)
    return figure


def two_truths(world: np.ndarray, answers: dict[str, np.ndarray], title: str) -> Figure:
    """A world of a few equally likely rows of pixels (N, P) in [0, 1], and what answers (P,) to it cost on average.

    Above the rows, as strips; below bars of the mean squared and the mean absolute error of every answer.
    """
    figure = plt.figure(figsize=(9.6, 3.0), layout="constrained")
    grid = figure.add_gridspec(max(len(world), len(answers)), 3)
    names = {0: [f"truth {i + 1}" for i in range(len(world))], 1: list(answers)}
    for column, rows in enumerate((world, list(answers.values()))):
        for i, row in enumerate(rows):
            ax = figure.add_subplot(grid[i, column])
            ax.imshow(np.asarray(row)[None], cmap="gray", vmin=-0.15, vmax=1.15, aspect="auto")
            ax.set_xticks(np.arange(len(row)), [f"{value:g}" for value in row], fontsize=8)
            ax.set_yticks([])
            ax.set_ylabel(names[column][i], rotation=0, ha="right", va="center", fontsize=9)
    ax = figure.add_subplot(grid[:, 2])
    for shift, (label, power) in enumerate((("squared", 2), ("absolute", 1))):
        costs = [(np.abs(world - row) ** power).mean() for row in answers.values()]
        bars = ax.bar(np.arange(len(costs)) + 0.4 * shift, costs, 0.36, color=COLOURS[(7, 0)[shift]], label=label)
        ax.bar_label(bars, fmt="%.4g", fontsize=8)
    ax.set_xticks(np.arange(len(answers)) + 0.2, list(answers), fontsize=9)
    ax.set(ylabel="mean error over all truths", xlabel="answer")
    ax.margins(y=0.25)
    ax.legend(fontsize=8, ncol=2, loc="upper left")
    figure.suptitle(title, fontsize=11)
    return figure
