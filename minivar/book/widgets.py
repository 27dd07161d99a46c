"""Interactive explorers for the notebooks: what is understood by moving it.

Each returns an ipywidgets box. A front end is needed to see it, so notebooks show a static figure of the same content
beside it.
"""

import io

import ipywidgets
import matplotlib.pyplot as plt
import torch
from torch import Tensor
from torchvision.transforms.functional import resize, to_pil_image
from torchvision.utils import make_grid

from minivar.book.plots import cost_bars, to_unit


def _png(images: Tensor, height: int) -> bytes:
    """(N, 1 or 3, H, W) in [0, 1] -> one row of images as PNG, each ``height`` pixels tall."""
    row = make_grid(resize(images, [height], interpolation=0), nrow=len(images), padding=4, pad_value=1.0)
    buffer = io.BytesIO()
    to_pil_image(row).save(buffer, format="PNG")
    return buffer.getvalue()


@torch.no_grad()
def scale_slider(tokenizer, images: Tensor, height: int = 96) -> ipywidgets.VBox:
    """Images (N, 1 or 3, H, W) in [-1, 1] as they look after the first k scales; the slider sets k."""
    pictures = [_png(to_unit(stage), height) for stage in tokenizer.decode_pyramid(tokenizer.encode(images))]
    slider = ipywidgets.IntSlider(value=1, min=1, max=len(pictures), description="scales")
    picture = ipywidgets.Image(value=pictures[0], format="png")
    slider.observe(lambda change: setattr(picture, "value", pictures[change["new"] - 1]), names="value")
    return ipywidgets.VBox([slider, picture])


def cost_slider(sides: tuple[int, ...] = (2, 4, 8, 16, 32, 64)) -> ipywidgets.VBox:
    """What one image of n x n tokens costs in every order, as ``plots.cost_bars``; the slider sets n."""
    pictures = {}
    for n in sides:
        figure, buffer = cost_bars(n, limits=(sides[0], sides[-1])), io.BytesIO()
        figure.savefig(buffer, format="png", dpi=90)
        plt.close(figure)
        pictures[n] = buffer.getvalue()
    slider = ipywidgets.SelectionSlider(options=sides, value=sides[0], description="n")
    picture = ipywidgets.Image(value=pictures[sides[0]], format="png")
    slider.observe(lambda change: setattr(picture, "value", pictures[change["new"]]), names="value")
    return ipywidgets.VBox([slider, picture])
