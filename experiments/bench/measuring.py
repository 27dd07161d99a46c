"""How things are timed: in turn, beside yardsticks, and with an eye on what else the machine is doing.

The functions to be compared are called one after the other, again and again (A, B, C, then B, C, A, ...), so that a
machine that slows down slows all of them. A matrix product and a copy are timed in the same rounds: what the machine
can do at that time. Whether it was quiet is judged from how far the ratios of the rounds lie apart, and from what
other processes took of the processors.
"""

import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from minivar.models import products

SPREAD = 0.10  # of the median: between the quartiles of the ratios of all rounds, at most
OTHERS = 0.05  # of all cores: taken by other processes, at most
AT_LEAST = 0.2  # seconds of a round: shorter calls are repeated within it
PRODUCT, COPY = "matrix product", "copy"  # the yardsticks among the functions that are timed
SHAPES = "products of its shapes"  # what minivar's call multiplies, without the rest
SIDES = {"cpu": (2048, 2**26), "cuda": (8192, 2**28), "quick": (128, 2**16)}  # of the product; numbers of the copy

# What is unknown to torch's counter: a product added in place, the fused attention of CPUs, and oneDNN's products.
UNKNOWN = {
    torch.ops.aten.addmm_: lambda added, a, b, *_, **__: 2 * a[0] * a[1] * b[1],
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda gradient, q, k, v, *_, **__: sdpa_backward_flop_count(gradient, q, k, v)
    ),
    **products.FLOPS,
}


class Yardsticks(NamedTuple):
    """A large product of float32 matrices, and a copy of numbers too many for any cache."""

    functions: dict[str, Callable[[], object]]
    flop: float  # of the product
    bytes: float  # of the copy, read and written

    @classmethod
    def on(cls, device: torch.device, quick: bool = False) -> "Yardsticks":
        """Yardsticks of a size that suits the device."""
        side, numbers = SIDES["quick" if quick else device.type]
        a, b, product = (torch.ones(side, side, device=device) for _ in range(3))
        source, target = (torch.ones(numbers, device=device) for _ in range(2))
        functions = {PRODUCT: lambda: torch.mm(a, b, out=product), COPY: lambda: target.copy_(source)}
        return cls(functions, 2.0 * side**3, 8.0 * numbers)


class Work(NamedTuple):
    """What one call computes."""

    flop: int  # of matrix products, convolutions and attention (masked positions included), multiply and add as two
    bytes: int  # that these read and write, each operand and result once: weights and activations; nothing else


class Products(TorchDispatchMode):
    """Keeps the products, convolutions and attention of a call, so that they can be computed again without the rest.

    Weights are kept, which lie where they lay. What the call itself has made, whose values and places no product's
    time depends on, is replaced by one tensor for each shape, so that not all activations are held at once.
    """

    def __init__(self, counted: Callable[[object], bool]) -> None:
        super().__init__()
        self.counted, self.bytes, self.calls = counted, 0, []
        self.made: set[int] = set()  # addresses
        self.places: dict[tuple, Tensor] = {}

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = operation(*args, **kwargs)
        given, returned = tensors_in((args, kwargs)), tensors_in(out)
        if self.counted(operation):
            self.bytes += sum(x.numel() * x.element_size() for x in [*given, *returned])
            self.calls.append((operation, *tree_map_only(Tensor, self.keep_weights, (args, kwargs))))
        self.made |= {address(x) for x in returned} - {address(x) for x in given}  # views of weights stay weights
        return out

    def keep_weights(self, x: Tensor) -> Tensor:
        """The tensor itself, unless the call made it."""
        if address(x) not in self.made:
            return x
        key = (x.shape, x.stride(), x.dtype, x.device)
        if key not in self.places:
            self.places[key] = torch.empty_strided(*key[:2], dtype=x.dtype, device=x.device).fill_(0.01)
        return self.places[key]

    @torch.no_grad()
    def again(self) -> None:
        """Compute all of them, in the order of the call."""
        for operation, args, kwargs in self.calls:
            operation(*args, **kwargs)


def tensors_in(tree: object) -> list[Tensor]:
    """The tensors among the leaves."""
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]


def address(x: Tensor) -> int:
    """Where its memory begins; of weights in oneDNN's own order, which none but they know, its identity."""
    return id(x) if x.layout is torch._mkldnn else x.untyped_storage().data_ptr()


def count(function: Callable[[], object]) -> tuple[Work, object, Callable[[], None]]:
    """The work of one call, what it returned, and a function that computes its products alone."""
    counter = FlopCounterMode(display=False, custom_mapping=UNKNOWN)
    kept = Products(lambda operation: operation.overloadpacket in counter.flop_registry)
    with kept, counter:
        returned = function()
    return Work(counter.get_total_flops(), kept.bytes), returned, kept.again


class Rounds(NamedTuple):
    """Seconds of one call of each function, round by round, and what other processes did meanwhile."""

    seconds: dict[str, list[float]]
    others: float | None  # processor time of others as a share of all cores; None where nobody counts it

    def median(self, name: str) -> float:
        """The usual seconds of a call."""
        return float(np.median(self.seconds[name]))

    def spread(self, name: str) -> float:
        """Between the quartiles, relative to the median."""
        low, high = np.quantile(self.seconds[name], (0.25, 0.75))
        return float(high - low) / self.median(name)

    def ratio(self, name: str, to: str) -> float:
        """The median over the rounds of what ``name`` took, divided by what ``to`` took in the same round."""
        return float(np.median(np.divide(self.seconds[name], self.seconds[to])))

    def ratio_spread(self, name: str, to: str) -> float:
        """Between the quartiles of the ratios of all rounds, relative to their median."""
        ratios = np.divide(self.seconds[name], self.seconds[to])
        low, high = np.quantile(ratios, (0.25, 0.75))
        return float((high - low) / np.median(ratios))

    def busy(self, *pairs: tuple[str, str]) -> str | None:
        """Why these pairs cannot be compared, in half a sentence; None if the machine was quiet enough.

        A machine that is slow in one round and fast in the next is slow and fast for both of a pair: what must not
        lie apart is their ratio.
        """
        if self.others is not None and self.others > OTHERS:
            return f"other processes took {self.others:.0%} of the processors (limit: {OTHERS:.0%})"
        for name, to in pairs:
            if not self.ratio_spread(name, to) <= SPREAD:
                return (
                    f"the ratios of {name} to {to} lie {self.ratio_spread(name, to):.0%} apart (limit: {SPREAD:.0%})"
                )
        return None


def interleave(functions: Mapping[str, Callable], rounds: int, calls: Mapping[str, int], wait: Callable) -> Rounds:
    """Time all ``functions`` in turn, ``rounds`` times over, each ``calls`` times in a round.

    Every round begins with the next of them, since whoever follows a copy finds the caches empty. ``wait`` returns
    when the device has done what it was given.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    before, begun = processor_seconds(), time.perf_counter()
    for first in range(rounds):
        for i in range(len(functions)):
            name, function = list(functions.items())[(first + i) % len(functions)]
            wait()
            started = time.perf_counter()
            for _ in range(calls[name]):
                function()
            wait()
            seconds[name].append((time.perf_counter() - started) / calls[name])
    return Rounds(seconds, share_of_others(before, processor_seconds(), time.perf_counter() - begun))


def calls_a_round(function: Callable, wait: Callable) -> int:
    """How many calls make a round long enough to be timed; the function has been warmed up."""
    wait()
    started = time.perf_counter()
    function()
    wait()
    return max(1, math.ceil(AT_LEAST / (time.perf_counter() - started)))


class Processors(NamedTuple):
    """Processor seconds since some moment long ago."""

    all: float  # of every process, of the kernel, and taken by other machines on the same processors
    own: float  # of this process


def processor_seconds() -> Processors | None:
    """From /proc/stat; None where there is none."""
    try:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    except OSError:
        return None
    user, nice, system, _, _, interrupts, soft_interrupts, stolen = map(int, fields)
    ticks = user + nice + system + interrupts + soft_interrupts + stolen
    own = os.times()
    return Processors(ticks / os.sysconf("SC_CLK_TCK"), own.user + own.system)


def share_of_others(before: Processors | None, after: Processors | None, seconds: float) -> float | None:
    """What others took of all cores; two ticks of a hundredth a core are within what cannot be known."""
    if before is None or after is None:
        return None
    cores = os.cpu_count() or 1
    taken = (after.all - before.all) - (after.own - before.own) - 0.02 * cores
    return max(0.0, taken) / (seconds * cores)


def waiting(device: torch.device) -> Callable[[], None]:
    """What waits for the device; a CPU is done when a call returns."""
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return lambda: None
