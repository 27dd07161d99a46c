"""How much memory a computation holds at its worst: each storage counts from its birth to its death.

It needs no numbers, so a computation on the meta device will do.
"""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Context that counts the bytes of storages made within: ``now``, and at most so far, ``peak``."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for tensor in tree_leaves((args, kwargs)):  # what was there before is not ours
            if isinstance(tensor, torch.Tensor):
                self._meet(tensor, made_here=False)
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._meet(tensor, made_here=True)
        return out

    def _meet(self, tensor: torch.Tensor, made_here: bool) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self.seen:
            return
        self.seen.add(storage._cdata)
        size = storage.nbytes() if made_here else 0
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._bury, storage._cdata, size)

    def _bury(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.now -= size
