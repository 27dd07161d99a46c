"""Which part of a picture stays: masks in pixels, bool (height, width), True where it does, False where it is filled.

In files, as in the tools that people paint masks with, white is what is to be filled.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from minivar.data.base import DataError, to_float
from minivar.data.pictures import decode

Size = tuple[int, int]  # height and width, in pixels


def box_mask(size: Size, top: int, left: int, height: int, width: int) -> Tensor:
    """Everything stays but a box of ``height`` x ``width`` pixels, which must lie within the picture."""
    if min(top, left) < 0 or min(height, width) < 1 or top + height > size[0] or left + width > size[1]:
        raise DataError(
            f"A box to fill lies within the picture, {size[0]} x {size[1]} pixels (height x width); got top {top}, "
            f"left {left}, height {height}, width {width}."
        )
    keep = torch.ones(size, dtype=torch.bool)
    keep[top : top + height, left : left + width] = False
    return keep


def brush_mask(size: Size, points: Sequence[tuple[float, float]], radius: float) -> Tensor:
    """Everything stays but what a round brush touches, on straight lines from point to point (row, column)."""
    if not points or not radius > 0:
        raise DataError(f"A stroke needs at least one point and a radius above 0; got {len(points)} and {radius}.")
    pixels_HW2 = torch.stack(torch.meshgrid(*(torch.arange(float(side)) for side in size), indexing="ij"), -1)
    keep = torch.ones(size, dtype=torch.bool)
    points_2 = [torch.tensor(point, dtype=torch.float32) for point in points]
    for begin, end in zip(points_2, points_2[1:] or points_2):
        along = end - begin
        # the nearest point of a segment, begin + t along, has t = (pixel - begin) . along / |along|^2, within 0..1
        t_HW1 = ((pixels_HW2 - begin) @ along / (along @ along).clamp_min(1e-12)).clamp(0, 1)[..., None]
        keep &= (pixels_HW2 - begin - t_HW1 * along).norm(dim=-1) > radius
    return keep


def read_mask(path: Path | str, size: Size, resize: bool = False) -> Tensor:
    """A mask from a picture: what is white, or at least half as bright, is to be filled.

    Raises ``DataError`` for what is no picture, of another size unless ``resize``, or has nothing to fill or to keep.
    """
    keep = read_pixels(path, 1, size, resize)[0, 0] < 128
    check_mask(keep, size, f"The mask {path}")
    return keep


def read_picture(path: Path | str, channels: int, size: Size, resize: bool = False) -> Tensor:
    """A picture as a tokenizer takes it, float32 (1, channels, height, width) in [-1, 1].

    Raises ``DataError`` for what is no picture, and unless ``resize`` for one of another size.
    """
    return to_float(read_pixels(path, channels, size, resize))


def read_pixels(path: Path | str, channels: int, size: Size, resize: bool = False) -> Tensor:
    """uint8 (1, channels, height, width) of a picture file."""
    try:
        picture = decode(path, channels)
    except MemoryError:
        raise
    except Exception as error:  # for a broken file Pillow raises almost anything
        reason = " ".join(str(error).split())
        raise DataError(f"{path} is no picture ({reason}): expected one that can be opened.") from error
    if picture.size != size[::-1]:
        if not resize:
            got = f"{picture.height} x {picture.width}"
            raise DataError(f"{path} has {got} pixels (height x width); expected {size[0]} x {size[1]}.")
        picture = picture.resize(size[::-1], Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(picture))
    return pixels.view(*size, channels).permute(2, 0, 1)[None]


def check_mask(keep: Tensor, size: Size, name: str = "The mask") -> None:
    """Raise ``DataError`` unless ``keep`` is bool of this size, with something to fill and something that stays."""
    if tuple(keep.shape) != tuple(size) or keep.dtype != torch.bool:
        raise DataError(
            f"{name} must be bool {tuple(size)}, as high and wide as the picture; got {keep.dtype} "
            f"{tuple(keep.shape)}."
        )
    if keep.all() or not keep.any():
        found = "nothing to fill" if keep.all() else "nothing that stays"
        raise DataError(f"{name} has {found}: expected some pixels to fill and some that stay.")
