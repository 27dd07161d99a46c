"""The colour that a drawing has, in a word: measured from its pixels, so that a caption can name it."""

import torch
from torch import Tensor

from minivar.data.arrays import ArraySet, Labels

HUES = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")  # by hue; brown is a dark orange
NAMES = (*HUES, "brown", "black", "grey", "white")
NONE = len(NAMES)  # of a drawing without one colour that stands out
EDGES = (15, 40, 70, 165, 200, 255, 290, 345)  # degrees at which the hues end; red begins again at the last
MOST, ENOUGH = 0.5, 0.25  # shares, see ``colour_of``


def pixel_colours(pixels: Tensor) -> Tensor:
    """uint8 (N, 3, H, W) -> int64 (N, H, W), numbers of ``NAMES``: by brightness, saturation and hue of each pixel.

    Dark pixels are black; pale ones white or grey, by brightness; dull orange is brown, and light red pink.
    """
    rgb = pixels.float() / 255
    value, least = rgb.amax(1), rgb.amin(1)
    spread = (value - least).clamp_min(1e-6)
    saturation = (value - least) / value.clamp_min(1e-6)
    red, green, blue = rgb.unbind(1)
    hue = torch.where(
        value == red, (green - blue) / spread % 6, torch.where(value == green, (blue - red) / spread + 2, 0)
    )
    hue = torch.where((value == blue) & (value != red) & (value != green), (red - green) / spread + 4, hue) * 60
    found = torch.bucketize(hue, torch.tensor(EDGES, dtype=hue.dtype), right=True) % len(HUES)

    def paint(where: Tensor, name: str) -> None:
        found[where] = NAMES.index(name)

    paint((found == NAMES.index("red")) & (saturation < 0.5) & (value > 0.7), "pink")
    paint(((found == NAMES.index("orange")) | (found == NAMES.index("red"))) & (value < 0.65) & (hue > 8), "brown")
    paint(saturation < 0.15, "grey")
    paint((saturation < 0.15) & (value > 0.9), "white")
    paint(value < 0.25, "black")
    return found


def colour_of(pixels: Tensor) -> Tensor:
    """uint8 (N, 3, H, W) on white -> int64 (N,), numbers of ``NAMES``, or ``NONE``.

    White pixels do not count, unless there is hardly anything else (a twentieth): the background is white. Of the
    others, black and grey are outlines and shadows as long as a quarter has a hue; then the commonest hue is the
    drawing's colour if it has half of the pixels with a hue. Otherwise the commoner of black and grey is.
    """
    names = len(NAMES)
    found = pixel_colours(pixels).flatten(1)
    counts = torch.zeros(len(found), names).scatter_add_(1, found, torch.ones(found.shape))
    tinted, (black, grey, white) = counts[:, : names - 3], counts[:, names - 3 :].unbind(1)
    with_hue = tinted.sum(1)
    others = with_hue + black + grey
    share, commonest = (tinted / with_hue.clamp_min(1)[:, None]).max(1)
    found = torch.where(share >= MOST, commonest, NONE)
    outlined = torch.where(black >= grey, NAMES.index("black"), NAMES.index("grey"))
    found = torch.where(with_hue < ENOUGH * others, outlined, found)
    return torch.where(others < 0.05 * (others + white), NAMES.index("white"), found)


def with_colours(images: ArraySet) -> ArraySet:
    """The same drawings, with ``extra["colour"]``; ask before views are made, so that all of them have the same."""
    parts = [colour_of(part) for part in images.images.split(2048)]
    colours = Labels(torch.cat(parts), (*NAMES, ""))
    return ArraySet(
        images.images, images.labels, images.class_names, {**images.extra, "colour": colours}, images.background
    )
