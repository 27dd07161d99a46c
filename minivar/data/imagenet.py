"""The names of ImageNet's 1,000 classes, which published models are asked for by number.

They are torchvision's, where every classifier carries them (BSD-3-Clause): no copy is kept here. The card is
``data/IMAGENET_CLASSES.md``.
"""

import difflib
import functools

from minivar.data.base import DataError


@functools.cache
def class_names() -> tuple[str, ...]:
    """The 1,000 names; the place of a name is the number of its class, as in VAR's and LlamaGen's tables."""
    from torchvision.models import ResNet50_Weights  # here, because it takes seconds

    return tuple(ResNet50_Weights.DEFAULT.meta["categories"])


def find_class(name: str) -> int:
    """The number of the class with this name; ``DataError`` that lists names like it for any other.

    Capitals matter in one case alone: a Cardigan is a dog, a cardigan is knitted.
    """
    names, wanted = class_names(), " ".join(name.split())
    same = [each for each in names if each == wanted] or [each for each in names if each.lower() == wanted.lower()]
    if len(same) == 1:
        return names.index(same[0])
    lower = {each.lower(): each for each in names}
    close = [lower[each] for each in difflib.get_close_matches(wanted.lower(), lower, n=5)]
    holding = [each for each in names if wanted and wanted.lower() in each.lower()]
    near = [f"{each} ({names.index(each)})" for each in dict.fromkeys([*same, *close, *holding])]
    like = f"; like it are {', '.join(near[:8])}" if near else ""
    raise DataError(f"ImageNet has no one class {name!r:.80}: expected one of its 1,000 names{like}.")
