"""Datasets as batches of (image in [-1, 1], label), whatever they are read from.

Every dataset here has the same small interface: ``len(set)``, ``class_names``, ``image_shape`` and
``batch(index, epoch) -> (images, labels)``. Embedded data (``data/*.npz``) needs no download.
"""

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
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


class FolderSet:
    """Images in one folder a class (``root/cat/1.png``), read when asked for.

    As published for ImageNet: the short side is resized (Lanczos) to ``resize`` x ``size``, then a crop of
    ``size`` is taken, at random (global random state) with ``random_crop``, else from the centre.
    """

    def __init__(
        self, root: Path, size: int, channels: int = 3, random_crop: bool = False, resize: float = 1.125
    ) -> None:
        root = Path(root)
        if not root.is_dir():
            raise DataError(f"No image folder at {root}: expected a folder with one sub-folder a class.")
        classes = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
        files = [
            (path, label)
            for label, name in enumerate(classes)
            for path in sorted((root / name).rglob("*"))
            if path.suffix.lower() in IMAGE_SUFFIXES
        ]
        if not files:
            raise DataError(
                f"The image folder {root} is empty: expected images ({', '.join(sorted(IMAGE_SUFFIXES))}) in one "
                f"sub-folder a class, found {len(classes)} sub-folders and no image in them."
            )
        self.paths = [path for path, _ in files]
        self.labels = torch.tensor([label for _, label in files])
        self.class_names = tuple(classes)
        self.image_shape = (channels, size, size)
        self.random_crop = random_crop
        self.resize = resize

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def fingerprint(self) -> int:
        """CRC-32 of class folders and file names, in order; the pictures themselves are not read."""
        return zlib.crc32("\n".join(f"{path.parent.name}/{path.name}" for path in self.paths).encode())

    def batch(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """As ``ArraySet.batch``; raises ``DataError`` naming a file that cannot be read."""
        positions = torch.arange(len(self))[index].tolist()
        images = torch.stack([torch.from_numpy(self._read(self.paths[i])) for i in positions])
        return to_float(images), self.labels[index]

    def _read(self, path: Path) -> np.ndarray:
        channels, size, _ = self.image_shape
        try:
            with Image.open(path) as file:
                image = file.convert("RGB" if channels == 3 else "L")
        except (OSError, UnidentifiedImageError, SyntaxError) as error:
            raise DataError(f"Cannot read the image {path}: expected a picture, got {error}.") from error
        factor = round(size * self.resize) / min(image.size)
        width, height = (max(size, round(side * factor)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
        spare = (width - size, height - size)
        left, top = (int(torch.randint(s + 1, ())) if self.random_crop else s // 2 for s in spare)
        pixels = np.array(image.crop((left, top, left + size, top + size)))  # a copy, which torch may write to
        return np.ascontiguousarray(pixels.reshape(size, size, channels).transpose(2, 0, 1))


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


def load(name: str, split: str = "train", root: Path | str | None = None, size: int = 256, channels: int = 3):
    """The dataset ``name``: "digits", "emoji", "fashion-mnist", "cifar10" or "folder".

    ``split`` is "train" or "heldout". ``root`` is where the last three lie; a folder may hold ``train/`` and
    ``heldout/`` (or ``val/``), each with one sub-folder a class; it is read at ``size`` x ``size`` with ``channels``.
    Raises ``DataError``, a ``ValueError``, with what is wrong.
    """
    if split not in ("train", "heldout"):
        raise DataError(f"Unknown split {split!r}: expected 'train' or 'heldout'.")
    if name in ("digits", "emoji"):
        return load_digits(split) if name == "digits" else load_emoji(split)
    if name not in ("fashion-mnist", "cifar10", "folder"):
        raise DataError(f"Unknown dataset {name!r}: expected digits, emoji, fashion-mnist, cifar10 or folder.")
    if root is None:
        raise DataError(f"The dataset {name!r} is not embedded: expected the folder that holds it, got none.")
    if name == "folder":
        root = Path(root)
        names = ("train",) if split == "train" else ("heldout", "val")
        found = [root / name for name in names if (root / name).is_dir()]
        if split == "heldout" and not found and (root / "train").is_dir():
            raise DataError(f"{root} has a folder train but no held-out images: expected heldout or val beside it.")
        root = found[0] if found else root
        return FolderSet(root, size, channels, random_crop=split == "train")
    return load_torchvision({"fashion-mnist": "FashionMNIST", "cifar10": "CIFAR10"}[name], split, Path(root))


def training_set(preset, root: Path | str | None = None):
    """The training images of a preset, with as many views of each as it asks for."""
    channels, side = preset.tokenizer.nets.image_channels, preset.tokenizer.image_size[0]
    images = load(preset.dataset, "train", root, side, channels)
    if preset.views == 1:
        return images
    if not isinstance(images, ArraySet):
        raise DataError(f"Views are for datasets held in memory; got views={preset.views} for {preset.dataset!r}.")
    return jittered(images, preset.views)
