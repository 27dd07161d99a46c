"""Products with weight matrices: ``nn.Linear`` by the faster of two libraries.

On a CPU, PyTorch multiplies float32 matrices with MKL. oneDNN, which it carries for convolutions, is faster on
processors that MKL does not know well, and where there are few rows. On two cores of an AMD EPYC, for which MKL's log
(MKL_VERBOSE=1) names no vector instructions and oneDNN's (ONEDNN_VERBOSE=1) names AVX-512, 1,360 tokens times a
1,024 x 3,072 matrix ran at 141 GFLOP/s with MKL and 195 with oneDNN, the gradient of the tokens at 137 and 181; that
of the weights, whose sum runs over the tokens, came out as fast or faster with MKL in small models, and stays there.
The results differ by rounding alone.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LARGE = 2**17  # numbers in a matrix: with smaller ones the longer call costs what the product saves


class Linear(nn.Linear):
    """``nn.Linear``, whose product is ``linear``."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b: (..., I), (O, I) and (O,) -> (..., O), with gradients; ``F.linear``, but for rounding."""
    if suits_onednn(x, weight):
        return OneDNNLinear.apply(x, weight, bias)
    return F.linear(x, weight, bias)


def suits_onednn(x: Tensor, weight: Tensor) -> bool:
    """Large float32 matrices on a CPU, computed as the code says: neither autocast nor being compiled."""
    if weight.device.type != "cpu" or weight.numel() < LARGE or torch.compiler.is_compiling():
        return False
    plain = type(x) is Tensor and type(weight) in (Tensor, nn.Parameter)  # not spread over processes, say
    return plain and x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu") and HAS_ONEDNN


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: bool = False) -> Tensor:
    """The product by oneDNN, without gradients, in the form in which ``torch.compile`` calls it on a CPU.

    ``gelu``: then GELU (tanh approximation). ``weight`` may be in oneDNN's own order (sampling/packing.py).
    """
    after = ("gelu", [], "tanh") if gelu else ("none", [], "")
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, *after)


class OneDNNLinear(torch.autograd.Function):
    """The product and the gradient of its input by oneDNN, those of weights and bias as PyTorch has them."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return onednn_linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), (for_x, for_weight, for_bias) = ctx.saved_tensors, ctx.needs_input_grad
        rows = grad.reshape(-1, grad.shape[-1])  # (N, O)
        grad_x = onednn_linear(rows.contiguous(), weight.t()).view(x.shape) if for_x else None
        grad_weight = rows.t() @ x.reshape(-1, x.shape[-1]) if for_weight else None
        return grad_x, grad_weight, rows.sum(0) if for_bias else None


def _has_onednn() -> bool:
    """Whether this machine's torch has the function, which is not part of its documented interface."""
    try:
        found = onednn_linear(torch.ones(2, 4), torch.ones(3, 4), None, gelu=True)
    except (AttributeError, RuntimeError):
        return False
    return bool(torch.allclose(found, F.gelu(torch.tensor(4.0), approximate="tanh")))


HAS_ONEDNN = _has_onednn()

# For PyTorch's counter of FLOPs, which does not know the function: of x (..., I) and W (O, I), packed or not
FLOPS = {}
if HAS_ONEDNN:
    FLOPS[torch.ops.mkldnn._linear_pointwise] = lambda x, w, *_, **__: 2 * math.prod(x) * w[0]
