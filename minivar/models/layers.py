"""Layers that several transformers share."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minivar.models.products import Linear


def modulate(x_BlD: Tensor, scale_B1D: Tensor, shift_B1D: Tensor) -> Tensor:
    """LN(x) * (1 + scale) + shift, the layer norm without parameters of its own (eps 1e-6)."""
    return torch.addcmul(shift_B1D, F.layer_norm(x_BlD, x_BlD.shape[-1:], eps=1e-6), 1 + scale_B1D)


def drop_path(x_BlD: Tensor, rate: float, training: bool) -> Tensor:
    """Stochastic depth (arXiv 1603.09382): drop a residual branch for whole samples, rescale the rest."""
    if not training or rate == 0.0:
        return x_BlD
    keep_B11 = torch.rand(x_BlD.shape[0], 1, 1, device=x_BlD.device) >= rate
    return x_BlD * keep_B11.to(x_BlD.dtype) / (1 - rate)


def drop_labels(labels_B: Tensor, config, training: bool) -> Tensor:
    """In training, replace a share of the labels by the null class, for classifier-free guidance.

    ``config`` has ``num_classes``, the index of the null class, and ``label_dropout``, the share. DEVIATION: VAR's
    published code does so in evaluation too, which only adds noise to its validation loss.
    """
    if not training or config.label_dropout == 0.0:
        return labels_B
    drop_B = torch.rand(labels_B.shape, device=labels_B.device) < config.label_dropout
    return torch.where(drop_B, config.num_classes, labels_B)


class PlainModulation(nn.Module):
    """Stands where a linear map of the class would: gates that are open, and layer norms of learned scale and shift.

    So a block with AdaLN becomes a plain one: (1 + scale) and shift are the weight and bias of an ordinary layer
    norm, the same for every class. ``norms`` of them, and before them ``gates`` gates.
    """

    def __init__(self, width: int, gates: int, norms: int) -> None:
        super().__init__()
        self.gates = gates * width
        self.scales_and_shifts = nn.Parameter(torch.zeros(2 * norms * width))

    def forward(self, cond_BD: Tensor) -> Tensor:
        """(B, D), which is not looked at -> (1, (gates + 2 norms) D)."""
        return torch.cat([self.scales_and_shifts.new_ones(self.gates), self.scales_and_shifts])[None]


class MLP(nn.Module):
    """Linear, GELU (tanh approximation), Linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = Linear(width, hidden)
        self.fc2 = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight, computed in float32 (arXiv 1910.07467)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x32 = x.float()
        return (x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype) * self.weight


class SwiGLU(nn.Module):
    """w2(silu(w1 x) * w3 x) (arXiv 2002.05202)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w1 = Linear(width, hidden, bias=False)
        self.w3 = Linear(width, hidden, bias=False)
        self.w2 = Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))
