"""What every dataset can be asked for, whatever it is read from."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

DATA_ROOT = Path(__file__).resolve().parents[2] / "data"
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


SPLITS = ("train", "validation", "heldout")  # to learn from, to choose by, to report on


class DataError(ValueError):
    """Data that is missing, unreadable or not what was asked for."""


def to_float(images: Tensor) -> Tensor:
    """uint8 in 0..255 -> float32 in [-1, 1], on the device where the images are: the same numbers on every device."""
    # A tensor, since torch divides by a plain number on a GPU by multiplying with its rounded reciprocal.
    half = torch.full((), 127.5, device=images.device)
    return images.float() / half - 1


def to_uint8(images: Tensor) -> Tensor:
    """float in [-1, 1] -> uint8 in 0..255, rounded; the inverse of ``to_float``."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


class Dataset(ABC):
    """Numbered images with labels, of which training asks for the batch of an epoch.

    ``class_names`` says what each label stands for, ``labels`` holds those of all images, int64 (N,), or None where
    they are known only once read. ``views`` is how many versions of an image there are, None for a fresh one every
    epoch. ``order(size, generator=...)`` is a permutation int64 (size,) in which the images are best read: any one,
    unless they lie in shards. ``unreadable`` collects what could not be read, name to reason. ``most_workers`` is how
    many processes are worth having to read ahead (``feeding``): none where nothing has to be decoded.
    """

    class_names: tuple[str, ...]
    labels: Tensor | None
    views: int | None = 1
    unreadable: dict[str, str] = {}
    order: Callable[..., Tensor] = staticmethod(torch.randperm)
    most_workers: int = 0

    @abstractmethod
    def __len__(self) -> int:
        """How many images there are."""

    @property
    @abstractmethod
    def fingerprint(self) -> int:
        """What distinguishes this data from other data: a run resumes only on the data it began with."""


class ImageSet(Dataset):
    """A dataset of pixels: ``image_shape`` is (channels, height, width)."""

    image_shape: tuple[int, int, int]

    @abstractmethod
    def pixels(self, index: Tensor | slice, view: Tensor | int) -> tuple[Tensor, Tensor]:
        """int64 indices (B,), a view of each or one of all -> uint8 images (B, C, H, W), int64 labels (B,)."""

    @abstractmethod
    def batch(self, index: Tensor | slice, epoch: int = 0) -> tuple[Tensor, Tensor]:
        """int64 indices (B,) -> the images that ``epoch`` shows, float32 (B, C, H, W) in [-1, 1], and labels (B,)."""

    def at_view(self, index: Tensor | slice, view: Tensor | int) -> tuple[Tensor, Tensor]:
        """As ``batch``, at a view of each image, or the same view of all; errors as ``pixels`` has them."""
        images, labels = self.pixels(index, view)
        return to_float(images), labels

    def report_unreadable(self, found: dict[str, str]) -> None:
        """Add to ``unreadable`` what could not be read, here or in a worker process: name to reason."""
        self.unreadable = {**self.unreadable, **found}


def view_of(index: Tensor, epoch: int, views: int | None) -> Tensor:
    """Which view (crop) of each image an epoch shows: int64 indices (B,) -> int64 view numbers (B,).

    With ``views`` None there is a fresh view every epoch, v = e; with V views they take turns, v = (i + e) mod V, so
    that each epoch shows a mixture of them and V epochs in a row show every view of every image once.
    """
    index = torch.as_tensor(index, dtype=torch.int64)
    return torch.full_like(index, epoch) if views is None else (index + epoch) % views
