"""What reading the published formats has in common: inferring sizes, translating names."""

import re
import statistics

from torch import nn

from minivar.files import CheckpointError, State


def translate(model: nn.Module, rules) -> dict[str, str]:
    """Own name -> published name for every entry of the model; ``rules`` are regular expressions, in order."""
    names = {}
    for ours in model.state_dict():
        theirs = ours
        for pattern, replacement in rules:
            theirs = re.sub(pattern, replacement, theirs)
        names[ours] = theirs
    return names


def shape_of(state: State, key: str) -> tuple[int, ...]:
    """Shape of an entry; ``CheckpointError`` naming it if it is missing."""
    if key not in state:
        raise CheckpointError(f"The checkpoint does not fit; missing: {key}.")
    return tuple(state[key].shape)


def agreed(state: State, *places: tuple[str, int]) -> int:
    """The size that most of these (key, dimension) have, so that one wrong entry is named and not believed."""
    return statistics.mode(shape[dim] for key, dim in places if len(shape := shape_of(state, key)) > max(dim, 0))


def count(state: State, pattern: str) -> int:
    """How many different numbers stand at (\\d+) in the keys that match."""
    return len({m[1] for key in state if (m := re.match(pattern, key))})
