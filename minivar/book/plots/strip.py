"""The sampling loop as a comic strip: a column a scale, from left to right."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch
from torch import Tensor

from minivar.book.plots.base import scale_colour, show_image
from minivar.book.plots.tokens import first_component, show_tokens

ROWS = ("the transformer\nsees", "it draws\ntokens", "this adds (orange)\nand removes (purple)", "the image\nso far")


def sampling_strip(
    seen: list[Tensor], tokens: list[Tensor], images: Tensor, schedule, codebook_size, title
) -> Figure:
    """What each scale sees, draws, adds, and leaves behind, for one image.

    ``seen``: K - 1 maps (C, h_k, w_k), f_hat averaged down for scales 2 to K, shown along their first principal
    component; ``tokens``: K x (h_k * w_k,); ``images``: K + 1 of (1 or 3, H, W) in [0, 1], before and after scales.
    """
    K = schedule.num_scales
    maps = first_component(seen)
    limit = max(float(values.abs().max()) for values in maps)
    figure, axes = plt.subplots(len(ROWS), K, figsize=(2.05 * K + 1.2, 8.6), squeeze=False, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.14, h_pad=0.03)
    for k in range(K):
        sees, draws, adds, so_far = axes[:, k]
        if k == 0:
            sees.text(0.5, 0.5, "the class", ha="center", va="center", transform=sees.transAxes)
            sees.set_box_aspect(schedule.grids[0][0] / schedule.grids[0][1])
        else:
            sees.imshow(maps[k - 1].numpy(), cmap="PuOr", vmin=-limit, vmax=limit)
        show_tokens(draws, tokens[k].view(schedule.grids[k]).numpy(), codebook_size)
        change = (images[k + 1] - images[k]).mean(0)
        adds.imshow(change.numpy(), cmap="PuOr_r", vmin=-1, vmax=1, interpolation="nearest")
        show_image(so_far, images[k + 1])
        h, w = schedule.grids[k]
        sees.set_title(f"scale {k + 1}: {h} x {w}", fontsize=10, color=scale_colour(k))
        for ax in axes[:, k]:
            ax.set(xticks=[], yticks=[])
            for spine in ax.spines.values():
                spine.set(color=scale_colour(k), linewidth=2)
    for name, ax in zip(ROWS, axes[:, 0], strict=True):
        ax.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    for k in range(K - 1):  # from the image so far to what the next scale sees
        arrow = {"arrowstyle": "-|>", "mutation_scale": 12, "color": "0.35", "lw": 1.2, "shrinkA": 2, "shrinkB": 2}
        start, end = axes[3, k].transAxes, axes[0, k + 1].transAxes
        figure.add_artist(ConnectionPatch((1, 0.9), (0, 0.1), start, end, **arrow))
    figure.suptitle(title, fontsize=11)
    return figure
