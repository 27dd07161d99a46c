"""A GPU that is not there: tensors with CUDA's name, shapes and dtypes, and no numbers.

Under ``FakeTensorMode`` every operation checks devices and dtypes as a GPU would, so tensors on two devices do not
meet by mistake, and whoever asks for a number (``item``, ``bool``, ``tolist``, ``nonzero``), for which the CPU would
have to wait for the GPU, fails: there is none.
"""

from contextlib import contextmanager
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

DEVICE = torch.device("cuda", 0)


@contextmanager
def fake_gpu():
    """Yields the mode; autocast for CUDA, which switches itself off where there is no GPU, stays on."""
    available = mock.patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    sixteen = mock.patch("torch.cuda.is_bf16_supported", lambda *_, **__: True)
    with available, sixteen, FakeTensorMode(allow_non_fake_inputs=True) as mode:
        yield mode


@contextmanager
def dtypes_of(*names: str):
    """Yields a dict that collects, for each of the operations, the dtypes of its floating-point results."""
    from torch.utils._python_dispatch import TorchDispatchMode

    found = {name: set() for name in names}

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            name = function.overloadpacket.__name__
            if name in found:
                first = out[0] if isinstance(out, tuple) else out
                found[name].add(first.dtype)
            return out

    with Watching():
        yield found
