"""A GPU that is not there: tensors with CUDA's name, shapes and dtypes, and no numbers.

Under ``FakeTensorMode`` every operation checks devices and dtypes as a GPU would, so tensors on two devices do not
meet by mistake, and whoever asks for a number (``item``, ``bool``, ``tolist``, ``nonzero``), for which the CPU would
have to wait for the GPU, fails: there is none. The one thing that PyTorch refuses to do without a GPU is to run its
own backward pass, which wants a CUDA stream. In its place every parameter that the loss was computed from gets a
gradient of its own shape, dtype and device.
"""

from contextlib import contextmanager
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from minivar.analysis import memory

DEVICE = torch.device("cuda", 0)


def parameters_of(loss: torch.Tensor) -> list[torch.Tensor]:
    """The leaves of the graph that a loss was computed by."""
    leaves, seen, waiting = [], set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.append(node.variable)
        waiting += [following for following, _ in node.next_functions]
    return leaves


def backward(loss: torch.Tensor, *_, **__) -> None:
    """In place of ``Tensor.backward``."""
    for leaf in parameters_of(loss):
        leaf.grad = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad + torch.zeros_like(leaf)


def gradients(_, inputs, *__, **___):
    """In place of ``torch.autograd.grad``."""
    inputs = (inputs,) if isinstance(inputs, torch.Tensor) else inputs
    return tuple(torch.zeros_like(each) for each in inputs)


@contextmanager
def fake_gpu():
    """``memory.fake_gpu``, by which the planner traces, with gradients besides."""
    with (
        memory.fake_gpu(),
        mock.patch("torch.Tensor.backward", backward),
        mock.patch("torch.autograd.grad", gradients),
    ):
        yield


@contextmanager
def dtypes_of(*names: str):
    """Yields a dict that collects, for each of the operations, the dtypes of its floating-point results.

    Under "copied to the CPU" stand the operations that did so: for which a real GPU would have to be waited for too,
    but which fake tensors allow.
    """
    found = {name: set() for name in (*names, "copied to the CPU")}

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            name = function.overloadpacket.__name__
            first = out[0] if isinstance(out, tuple) else out
            if name in found:
                found[name].add(first.dtype)
            given = [each.device.type for each in args if isinstance(each, torch.Tensor)]
            if "cuda" in given and isinstance(first, torch.Tensor) and first.device.type == "cpu":
                found["copied to the CPU"].add(name)
            return out

    with Watching():
        yield found
