"""What the explorers show: a token that was changed, a picture drawn, where a token looks, a hole that is filled."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from minivar.book.plots.base import COLOURS, scale_colour, show_image
from minivar.book.plots.tokens import show_tokens


def changed_tokens(
    before: dict[str, Tensor], after: dict[str, Tensor], moved: dict[str, Tensor], title: str
) -> Figure:
    """A row for each order: its picture before and after a change of tokens, and by how much each pixel ``moved``.

    Pictures are (1, C, H, W) in [0, 1], ``moved`` is (H, W) in [0, 1], each by the name of the order. Pixels are
    counted that moved by more than a twentieth.
    """
    figure, axes = plt.subplots(
        len(before), 3, figsize=(6.6, 2.15 * len(before) + 0.5), squeeze=False, layout="constrained"
    )
    for row, (name, was) in zip(axes, before.items(), strict=True):
        show_image(row[0], was[0], "its tokens, decoded")
        show_image(row[1], after[name][0], "with your tokens")
        shown = row[2].imshow(moved[name].numpy(), cmap="magma", vmin=0, vmax=1)
        share = float((moved[name] > 0.05).float().mean())
        row[2].set_title(f"{share:.0%} of the pixels moved", fontsize=9)
        row[2].set(xticks=[], yticks=[])
        row[0].set_ylabel(name, fontsize=10)
    figure.colorbar(shown, ax=axes, label="by how much", fraction=0.03)
    figure.suptitle(title, fontsize=11)
    return figure


def weighed_codes(ax, free_V: Tensor, guided_V: Tensor, shown: int = 40) -> None:
    """Bars of the codes' probabilities with guidance and filters, in the order that they have without."""
    order = free_V.argsort(descending=True)[:shown]
    ranks = np.arange(1, len(order) + 1)
    ax.bar(ranks, guided_V[order].numpy(), width=0.8, color=COLOURS[0], label="guided and filtered")
    ax.plot(ranks, free_V[order].numpy(), ".", color=COLOURS[1], ms=5, label="neither")
    ax.set(xlim=(0.3, len(order) + 0.7), xlabel="rank of the code without guidance", ylabel="probability")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(fontsize=8, frameon=False, loc="upper right")


def drawn_and_weighed(pictures: Tensor, free_V: Tensor, guided_V: Tensor, title: str, where: str) -> Figure:
    """A picture after each scale, (K, C, H, W) in [0, 1], above the distribution of one cell, named ``where``."""
    K = len(pictures)
    figure = plt.figure(figsize=(8.4, 4.6), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1.1, 1))
    for k, ax in enumerate(above.subplots(1, K, squeeze=False)[0]):
        show_image(ax, pictures[k], f"after scale {k + 1}")
        ax.title.set_color(scale_colour(k))
    ax = below.subplots()
    weighed_codes(ax, free_V, guided_V)
    effective = float(torch.special.entr(guided_V).sum().exp())
    kept = int((guided_V > 0).sum())
    ax.set_title(f"{where}: {kept} codes kept, {effective:.1f} effective", fontsize=10)
    figure.suptitle(title, fontsize=11)
    return figure


def attention_of_token(weights: list[Tensor], k: int, cell: tuple[int, int], title: str) -> Figure:
    """K maps (h_k, w_k) of attention weights; the token that looks is ``cell`` (from 1) of scale k (from 0).

    Scales that it may not see are grey.
    """
    K = len(weights)
    total = sum(part.numel() for part in weights[: k + 1])
    high = max(float(part.max()) for part in weights)
    figure, axes = plt.subplots(1, K, figsize=(2.1 * K + 0.8, 2.9), squeeze=False, layout="constrained")
    for j, (ax, part) in enumerate(zip(axes[0], weights, strict=True)):
        shown = ax.imshow(part.numpy(), cmap="viridis", vmin=0, vmax=high)
        name = f"scale {j + 1}: {float(part.sum()):.0%}\n(even: {part.numel() / total:.0%})"
        if j > k:
            ax.imshow(np.full(part.shape, 0.85), cmap="gray", vmin=0, vmax=1)
            name = f"scale {j + 1}:\nmasked"
        if j == k:
            ax.plot(cell[1] - 1, cell[0] - 1, marker="x", color=COLOURS[5], ms=9, mew=2.5)
        ax.set(xticks=[], yticks=[])
        ax.set_title(name, fontsize=9, color=scale_colour(j))
    figure.colorbar(shown, ax=axes, label="attention weight", fraction=0.03)
    figure.suptitle(title, fontsize=11)
    return figure


def redrawn(image: Tensor, keep: Tensor, pictures: Tensor, title: str) -> Figure:
    """A picture (C, H, W) in [0, 1], what is to be drawn anew in orange (``keep``: bool (H, W)), and the samples."""
    columns = 2 + len(pictures)
    figure, axes = plt.subplots(1, columns, figsize=(1.6 * columns, 2.2), layout="constrained")
    orange = torch.tensor(to_rgb(COLOURS[1]))[:, None, None]
    hole = torch.where(keep, image.expand(3, -1, -1), orange)
    panels = [("given", image), ("hole", hole), *((f"sample {i + 1}", each) for i, each in enumerate(pictures))]
    for ax, (name, picture) in zip(axes, panels, strict=True):
        show_image(ax, picture, name)
    figure.suptitle(title, fontsize=11)
    return figure


def sum_so_far(tokens, features, images, schedule, codebook_size: int, k: int, limit: float, title: str) -> Figure:
    """One frame of f_hat being built: the tokens that scale k = 0, ..., K brings (0: none yet), the sum, the image.

    ``tokens``: K maps (h_k, w_k); ``features``: K + 1 maps (h_K, w_K), one number a cell, within ``limit``;
    ``images``: K + 1 of (C, H, W) in [0, 1].
    """
    K = schedule.num_scales
    figure, axes = plt.subplots(1, K + 2, figsize=(1.5 * (K + 2), 2.1), layout="constrained")
    for j, ax in enumerate(axes[:K]):
        if j < k:
            show_tokens(ax, tokens[j].numpy(), codebook_size)
        else:
            ax.imshow(np.full(tokens[j].shape, 0.93), cmap="gray", vmin=0, vmax=1)
        ax.set_title(f"scale {j + 1}", fontsize=9, color=scale_colour(j), weight="bold" if j == k - 1 else "normal")
        for side in ax.spines.values():
            side.set(color=scale_colour(j), linewidth=2.5 if j == k - 1 else 0.8)
    axes[K].imshow(features[k].numpy(), cmap="PuOr", vmin=-limit, vmax=limit)
    axes[K].set_title("$\\hat f$ so far", fontsize=9)
    show_image(axes[K + 1], images[k], "decoded")
    for ax in axes:
        ax.set(xticks=[], yticks=[])
    figure.suptitle(title, fontsize=10)
    return figure


def guided_frame(free_V: Tensor, null_V: Tensor, guided_V: Tensor, t: float, top: float, title: str) -> Figure:
    """One frame of guidance: probabilities (V,) at strength ``t``, in the order of ``free_V``, on an axis to ``top``.

    Colours say whether a code is likelier with the class, ``free_V``, than without, ``null_V``.
    """
    order = free_V.argsort(descending=True)[:40]
    colours = [COLOURS[2] if yes else COLOURS[1] for yes in (free_V > null_V)[order].tolist()]
    figure, ax = plt.subplots(figsize=(7, 2.7), layout="constrained")
    ax.bar(np.arange(1, len(order) + 1), guided_V[order].numpy(), color=colours, width=0.8)
    effective = float(torch.special.entr(guided_V).sum().exp())
    ax.text(0.99, 0.93, f"t = {t:.2f}\n{effective:.1f} effective codes", transform=ax.transAxes, ha="right", va="top")
    ax.set(ylim=(0, top), xlim=(0.3, 40.7), xlabel="rank of the code before guidance", ylabel="probability")
    ax.spines[["top", "right"]].set_visible(False)
    names = ("likelier with the class", "likelier without it")
    handles = [Patch(color=colour, label=name) for colour, name in zip((COLOURS[2], COLOURS[1]), names, strict=True)]
    ax.legend(handles=handles, fontsize=8, frameon=False, loc="upper center", ncol=2)
    figure.suptitle(title, fontsize=11)
    return figure
