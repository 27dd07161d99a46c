"""Weights in the order in which a CPU reads them: the same numbers, for drawing only.

A matrix product first copies its operands into blocks that fit the registers and caches of the processor. When a
scale has few tokens, copying a weight matrix takes longer than multiplying with it, and the weights do not change
from one scale to the next. ``packed`` copies them once. On two AVX2 cores a product of 8 rows with a 1,024 x 3,072
matrix ran at 36 GFLOP/s before and 95 after, one of 512 rows at 141 and 160; ``make bench`` says what it is worth
where you are. The functions are oneDNN's, which training uses as well, without packing (models/products.py).
Of tokenizers with wide convolutions, all get their channels innermost, and the wide ones fewer multiplications
(``winograd``); those of the digits and the emoji, 64 channels at most, would decode 3 to 7 % slower for it.
"""

import copy
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minivar.models import products
from minivar.models.layers import MLP
from minivar.models.products import LARGE, onednn_linear
from minivar.models.var import Attention
from minivar.sampling.winograd import WinogradConv
from minivar.tokenizer.nets import Upsample

Model = TypeVar("Model", bound=nn.Module)

# Channels of a 3x3 convolution: with fewer Winograd's maps cost more than they save. Numbers in its weights, which
# take four times as much space there: the largest convolutions are those of the smallest grids, and cost little time.
WIDE, HEAVY = 128, 2**20


class PackedLinear(nn.Module):
    """``nn.Linear`` on packed weights, float32, without gradients; ``gelu``: then GELU (tanh approximation)."""

    def __init__(self, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> None:
        super().__init__()
        # oneDNN's own format: neither a parameter nor a buffer, since it can be neither saved nor moved
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach())
        self.bias = None if bias is None else bias.detach().clone()
        self.gelu = gelu

    def forward(self, x: Tensor) -> Tensor:
        return onednn_linear(x, self.packed, self.bias, self.gelu)


class PackedUpsample(nn.Module):
    """``Upsample``, nearest neighbour and then a 3x3 convolution, as four of 2x2 on the small grid.

    Of the nine pixels under the kernel at most four differ, so that weights of equal pixels can be added beforehand:
    4 / 9 of the arithmetic. Which are equal depends on whether row and column of the large grid are even or odd.
    """

    SUMS = torch.tensor([[[1.0, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])  # (even or odd, of 2 pixels, 3 weights)

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        weight = torch.einsum("apr,bqc,oirc->aboipq", self.SUMS, self.SUMS, conv.weight.detach()).flatten(0, 2)
        self.weight = weight.contiguous(memory_format=torch.channels_last)
        self.bias = conv.bias.detach().repeat(4)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, rows, columns = x.shape
        four = F.conv2d(x, self.weight, self.bias, padding=1).unflatten(1, (2, 2, -1))  # (B, 2, 2, C, h + 1, w + 1)
        out = torch.empty(
            (batch, four.shape[3], 2 * rows, 2 * columns), dtype=x.dtype, memory_format=torch.channels_last
        )
        for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
            out[:, :, i::2, j::2] = four[:, i, j, :, i : i + rows, j : j + columns]
        return out


def packed(model: Model) -> Model:
    """The transformer or tokenizer with its weights in the order of this machine, for drawing in float32 on a CPU.

    Draws what ``model`` draws, but for rounding. What is not packed is shared with ``model``; give ``model`` up to
    hold the matrices only once. Elsewhere than on a CPU with oneDNN, ``model`` itself is returned.
    """
    weights = list(model.parameters())
    if not products.HAS_ONEDNN or any(w.device.type != "cpu" or w.dtype != torch.float32 for w in weights):
        return model
    shared = {id(tensor): tensor for tensor in [*weights, *model.buffers()]}
    wide = any(isinstance(module, nn.Conv2d) and suits_winograd(module) for module in model.modules())
    return _pack(copy.deepcopy(model, shared), wide)


def _pack(module: nn.Module, wide: bool) -> nn.Module:
    """Replace what can be packed, from the leaves upwards; convolutions in a model with ``wide`` ones."""
    if isinstance(module, nn.Linear) and module.weight.numel() >= LARGE:
        return PackedLinear(module.weight, module.bias)
    if isinstance(module, Upsample) and wide:
        return PackedUpsample(module.conv)
    if isinstance(module, nn.Conv2d) and suits_winograd(module):
        return WinogradConv(module)
    if isinstance(module, nn.Conv2d) and wide:  # channels innermost: oneDNN's blocks are made of them
        module.weight = nn.Parameter(module.weight.detach().contiguous(memory_format=torch.channels_last))
        return module
    if isinstance(module, Attention) and module.qkv.weight.numel() >= LARGE:
        module.qkv = PackedLinear(module.qkv.weight, module.qkv_bias())
    if isinstance(module, MLP) and module.fc1.weight.numel() >= LARGE:
        fc1, fc2 = module.fc1, module.fc2
        return nn.Sequential(PackedLinear(fc1.weight, fc1.bias, gelu=True), PackedLinear(fc2.weight, fc2.bias))
    for name, child in module.named_children():
        setattr(module, name, _pack(child, wide))
    return module


def suits_winograd(conv: nn.Conv2d) -> bool:
    """3x3, every pixel, and large enough for the maps before and after."""
    shape = conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups
    same_size = shape == ((3, 3), (1, 1), (1, 1), (1, 1), 1) and conv.bias is not None
    return same_size and min(conv.in_channels, conv.out_channels) >= WIDE and conv.weight.numel() <= HEAVY
