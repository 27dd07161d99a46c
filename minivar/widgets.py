"""Interactive explorers for the notebooks: what is understood by moving it.

Each returns an ipywidgets box. A front end is needed to see it, so notebooks show a static figure of the same content
beside it.
"""

import io

import ipywidgets
import torch
from torch import Tensor
from torchvision.transforms.functional import resize, to_pil_image
from torchvision.utils import make_grid

from minivar.plots import to_unit


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
