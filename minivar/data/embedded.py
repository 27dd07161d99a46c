"""What is embedded in the repository, ``data/*.npz``, and torchvision's small sets in the same form."""

from pathlib import Path

import numpy as np
import torch

from minivar.data.arrays import ArraySet, Labels
from minivar.data.base import DATA_ROOT, DataError


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
