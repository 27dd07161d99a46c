"""Several processes: who am I, how is the model spread, and how are its shards saved.

One process needs none of this. Under ``torchrun`` every process (rank) runs the same program on its own part of
each batch. Two strategies, both PyTorch's own: *DDP* keeps the whole model on every rank and averages gradients;
*FSDP2* (``fully_shard``) spreads parameters, gradients and optimiser over the ranks and gathers one block's weights
at a time.
Explained in ``notebooks/13_imagenet.ipynb``.
"""

import os
import socket
import warnings
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from minivar.tokenizer import VQVAE

STRATEGIES = ("ddp", "fsdp")
T = TypeVar("T")


@dataclass(frozen=True)
class Workers:
    """The processes of a run, seen from one of them. The default is a process on its own."""

    device: torch.device = torch.device("cpu")
    rank: int = 0
    count: int = 1
    strategy: str | None = None  # None: one process, the model as it is

    @property
    def leads(self) -> bool:
        """Whether this process writes files and draws the progress bar."""
        return self.rank == 0

    def wait(self) -> None:
        """Until every process is here."""
        if self.count > 1:
            dist.barrier()

    def gather(self, value: T) -> list[T]:
        """What every rank has (a tensor on the CPU, names, numbers), in the order of ranks."""
        if self.count == 1:
            return [value]
        everyone = [None] * self.count
        dist.all_gather_object(everyone, value)
        return everyone


@contextmanager
def workers(device: str = "cpu", strategy: str = "ddp"):
    """Join the processes that ``torchrun`` started, or be the only one: a context that yields ``Workers``.

    Raises ``ValueError`` for an unknown strategy, a device that is not there, or processes that cannot be joined.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"Unknown strategy {strategy!r}: expected one of {', '.join(STRATEGIES)}.")
    spread_out = "RANK" in os.environ
    if spread_out:
        check_variables()
    name = f"cuda:{os.environ['LOCAL_RANK']}" if spread_out and device.startswith("cuda") else device
    try:
        local = torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:  # what torch raises differs from device to device
        raise ValueError(f"Cannot use the device {name!r}: expected cpu, or a cuda or mps that is there.") from error
    if not spread_out:
        yield Workers(local)
        return
    if local.type == "cuda":
        torch.cuda.set_device(local)
    try:
        dist.init_process_group("nccl" if local.type == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise ValueError(
            f"Could not join the other processes: expected them at {where}; got {str(error).splitlines()[0]!r}."
        ) from error
    try:
        yield Workers(local, dist.get_rank(), dist.get_world_size(), strategy)
    finally:
        dist.destroy_process_group()


def check_variables() -> None:
    """Raise ``ValueError`` unless the environment is one that torchrun makes; in others torch may wait for long."""
    numbers = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")
    got = {name: os.environ.get(name) for name in (*numbers, "MASTER_ADDR")}
    fits = all((got[name] or "").isdecimal() for name in numbers) and int(got["RANK"]) < int(got["WORLD_SIZE"])
    try:
        fits = fits and bool(got["MASTER_ADDR"]) and bool(socket.getaddrinfo(got["MASTER_ADDR"], None))
    except OSError:
        fits = False
    if not fits:
        raise ValueError(
            f"RANK is set, so this is one of several processes: expected numbers in {', '.join(numbers)}, a RANK "
            "below WORLD_SIZE and a host that is known in MASTER_ADDR, as torchrun sets them; got "
            f"{', '.join(f'{name}={text}' for name, text in got.items())}."
        )


def spread(model: nn.Module, these: Workers) -> nn.Module:
    """The model as the training loop calls it: itself, or wrapped for several processes.

    FSDP shards each of ``model.blocks`` and then the rest; a model without blocks (the tokenizer, whose codebook is
    mended in place) is small enough for DDP, which it gets in either case. Weights are gathered in float32, so that
    autocast sees the same model under either strategy.
    """
    if these.strategy is None:
        return model
    if these.strategy == "fsdp" and hasattr(model, "blocks"):
        mesh = init_device_mesh(these.device.type, (these.count,))
        for block in model.blocks:
            fully_shard(block, mesh=mesh)
        return fully_shard(model, mesh=mesh)
    ids = [these.device.index] if these.device.type == "cuda" else None
    # a short schedule may leave one of the tokenizer's phi convolutions without work
    return DistributedDataParallel(model, device_ids=ids, find_unused_parameters=isinstance(model, VQVAE))


def mean_over_ranks(value: Tensor) -> Tensor:
    """The mean of a tensor over all processes of a distributed run, without gradients; itself in a single process."""
    if not (dist.is_available() and dist.is_initialized()):
        return value.detach()
    value = value.detach().clone()
    dist.all_reduce(value)
    return value / dist.get_world_size()


def share(tensor: Tensor) -> None:
    """Give every rank the values of rank 0, in place."""
    if dist.is_available() and dist.is_initialized():
        with torch.no_grad():
            dist.broadcast(tensor, 0)


def is_sharded(model: nn.Module) -> bool:
    """Whether FSDP has spread this model."""
    return any(isinstance(parameter, dist.tensor.DTensor) for parameter in model.parameters())


def hold_gradients(wrapped: nn.Module, last: bool):
    """Context for one of several accumulated backward passes: gradients are averaged over ranks in the last only."""
    if isinstance(wrapped, DistributedDataParallel):
        return nullcontext() if last else wrapped.no_sync()
    if hasattr(wrapped, "set_requires_gradient_sync"):
        wrapped.set_requires_gradient_sync(last)
    return nullcontext()


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers, gathered onto the CPU of rank 0 (empty elsewhere) where the model is sharded."""
    if not is_sharded(model):
        return model.state_dict()
    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


# Sharded state: torch.distributed.checkpoint ----------------------------------------------------------------------


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


def save_shards(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, extra: dict[str, Tensor]) -> None:
    """Every rank writes its part into ``folder``, which must not be in use; ``extra`` must be the same everywhere.

    Raises ``ValueError`` if one of them cannot, for instance because the disk is full.
    """
    state = {**_named_state(model, optimizer), "extra": extra}
    with _one_sentence("write", folder):
        dcp.save(state, checkpoint_id=str(folder))


def load_shards(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, extra: dict[str, Tensor]) -> None:
    """Read what ``save_shards`` wrote, with any number of ranks, sharded or not; ``extra`` is filled in place.

    Raises ``ValueError`` for shards that are missing, cut short or do not fit.
    """
    state = {**_named_state(model, optimizer), "extra": extra}
    with _one_sentence("read", folder), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*in a single process", UserWarning)  # which is what we want then
        dcp.load(state, checkpoint_id=str(folder))
    groups = get_state_dict(model, optimizer)[1]["param_groups"]
    moments = {"state": state["optimizer"], "param_groups": groups}
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=moments)
