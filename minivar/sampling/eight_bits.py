"""The blocks' matrices in 8 bits, for drawing on a CPU: a quarter of the bytes, and integer products where they pay.

Each row of a weight matrix, and each token's vector of inputs, is divided by its largest magnitude / 127 and rounded;
the product of integers is exact and is multiplied by both scales (LLM.int8(), arXiv 2208.07339, section 2.1, without
its outliers). Heads, embeddings and AdaLN stay in float32. What it saves and costs is measured in
``notebooks/07a_speed.ipynb``.
"""

import copy

import torch
from torch import Tensor, nn

from minivar.models.var import VAR


class Int8Linear(nn.Module):
    """``nn.Linear`` without gradients, weights and inputs rounded to 8 bits."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight, self.scale_O1 = rounded(weight.detach())
        self.bias = None if bias is None else bias.detach().clone()

    def forward(self, x: Tensor) -> Tensor:
        x8_NI, scale_N1 = rounded(x.flatten(0, -2))
        product_NO = torch._int_mm(x8_NI, self.weight.T).float().mul_(scale_N1).mul_(self.scale_O1.T)
        if self.bias is not None:
            product_NO += self.bias
        return product_NO.view(*x.shape[:-1], -1)


def rounded(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(N, I) float -> int8 (N, I) and the scale of each row (N, 1), so that their product is near the rows."""
    scale_N1 = rows.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / 127
    return (rows / scale_N1).round_().to(torch.int8), scale_N1


def eight_bits(model: VAR) -> VAR:
    """The transformer with the matrices of its blocks in 8 bits; what is not replaced is shared with ``model``."""
    shared = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    model = copy.deepcopy(model, shared)
    for block in model.blocks:
        attn, mlp = block.attn, block.mlp
        attn.qkv = Int8Linear(attn.qkv.weight, attn.qkv_bias())
        attn.proj = Int8Linear(attn.proj.weight, attn.proj.bias)
        mlp.fc1, mlp.fc2 = (Int8Linear(layer.weight, layer.bias) for layer in (mlp.fc1, mlp.fc2))
    return model
