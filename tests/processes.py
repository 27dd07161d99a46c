"""Processes of their own, for tests that kill one or need several: forked from one that has imported everything.

To start Python and import PyTorch takes longer than what most of these tests do. ``torchrun`` itself, and commands as
a user starts them, are tried in test_launch.py, test_cli.py, test_notebook_13.py and test_gpu_check.py.
"""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
import torch.distributed as dist

CONTEXT = multiprocessing.get_context("forkserver")
RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
PRELOAD = ["torch._dynamo", "torch.distributed.fsdp", "minivar.cli", "minivar.book.plots", "torchvision"]


def start(function: Callable, *arguments: object, said: Path, cwd: Path | None = None, **environment) -> BaseProcess:
    """Call a module's function in a process of its own; what it returns is its exit code, what it says is in a file.

    One thread, in the folder ``cwd``, with these variables in its environment besides the usual ones.
    """
    CONTEXT.set_forkserver_preload(PRELOAD)
    process = CONTEXT.Process(target=_run, args=(function, arguments, str(said), cwd, environment))
    process.start()
    return process


def run(function: Callable, *arguments: object, said: Path, cwd: Path | None = None, **environment) -> int:
    """``start``, and wait: the exit code."""
    process = start(function, *arguments, said=said, cwd=cwd, **environment)
    process.join(timeout=300)
    process.kill()
    process.join()
    return process.exitcode


def run_ranks(
    count: int, function: Callable, *arguments: object, said: Path, cwd: Path | None = None, **environment
) -> list[int]:
    """The same in ``count`` processes that ``join_ranks`` makes one run of; if one fails, the others are killed."""
    meeting = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    shared = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "localhost", "MASTER_PORT": meeting.port}
    shared |= {"TORCHELASTIC_USE_AGENT_STORE": True, "TORCHELASTIC_RESTART_COUNT": 0, **environment}
    ranks = [
        start(
            function,
            *arguments,
            said=said.with_name(f"{said.name}.{rank}"),
            cwd=cwd,
            RANK=rank,
            LOCAL_RANK=rank,
            **shared,
        )
        for rank in range(count)
    ]
    until = time.time() + 300
    while any(rank.is_alive() for rank in ranks) and time.time() < until:
        if any(rank.exitcode for rank in ranks):
            break
        time.sleep(0.01)
    for rank in ranks:
        rank.kill()
        rank.join()
    return [rank.exitcode for rank in ranks]


def _run(function: Callable, arguments: tuple, said: str, cwd: Path | None, environment: dict) -> None:
    for name in RANKS:  # the server that forks has the environment of the test in which it began
        os.environ.pop(name, None)
    os.environ.update({name: str(value) for name, value in environment.items()})
    if cwd is not None:
        os.chdir(cwd)
    sys.stdin.close()
    with open(said, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    sys.exit(function(*arguments))
