"""Weights by the names that minivar's checkpoints give them, and the layers that need nothing else."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """The module's own parameters and buffers by name; only what does not lie contiguously in memory is copied.

    A parameter stays the parameter that it is, so that gradients reach it and a step of an optimiser is seen by both.
    """
    state = module.state_dict(keep_vars=True)
    return {name: value if value.is_contiguous() else value.detach().contiguous() for name, value in state.items()}


class Layers:
    """Weights, and the layers that read them by name."""

    def __init__(self, module: nn.Module) -> None:
        self.config, self.weights = module.config, weights_of(module)

    def linear(self, x: Tensor, name: str) -> Tensor:
        """x W' + b, (..., in) -> (..., out); without b where there is none."""
        return F.linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def conv(self, x_BChw: Tensor, name: str, **options) -> Tensor:
        """A convolution that keeps the grid, unless told otherwise."""
        weight = self.weights[f"{name}.weight"]
        return F.conv2d(x_BChw, weight, self.weights[f"{name}.bias"], **{"padding": weight.shape[-1] // 2, **options})

    def embedding(self, index: Tensor, name: str) -> Tensor:
        """Rows of a table, index (...) -> (..., D)."""
        return F.embedding(index, self.weights[f"{name}.weight"])


def top_k_filter(logits: Tensor, top_k: int) -> Tensor:
    """All but the ``top_k`` best of the last dimension set to -inf; 0: none."""
    if top_k == 0:
        return logits
    worst_kept = logits.topk(min(top_k, logits.shape[-1])).values.amin(dim=-1, keepdim=True)
    return logits.masked_fill(logits < worst_kept, -torch.inf)


def draw(logits_NV: Tensor, generator: torch.Generator | None) -> Tensor:
    """One code a row, (N,) int64."""
    return torch.multinomial(logits_NV.softmax(dim=-1), 1, replacement=True, generator=generator)[:, 0]
