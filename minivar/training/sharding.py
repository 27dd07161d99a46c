"""FSDP2: one model's parameters, gradients and optimiser spread over the ranks, and how its shards are saved.

``fully_shard`` gathers one block's weights at a time; ``torch.distributed.checkpoint`` writes every rank's part.
Explained in ``notebooks/13_imagenet.ipynb``.
"""

import functools
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Shard

from minivar.distributed import Ranks


def shard(model: nn.Module, ranks: Ranks, precision: torch.dtype | None = None) -> nn.Module:
    """The model with each of ``model.blocks``, and then the rest, spread over the ranks.

    The weights of blocks are gathered in ``precision``, which halves what travels; gradients are averaged in float32,
    and what is outside the blocks, the head among it, is gathered in float32.
    """
    mesh = init_device_mesh(ranks.device.type, (ranks.count,))
    where = {"mesh": mesh, "shard_placement_fn": functools.partial(placement, ranks=ranks.count)}
    # The inputs stay as they are: the residual stream in float32, of which autocast makes what a layer needs.
    policy = MixedPrecisionPolicy(param_dtype=precision, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for block in model.blocks:
        fully_shard(block, mp_policy=policy, **where)
    return fully_shard(model, **where)


def placement(parameter: nn.Parameter, ranks: int) -> Shard | None:
    """Along which dimension FSDP cuts a parameter; None: the first, padded where it does not divide.

    A table of positions (1, L, D) cut along its first dimension would be padded to (ranks, L, D), and gathered so:
    on 128 ranks 2.6 GB for the 21 MB of the published d36-s.
    """
    if len(parameter) >= ranks:
        return None
    return next((Shard(i) for i, size in enumerate(parameter.shape) if size % ranks == 0), None)


def gathered_state(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers of a sharded model, on the CPU of rank 0 (empty elsewhere)."""
    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def load_gathered(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Give a sharded model the tensors of ``gathered_state``, which every rank must have."""
    set_model_state_dict(model, state, options=StateDictOptions(full_state_dict=True))


def _named_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict:
    weights, moments = get_state_dict(model, optimizer)
    return {"model": weights, "optimizer": moments["state"]}


@contextmanager
def _one_sentence(doing: str, folder: Path):
    """What torch says of shards holds a traceback for every rank, and is no ``Exception``."""
    try:
        yield
    except dcp.CheckpointException as error:
        rank, (cause, _) = next(iter(error.failures.items()))
        what = (str(cause) or repr(cause)).splitlines()[0]
        raise ValueError(f"Could not {doing} the shards in {folder}: rank {rank} got {what!r}.") from None


@functools.cache
def _group_of_writers(everyone: dist.ProcessGroup) -> dist.ProcessGroup:
    """All ranks once more: their threads that write must not talk in the midst of what training says."""
    return dist.new_group(backend="gloo")


def begin_shards(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, extra: dict[str, Tensor]
) -> Callable[[], None]:
    """Every rank begins to write its part into ``folder``, which must not be in use; returns what waits for the end.

    ``extra`` must be the same everywhere. What is written has been copied before this returns. Waiting raises
    ``ValueError`` if a rank cannot write, for instance because its disk is full.
    """
    state = {**_named_state(model, optimizer), "extra": extra}
    writing = dcp.async_save(state, checkpoint_id=str(folder), process_group=_group_of_writers(dist.group.WORLD))

    def wait() -> None:
        with _one_sentence("write", folder):
            writing.result()

    return wait


def load_shards(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, extra: dict[str, Tensor]) -> None:
    """Read what ``begin_shards`` wrote, with any number of ranks, sharded or not; ``extra`` is filled in place.

    Raises ``ValueError`` for shards that are missing, cut short or do not fit.
    """
    state = {**_named_state(model, optimizer), "extra": extra}
    with _one_sentence("read", folder), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*in a single process", UserWarning)  # which is what we want then
        dcp.load(state, checkpoint_id=str(folder))
    groups = get_state_dict(model, optimizer)[1]["param_groups"]
    moments = {"state": state["optimizer"], "param_groups": groups}
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=moments)
