"""What a call takes at its peak beyond what was there before it: weights, that is, are not counted.

On CUDA the allocator knows. On a CPU a process is asked for its resident memory, and since that hardly shrinks, every
call has a process of its own, forked from one that has imported everything and computed nothing.
"""

import contextlib
import multiprocessing
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

CONTEXT = multiprocessing.get_context("forkserver")


def peak_of(build: Callable[[], Callable], device: torch.device) -> int:
    """Bytes at the peak of the first call of what ``build`` returns; on a CPU it must pass to another process."""
    if device.type == "cuda":
        function = build()
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        function()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    CONTEXT.set_forkserver_preload(["experiments.bench.workloads"])
    here, there = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_grow, args=(build, torch.get_num_threads(), there))
    process.start()
    there.close()
    try:
        return here.recv()
    except EOFError as error:
        process.join()
        raise RuntimeError(f"The process that was to measure memory ended with {process.exitcode}.") from error
    finally:
        process.join()


def _grow(build: Callable[[], Callable], threads: int, answer) -> None:
    torch.set_num_threads(threads)
    function = build()
    _touch_libraries()
    with contextlib.suppress(OSError):  # Linux forgets the peak of what came before
        Path("/proc/self/clear_refs").write_text("5")
    before = _resident()
    function()
    unit = 1 if sys.platform == "darwin" else 1024
    answer.send(max(0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before))


def _touch_libraries() -> None:
    """A product, a convolution and attention: what libraries set up for themselves is not of the call."""
    x = torch.ones(1, 4, 8, 8)
    F.scaled_dot_product_attention(x, x, x)
    F.conv2d(x, torch.ones(4, 4, 3, 3)) @ torch.ones(6, 6)


def _resident() -> int:
    """Bytes of this process that are in memory now."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # not Linux: the most that there were until now
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
