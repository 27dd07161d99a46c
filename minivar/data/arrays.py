"""Images held in memory."""

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from minivar.data.base import ImageSet


class Labels(NamedTuple):
    """One label an image, int64 (N,), and what each number stands for: ``names[values[i]]`` is that of image i."""

    values: Tensor
    names: tuple[str, ...]


class ArraySet(ImageSet):
    """Images held in memory: uint8 (N, channels, height, width) and int64 labels (N,).

    ``extra`` holds further labels of the same images, by name. ``background`` is the value in [-1, 1] that lies
    around the pictures: black unless told.
    """

    def __init__(
        self,
        images: Tensor | np.ndarray,
        labels: Tensor | np.ndarray,
        class_names: Sequence[str],
        extra: dict[str, Labels] | None = None,
        background: float = -1.0,
    ) -> None:
        self.images = torch.as_tensor(np.ascontiguousarray(images))
        self.labels = torch.as_tensor(np.asarray(labels, dtype=np.int64))
        self.class_names = tuple(class_names)
        self.extra = dict(extra or {})
        self.background = background

    def __len__(self) -> int:
        return len(self.images)

    @property
    def fingerprint(self) -> int:
        """CRC-32 of images and all labels: a run resumes only on the data it began with."""
        crc = zlib.crc32(self.images.numpy().data)
        for values in (self.labels, *(self.extra[name].values for name in sorted(self.extra))):
            crc = zlib.crc32(values.numpy().tobytes(), crc)
        return crc

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return tuple(self.images.shape[1:])

    def batch(self, index: Tensor | slice, epoch: int = 0) -> tuple[Tensor, Tensor]:
        """int64 indices (B,) -> float32 images (B, channels, height, width) in [-1, 1], int64 labels (B,).

        ``epoch`` is for datasets that crop an image anew each time; here it changes nothing.
        """
        return self.at_view(index, 0)

    def pixels(self, index: Tensor | slice, view: Tensor | int) -> tuple[Tensor, Tensor]:
        """Images and labels as they are held; there is one view of an image, whatever its number."""
        return self.images[index], self.labels[index]
