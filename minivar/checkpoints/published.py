"""What reading the published formats has in common: unwrapping files, inferring sizes, translating names."""

import re
import statistics
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from minivar.checkpoints.own import CheckpointError, State


def translate(model: nn.Module, rules) -> dict[str, str]:
    """Own name -> published name for every entry of the model; ``rules`` are regular expressions, in order."""
    names = {}
    for ours in model.state_dict():
        theirs = ours
        for pattern, replacement in rules:
            theirs = re.sub(pattern, replacement, theirs)
        names[ours] = theirs
    return names


def unwrap(source: State | str | Path, *keys: str) -> State:
    """A bare state dict, from a state dict, a file that holds one under some of ``keys``, or the path of either."""
    if isinstance(source, str | Path):
        if not Path(source).is_file():
            raise CheckpointError(f"No checkpoint at {source}: expected a published .pth file.")
        try:
            mmap = zipfile.is_zipfile(source)  # files from before PyTorch 1.6 are not, and are read whole
            source = torch.load(source, map_location="cpu", weights_only=True, mmap=mmap)
        except Exception as error:  # torch.load raises many kinds for damaged files
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"{source} is not a readable PyTorch checkpoint: {reason}") from error
    for key in keys:
        if isinstance(source, Mapping) and isinstance(source.get(key), Mapping):
            source = source[key]
    if not isinstance(source, Mapping) or not source or not all(isinstance(v, Tensor) for v in source.values()):
        raise CheckpointError(
            f"Expected a state dict, names to tensors, bare or under one of {', '.join(map(repr, keys))}."
        )
    return source


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
