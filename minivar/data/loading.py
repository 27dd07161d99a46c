"""One door to every dataset: ``load("digits")``, ``load("folder", root=...)``."""

import os
from pathlib import Path

from minivar.data.base import DataError
from minivar.data.embedded import load_digits, load_emoji, load_torchvision
from minivar.data.folders import FolderSet, check_same_classes
from minivar.data.shards import ShardSet


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
        return ShardSet(_part(Path(root), split) if os.path.isdir(root) else root, size, channels, **options)
    train, *others = (Path(root) / part for part in ("train", "heldout", "val"))
    for other in others:
        if train.is_dir() and other.is_dir():
            check_same_classes(train, other)
    return FolderSet(_part(Path(root), split), size, channels, **options)
