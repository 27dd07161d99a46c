"""What is embedded in the repository, ``data/*.npz``, and torchvision's small sets in the same form."""

import hashlib
from pathlib import Path

import numpy as np
import torch

from minivar.data.arrays import ArraySet, Labels
from minivar.data.base import DATA_ROOT, DataError


def some_of_each_class(labels: np.ndarray, count: int) -> np.ndarray:
    """Boolean (N,): ``count`` images of each class, evenly spread over the order of ``labels`` (N,)."""
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        chosen[of_class[np.arange(count) * len(of_class) // count]] = True
    return chosen


def part_of(split: str, validation: np.ndarray, heldout: np.ndarray) -> np.ndarray:
    """The images of a split, or of two or three as in "train+validation", in the order of the masks (N,)."""
    masks = {"train": ~validation & ~heldout, "validation": validation, "heldout": heldout}
    return np.flatnonzero(np.any([masks[name] for name in split.split("+")], axis=0))


def load_digits(split: str) -> ArraySet:
    """The embedded digits (``data/DIGITS.md``), 1 x 28 x 28.

    "train" (7,200) to learn from, "validation" (800) to choose settings by, "heldout" (2,000) to report on.
    """
    path = DATA_ROOT / "digits.npz"
    if not path.is_file():
        raise DataError(f"No embedded digits at {path}: expected the file that data/build_digits.py writes.")
    with np.load(path) as arrays:
        images, labels, heldout = arrays["images"], arrays["labels"], arrays["heldout"]
    validation = np.zeros(len(labels), dtype=bool)
    validation[~heldout] = some_of_each_class(labels[~heldout], 80)
    chosen = part_of(split, validation, heldout)
    return ArraySet(images[chosen][:, None], labels[chosen], [str(d) for d in range(10)])


def is_for_validation(base: str) -> bool:
    """Whether an emoji that is not held out is for validation: one base emoji in ten, by a hash of its own."""
    return int(hashlib.sha256(f"validation {base}".encode()).hexdigest(), 16) % 10 == 0


def load_emoji(split: str) -> ArraySet:
    """The embedded emoji (``data/EMOJI.md``), 3 x 32 x 32, on white.

    "train" to learn from, "validation" to choose settings by, "heldout" (720) to report on: what shows the same thing
    (``base`` in the card) is in one of them, in all styles and skin tones. The labels are the nine groups. ``extra``
    holds four more: "subgroup" (98), "style" (noto, twemoji), "name" (the emoji's short name, without skin tone) and
    "unified" (its code points, with skin tone). All splits number them alike. The order is a fixed permutation, so
    the first images of a split are a random sample of it.
    """
    path = DATA_ROOT / "emoji.npz"
    if not path.is_file():
        raise DataError(f"No embedded emoji at {path}: expected the file that data/build_emoji.py writes.")
    with np.load(path) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    validation = np.array([is_for_validation(base) for base in found["base"].tolist()]) & ~found["heldout"]
    chosen = part_of(split, validation, found["heldout"])
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
    """FashionMNIST (1 x 28 x 28) or CIFAR10 (3 x 32 x 32), as torchvision stored them under ``root``.

    "heldout" is their test set; a tenth of the others, as many of each class, is for validation.
    """
    from torchvision import datasets

    try:
        found = getattr(datasets, name)(root, train=split != "heldout", download=False)
    except RuntimeError as error:
        raise DataError(
            f"{name} is not under {root}: download it first with "
            f"python -c \"from torchvision.datasets import {name}; {name}('{root}', download=True)\"."
        ) from error
    images = np.asarray(found.data)
    images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    labels = np.asarray(found.targets)
    heldout = np.full(len(labels), split == "heldout")
    chosen = part_of(split, some_of_each_class(labels, len(labels) // len(found.classes) // 10) & ~heldout, heldout)
    return ArraySet(images[chosen], labels[chosen], found.classes)
