"""Datasets as batches of (image in [-1, 1], label), whatever they are read from.

Every dataset has the same small interface: ``len(set)``, ``class_names``, ``image_shape``, ``labels`` (None where
they are known only once read), ``fingerprint``, ``views``, ``batch(index, epoch) -> (images, labels)`` and
``at_view(index, view)``. It may have ``order(size, generator=...)``, a permutation in which the images are best read,
and ``prepare(index, epoch)``, which begins to read what will be asked for next. Embedded data (``data/*.npz``) needs
no download; what lies on a disk is read by ``folders`` and ``shards``.
"""

import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

DATA_ROOT = Path(__file__).resolve().parent.parent / "data"
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


class DataError(ValueError):
    """Data that is missing, unreadable or not what was asked for."""


def to_float(images: Tensor) -> Tensor:
    """uint8 in 0..255 -> float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """float in [-1, 1] -> uint8 in 0..255, rounded; the inverse of ``to_float``."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def view_of(index: Tensor, epoch: int, views: int | None) -> Tensor:
    """Which view (crop) of each image an epoch shows: int64 indices (B,) -> int64 view numbers (B,).

    With ``views`` None there is a fresh view every epoch, v = e; with V views they take turns, v = (i + e) mod V, so
    that each epoch shows a mixture of them and V epochs in a row show every view of every image once.
    """
    index = torch.as_tensor(index, dtype=torch.int64)
    return torch.full_like(index, epoch) if views is None else (index + epoch) % views


class Labels(NamedTuple):
    """One label an image, int64 (N,), and what each number stands for: ``names[values[i]]`` is that of image i."""

    values: Tensor
    names: tuple[str, ...]


class ArraySet:
    """Images held in memory: uint8 (N, channels, height, width) and int64 labels (N,).

    ``extra`` holds further labels of the same images, by name. ``background`` is the value in [-1, 1] that lies
    around the pictures: black unless told.
    """

    views = 1

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

    def at_view(self, index: Tensor | slice, view: Tensor | int) -> tuple[Tensor, Tensor]:
        """As ``batch``; there is one view of an image, whatever its number."""
        return to_float(self.images[index]), self.labels[index]


def jitter(
    images: Tensor, degrees: float, scale: float, shift: float, generator: torch.Generator, background: float = -1.0
) -> Tensor:
    """Rotate, resize and move each image a little: float (B, C, H, W) in [-1, 1], ``background`` outside the picture.

    Each image draws its angle from +-``degrees``, its size from 1 +- ``scale``, its shift from +-``shift`` pixels.
    """
    count, width = len(images), images.shape[-1]
    angle, size, right, down = (torch.rand(4, count, generator=generator) * 2 - 1).unbind()
    angle, size = angle * degrees * torch.pi / 180, 1 + size * scale
    right, down = right * 2 * shift / width, down * 2 * shift / width
    rows = torch.stack([angle.cos() * size, -angle.sin() * size, right], 1)
    columns = torch.stack([angle.sin() * size, angle.cos() * size, down], 1)
    grid = F.affine_grid(torch.stack([rows, columns], 1), list(images.shape), align_corners=False)
    # bicubic: bilinear sampling blurs, and a model trained on blurred digits draws blurred digits
    moved = F.grid_sample(images - background, grid, mode="bicubic", align_corners=False) + background
    return moved.clamp(-1, 1)


def jittered(original: ArraySet, views: int, degrees: float = 6, scale: float = 0.06, seed: int = 0) -> ArraySet:
    """``original`` followed by ``views`` - 1 copies of it with every image slightly rotated and resized.

    With tokens that are encoded once, this is how a small dataset is augmented, as LlamaGen does with ten crops.
    Positions stay, since the digits are centred and generated ones should be.
    """
    generator = torch.Generator().manual_seed(seed)
    copies = [original.images]
    for _ in range(views - 1):
        images = jitter(to_float(original.images), degrees, scale, 0.0, generator, original.background)
        copies.append(to_uint8(images))
    extra = {name: Labels(labels.values.repeat(views), labels.names) for name, labels in original.extra.items()}
    labels = original.labels.repeat(views)
    return ArraySet(torch.cat(copies), labels, original.class_names, extra, original.background)


def balanced(original: ArraySet, views: int) -> Tensor:
    """Which emoji to show how often, so that a training set is less lopsided: int64 (about views x N,), ascending.

    Six in ten emoji are people, most of them skin tones of the same drawing. Here the skin tones of a drawing share
    one weight, and a group weighs as much as the square root of its number of drawings.
    """
    drawing = original.extra["name"].values * len(original.extra["style"].names) + original.extra["style"].values
    _, drawing, tones = drawing.unique(return_inverse=True, return_counts=True)
    weight = 1 / tones[drawing].double()
    weight /= torch.bincount(original.labels, weights=weight)[original.labels].sqrt()
    edges = (weight.cumsum(0) / weight.sum() * len(original) * views).round().long()
    return torch.arange(len(original)).repeat_interleave(edges.diff(prepend=edges.new_zeros(1)))


def emoji_views(original: ArraySet, views: int, degrees: float = 4, scale: float = 0.05, seed: int = 0) -> ArraySet:
    """``views`` times as many emoji for training: ``balanced``, slightly turned and resized, named in three ways.

    The copies of an image take turns at being called by group, by group and style, and by subgroup and style: class
    g < 9 is group g, 9 + 2 g + s is group g in style s, 27 + 2 u + s is subgroup u in style s.
    """
    index = balanced(original, views)
    group, style, subgroup = original.labels, original.extra["style"], original.extra["subgroup"]
    names = list(original.class_names)
    for several in (original.class_names, subgroup.names):
        names += [f"{name}, {drawn}" for name in several for drawn in style.names]
    styled = len(original.class_names) + 2 * group + style.values
    finest = 3 * len(original.class_names) + 2 * subgroup.values + style.values
    choices = torch.stack([group, styled, finest])
    labels = choices[torch.arange(len(index)) % 3, index]

    generator = torch.Generator().manual_seed(seed)
    images = torch.cat(
        [
            to_uint8(jitter(to_float(original.images[part]), degrees, scale, 0.0, generator, original.background))
            for part in index.split(4096)
        ]
    )
    return ArraySet(images, labels, names, background=original.background)


def load_digits(split: str) -> ArraySet:
    """The embedded digits (``data/DIGITS.md``): split "train" (8,000) or "heldout" (2,000), 1 x 28 x 28."""
    path = DATA_ROOT / "digits.npz"
    if not path.is_file():
        raise DataError(f"No embedded digits at {path}: expected the file that data/build_digits.py writes.")
    with np.load(path) as arrays:
        images, labels, heldout = arrays["images"], arrays["labels"], arrays["heldout"]
    chosen = heldout if split == "heldout" else ~heldout
    return ArraySet(images[chosen][:, None], labels[chosen], [str(d) for d in range(10)])


def load_emoji(split: str) -> ArraySet:
    """The embedded emoji (``data/EMOJI.md``): split "train" (6,789) or "heldout" (720), 3 x 32 x 32, on white.

    The labels are the nine groups. ``extra`` holds four more: "subgroup" (98), "style" (noto, twemoji), "name" (the
    emoji's short name, without skin tone) and "unified" (its code points, with skin tone). Both splits number them
    alike. The order is a fixed permutation, so the first images of a split are a random sample of it.
    """
    path = DATA_ROOT / "emoji.npz"
    if not path.is_file():
        raise DataError(f"No embedded emoji at {path}: expected the file that data/build_emoji.py writes.")
    with np.load(path) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    chosen = np.flatnonzero(found["heldout"] == (split == "heldout"))
    chosen = np.random.RandomState(0).permutation(chosen)

    def labels(values: np.ndarray, names: np.ndarray) -> Labels:
        return Labels(torch.from_numpy(values[chosen].astype(np.int64)), tuple(names.tolist()))

    def numbered(column: str) -> Labels:
        names, values = np.unique(found[column], return_inverse=True)
        return labels(values, names)

    extra = {key: labels(found[key], found[f"{key}_names"]) for key in ("subgroup", "style")}
    extra |= {"name": numbered("short_name"), "unified": numbered("unified")}
    groups = labels(found["group"], found["group_names"])
    images = found["images"][chosen].transpose(0, 3, 1, 2)
    return ArraySet(images, groups.values, groups.names, extra, background=1.0)


def load_torchvision(name: str, split: str, root: Path) -> ArraySet:
    """FashionMNIST (1 x 28 x 28) or CIFAR10 (3 x 32 x 32), as torchvision stored them under ``root``."""
    from torchvision import datasets

    try:
        found = getattr(datasets, name)(root, train=split == "train", download=False)
    except RuntimeError as error:
        raise DataError(
            f"{name} is not under {root}: download it first with "
            f"python -c \"from torchvision.datasets import {name}; {name}('{root}', download=True)\"."
        ) from error
    images = np.asarray(found.data)
    images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return ArraySet(images, np.asarray(found.targets), found.classes)


def _part(root: Path, split: str) -> Path:
    """The folder of a split: ``train``, ``heldout`` or ``val`` below ``root``, or else ``root``."""
    names = ("train",) if split == "train" else ("heldout", "val")
    found = [root / name for name in names if (root / name).is_dir()]
    if split == "heldout" and not found and (root / "train").is_dir():
        raise DataError(f"{root} has a folder train but no held-out images: expected heldout or val beside it.")
    return found[0] if found else root


def load(
    name: str, split: str = "train", root: Path | str | None = None, size: int = 256, channels: int = 3, **options
):
    """The dataset ``name``: "digits", "emoji", "fashion-mnist", "cifar10", "folder" or "shards".

    ``split`` is "train" or "heldout". ``root`` is where the last four lie; "folder" may hold ``train/`` and
    ``heldout/`` (or ``val/``), each with one sub-folder a class, the same in both; "shards" likewise, each with tar
    files, or ``root`` is a pattern of addresses. These two are read at ``size`` x ``size`` with ``channels``, cropped
    at random for training and at the centre else, and take the ``options`` of ``folders.PictureSet`` (and
    ``shards.ShardSet``). Raises ``DataError``, a ``ValueError``, with what is wrong.
    """
    if split not in ("train", "heldout"):
        raise DataError(f"Unknown split {split!r}: expected 'train' or 'heldout'.")
    if options and name not in ("folder", "shards"):
        raise DataError(f"The dataset {name!r} takes no options; got {', '.join(options)}.")
    if name in ("digits", "emoji"):
        return load_digits(split) if name == "digits" else load_emoji(split)
    known = ("digits", "emoji", "fashion-mnist", "cifar10", "folder", "shards")
    if name not in known:
        raise DataError(f"Unknown dataset {name!r}: expected one of {', '.join(known)}.")
    if root is None:
        raise DataError(f"The dataset {name!r} is not embedded: expected the folder that holds it, got none.")
    if name in ("fashion-mnist", "cifar10"):
        return load_torchvision({"fashion-mnist": "FashionMNIST", "cifar10": "CIFAR10"}[name], split, Path(root))
    options = {"crop": "random" if split == "train" else "center", **options}
    if name == "shards":
        from minivar.shards import ShardSet

        return ShardSet(_part(Path(root), split) if os.path.isdir(root) else root, size, channels, **options)
    from minivar.folders import FolderSet, check_same_classes

    train, *others = (Path(root) / part for part in ("train", "heldout", "val"))
    for other in others:
        if train.is_dir() and other.is_dir():
            check_same_classes(train, other)
    return FolderSet(_part(Path(root), split), size, channels, **options)


def training_set(preset, root: Path | str | None = None):
    """The training images of a preset, with as many views of each as it asks for."""
    channels, side = preset.tokenizer.nets.image_channels, preset.tokenizer.image_size[0]
    images = load(preset.dataset, "train", root, side, channels)
    if preset.views == 1:
        return images
    if not isinstance(images, ArraySet):
        raise DataError(f"Views are for datasets held in memory; got views={preset.views} for {preset.dataset!r}.")
    return (emoji_views if preset.dataset == "emoji" else jittered)(images, preset.views)
