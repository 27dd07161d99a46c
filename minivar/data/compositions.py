"""Pictures composed of embedded ones, of which there are as many as anybody asks for.

For the scaling laws of ``notebooks/11_scaling.ipynb``: ten thousand digits are soon known by heart, and then a larger
model is a worse one.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from minivar.data.arrays import ArraySet
from minivar.data.base import DataError, to_float, to_uint8
from minivar.data.embedded import load_digits
from minivar.data.views import jitter

QUARTETS = {"train": 64_000, "validation": 2_000, "heldout": 2_000}  # images, where no other number is asked for
SEEDS = {"train": 0, "validation": 1, "heldout": 2}
DEGREES, SCALE, SHIFT = 10.0, 0.12, 3.0  # how much a digit is turned, resized and moved, in pixels of its 28


def load_quartets(split: str, count: int | None = None) -> ArraySet:
    """Four random digits in a square, each at half its size: 1 x 28 x 28 (``data/DIGITS.md``).

    Digits of the same split, each drawn anew, turned, resized and moved a little. The label is the digit at the top
    left. The first images of a larger ``count`` are not those of a smaller one.
    """
    digits, generator = load_digits(split), torch.Generator().manual_seed(SEEDS[split])
    count = QUARTETS[split] if count is None else count
    if count < 1:
        raise DataError(f"A set of quartets has at least one image; got count {count}.")
    index = torch.randint(len(digits), (count, 4), generator=generator)
    images = torch.cat([compose(digits.images[part], generator) for part in index.split(2_000)])
    return ArraySet(images, digits.labels[index[:, 0]], digits.class_names)


def compose(quartets: Tensor, generator: torch.Generator) -> Tensor:
    """uint8 (B, 4, 1, 28, 28), top left, top right, bottom left, bottom right -> uint8 (B, 1, 28, 28)."""
    moved = jitter(to_float(quartets.flatten(0, 1)), DEGREES, SCALE, SHIFT, generator)
    small = F.avg_pool2d(moved, 2).unflatten(0, (-1, 2, 2))  # (B, row, column, 1, 14, 14)
    return to_uint8(small.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3))
