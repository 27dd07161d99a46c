"""One door to every dataset: ``load("digits")``, ``load("folder", root=...)``."""

import os
from pathlib import Path

from minivar.data.base import SPLITS, DataError
from minivar.data.compositions import load_quartets
from minivar.data.embedded import load_digits, load_emoji, load_torchvision
from minivar.data.emoji_world import SIZES, load_emoji_world
from minivar.data.folders import FolderSet, check_same_classes
from minivar.data.shards import ShardSet

# The folders of a split, the first that is there.
FOLDERS = {"train": ("train",), "validation": ("validation", "val", "heldout"), "heldout": ("heldout", "val")}


def find_split(root: Path, split: str) -> Path | None:
    """The folder of a split below ``root``, None where there is none.

    A ``root`` without a folder ``train`` is all there is: to train on and to look at, but not for validation.
    ``val`` serves as validation and as held-out set where there is nothing else, as in ImageNet.
    """
    found = [root / name for name in FOLDERS[split] if (root / name).is_dir()]
    if not found and split != "validation" and not (root / "train").is_dir():
        return root
    return found[0] if found else None


def load(
    name: str, split: str = "train", root: Path | str | None = None, size: int = 256, channels: int = 3, **options
):
    """The dataset of this name: "digits", "quartets", "emoji", "emoji-64", "emoji-32", or one that is not embedded.

    Those are "fashion-mnist", "cifar10", "folder" and "shards", and ``root`` is where they lie. ``split`` is "train"
    to learn from, "validation" to choose settings by, or "heldout" to report on. "folder" may hold ``train/``,
    ``validation/`` and ``heldout/`` (or ``val/``), each with one sub-folder a class, the same in all; "shards"
    likewise, each with tar files, or ``root`` is a pattern of addresses. These two are read at ``size`` x ``size``
    with ``channels``, cropped at random for training and at the centre else, and take the ``options`` of
    ``pictures.PictureSet`` (and ``shards.ShardSet``). Raises ``DataError``, a ``ValueError``, with what is wrong.
    """
    if name in SIZES:  # has more splits than others, and styles for an option
        if set(options) - {"styles"}:
            raise DataError(f"The dataset {name!r} takes the option styles; got {', '.join(options)}.")
        return load_emoji_world(split, SIZES[name], **options)
    embedded = name in ("digits", "emoji")
    if split not in SPLITS and not (embedded and set(split.split("+")) <= set(SPLITS)):
        raise DataError(f"Unknown split {split!r}: expected one of {', '.join(SPLITS)}.")
    if options and name not in ("folder", "shards"):
        raise DataError(f"The dataset {name!r} takes no options; got {', '.join(options)}.")
    if embedded:
        return load_digits(split) if name == "digits" else load_emoji(split)
    if name == "quartets":
        return load_quartets(split)
    known = ("digits", "quartets", "emoji", *SIZES, "fashion-mnist", "cifar10", "folder", "shards")
    if name not in known:
        raise DataError(f"Unknown dataset {name!r}: expected one of {', '.join(known)}.")
    if root is None:
        raise DataError(f"The dataset {name!r} is not embedded: expected the folder that holds it, got none.")
    if name in ("fashion-mnist", "cifar10"):
        return load_torchvision({"fashion-mnist": "FashionMNIST", "cifar10": "CIFAR10"}[name], split, Path(root))
    options = {"crop": "random" if split == "train" else "center", **options}
    local = name == "folder" or os.path.isdir(root)
    where = find_split(Path(root), split) if local else root
    if where is None:
        names = " or ".join(FOLDERS[split])
        raise DataError(f"{root} has no {split} images: expected a folder {names} beside the folder train.")
    if name == "shards":
        return ShardSet(where, size, channels, **options)
    for other in ("validation", "val", "heldout"):
        if (Path(root) / "train").is_dir() and (Path(root) / other).is_dir():
            check_same_classes(Path(root) / "train", Path(root) / other)
    return FolderSet(where, size, channels, **options)
