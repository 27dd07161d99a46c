"""The processes of a run: which one am I, how do we meet, what do the others have.

One process needs none of this. Under ``torchrun`` every process (a *rank*) runs the same program on its own part of
the work, and everything that reads, tokenizes, trains or samples asks the same object, ``Ranks``, who does what.
Explained in ``notebooks/13_imagenet.ipynb``.
"""

import os
import re
import socket
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

STRATEGIES = ("ddp", "fsdp")

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
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


def find_device(name: str) -> torch.device:
    """The device called ``cpu``, ``cuda`` or ``cuda:1``; ``ValueError``, with torch's reason, if it is not there."""
    why = ""
    if re.fullmatch(r"cpu|cuda(:[0-9]{1,3})?", name):  # torch knows other names, which nobody has tried here
        try:
            return torch.zeros(1, device=name).device
        except (RuntimeError, AssertionError) as error:  # what torch raises differs from device to device
            why = f" ({str(error).splitlines()[0]})"
    raise ValueError(f"Cannot use the device {name!r}{why}: expected cpu, or a cuda device that is there.")


@contextmanager
def join_ranks(device: str = "cpu", strategy: str = "ddp"):
    """Join the processes that ``torchrun`` started, or be the only one: a context that yields ``Ranks``.

    Raises ``ValueError`` for an unknown strategy, a device that is not there, or processes that cannot be joined.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"Unknown strategy {strategy!r}: expected one of {', '.join(STRATEGIES)}.")
    spread_out = "RANK" in os.environ
    if spread_out:
        check_variables()
    name = f"cuda:{os.environ['LOCAL_RANK']}" if spread_out and device.startswith("cuda") else device
    local = find_device(name)
    if not spread_out:
        yield Ranks(local)
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
        yield Ranks(local, dist.get_rank(), dist.get_world_size(), strategy)
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


def cores_per_rank() -> int:
    """The processor cores that this process may use, shared out among the ranks that torchrun started beside it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def mean_over_ranks(value: Tensor) -> Tensor:
    """The mean of a tensor over all processes of a distributed run, without gradients; itself in a single process."""
    if not (dist.is_available() and dist.is_initialized()):
        return value.detach()
    value = value.detach().clone()
    dist.all_reduce(value)
    return value / dist.get_world_size()


def least_over_ranks(value: Tensor) -> Tensor:
    """The least of a tensor's values over all processes of a distributed run; itself in a single process."""
    if not (dist.is_available() and dist.is_initialized()):
        return value
    value = value.detach().clone()
    dist.all_reduce(value, dist.ReduceOp.MIN)
    return value


def copy_from_rank_zero(tensor: Tensor) -> None:
    """Give every rank the values of rank 0, in place."""
    if dist.is_available() and dist.is_initialized():
        with torch.no_grad():
            dist.broadcast(tensor, 0)
