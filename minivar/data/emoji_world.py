"""The larger emoji world: 1,900 things as eight families of designers drew them (``data/EMOJI_WORLD.md``)."""

import functools
import json
import lzma
from collections.abc import Sequence

import numpy as np
import torch

from minivar.data.arrays import ArraySet, Labels
from minivar.data.base import DATA_ROOT, DataError

FOLDER = DATA_ROOT / "emoji"
SIZES = {"emoji-64": 64, "emoji-32": 32}


@functools.cache
def emoji_listing() -> dict:
    """What ``data/emoji/things.json`` holds.

    "things": of each its code points "id", "name", "keywords", "group" (a number), "subgroup", and "base", the thing
    that it is a variant of. "groups" and "parts": names, by number. "styles": of each the "things" that it drew, as
    numbers, and their "parts", a digit each.
    """
    path = FOLDER / "things.json"
    if not path.is_file():
        raise DataError(f"No emoji at {FOLDER}: expected the folder that data/build_emoji_world.py writes.")
    return json.loads(path.read_text(encoding="utf-8"))


def load_emoji_world(split: str, size: int = 64, styles: Sequence[str] | None = None) -> ArraySet:
    """The emoji of a split, 3 x ``size`` x ``size`` (64 or 32) on white, in all styles or only these.

    "train" to learn from; "validation" to choose settings by and "heldout" to report on, things that are in no style
    in "train"; "validation-pairs" and "heldout-pairs", of which "train" has other things in this style and this thing
    in other styles. The labels are the nine groups. ``extra`` holds four more: "subgroup", "style", "name" and
    "thing", whose names are code points. All splits number them alike. The order is a fixed permutation, so the first
    images of a split are a random sample of it. Raises ``DataError`` for a split or style that is not there.
    """
    listing = emoji_listing()
    wanted, known = split.split("+"), list(listing["styles"])
    styles = known if styles is None else list(styles)
    for values, names, noun in ((wanted, listing["parts"], "split"), (styles, known, "style")):
        strange = [value for value in values if value not in names]
        if strange or not values:
            raise DataError(f"Unknown {noun} {', '.join(strange) or 'none'} of emoji: expected {', '.join(names)}.")
    images, number, style_of = [], [], []
    for style in sorted(set(styles), key=known.index):
        drawn = listing["styles"][style]
        parts = np.array([listing["parts"][int(digit)] for digit in drawn["parts"]])
        chosen = np.isin(parts, wanted)
        images.append(shrunk(read_style(style)[chosen], size))
        number.append(np.array(drawn["things"])[chosen])
        style_of.append(np.full(chosen.sum(), known.index(style)))
    order = np.random.RandomState(0).permutation(sum(map(len, number)))
    things, number, style_of = listing["things"], np.concatenate(number)[order], np.concatenate(style_of)[order]

    def labels(values: np.ndarray, names: Sequence[str]) -> Labels:
        return Labels(torch.from_numpy(values.astype(np.int64)), tuple(names))

    subgroups = list(dict.fromkeys(thing["subgroup"] for thing in things))
    groups, subgroup = (
        np.array([value(thing) for thing in things])[number]
        for value in (lambda thing: thing["group"], lambda thing: subgroups.index(thing["subgroup"]))
    )
    extra = {
        "subgroup": labels(subgroup, subgroups),
        "style": labels(style_of, known),
        "name": labels(number, [thing["name"] for thing in things]),
        "thing": labels(number, [thing["id"] for thing in things]),
    }
    pixels = np.concatenate(images)[order].transpose(0, 3, 1, 2)
    return ArraySet(pixels, groups, listing["groups"], extra, background=1.0)


def by_style(images: ArraySet) -> ArraySet:
    """The same drawings, called by group and style: class g * styles + s is group g in style s."""
    styles = images.extra["style"]
    names = [f"{group}, {style}" for group in images.class_names for style in styles.names]
    labels = images.labels * len(styles.names) + styles.values
    return ArraySet(images.images, labels, names, images.extra, images.background)


def read_style(style: str) -> np.ndarray:
    """All drawings of a style, uint8 (N, 64, 64, 3), in the order of ``emoji_listing``."""
    with lzma.open(FOLDER / f"{style}.npy.xz") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def shrunk(images: np.ndarray, size: int) -> np.ndarray:
    """(N, 64, 64, 3) -> (N, size, size, 3), blocks averaged and rounded."""
    if size not in SIZES.values():
        raise DataError(f"Emoji are 64 or 32 pixels wide; got size {size}.")
    block = 64 // size
    if block == 1:
        return images
    total = images.reshape(len(images), size, block, size, block, 3).sum(axis=(2, 4), dtype=np.uint16)
    return ((total + block**2 // 2) // block**2).astype(np.uint8)
