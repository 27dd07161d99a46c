"""From the logits of a model to those that are drawn from: guidance, top-k, nucleus."""

import numpy as np
import torch
from torch import Tensor


def guide(logits_2BlV: Tensor, strength: float) -> Tensor:
    """Classifier-free guidance: (1 + t) conditional - t unconditional; the batch is [conditional; unconditional]."""
    cond_BlV, uncond_BlV = logits_2BlV.chunk(2)
    return (1 + strength) * cond_BlV - strength * uncond_BlV


def filter_logits(logits_BlV: Tensor, top_k: int = 0, top_p: float = 0.0) -> Tensor:
    """Set all but the likeliest codes to -inf: the ``top_k`` best, then of these the nucleus of mass ``top_p``.

    0 switches a filter off. The best code always survives, and so do codes that equal the last one kept. Nucleus:
    arXiv 1904.09751.
    """
    if top_k <= 0 and top_p <= 0:
        return logits_BlV
    ascending = sorted_values(logits_BlV)
    kept = min(top_k, ascending.shape[-1]) if top_k > 0 else ascending.shape[-1]
    least_Bl1 = ascending[..., -kept, None]
    if top_p > 0:
        ascending = ascending.masked_fill(ascending < least_Bl1, -torch.inf)
        drop = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p
        drop[..., -1] = False
        least_Bl1 = ascending.gather(-1, drop.sum(dim=-1, keepdim=True))
    return logits_BlV.masked_fill(logits_BlV < least_Bl1, -torch.inf)


def filter_descending(logits_BV: Tensor, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """LlamaGen's filters: the ``top_k`` best codes (0: all), then the fewest of mass above ``top_p`` (1: all)."""
    logits_BV = filter_logits(logits_BV, top_k)
    if top_p < 1.0:
        descending = sorted_values(logits_BV).flip(-1)
        keep = descending.softmax(dim=-1).cumsum(dim=-1) <= top_p
        # the code that crosses top_p stays
        crossing_B1 = keep.sum(dim=-1, keepdim=True).clamp(max=keep.shape[-1] - 1)
        logits_BV = logits_BV.masked_fill(logits_BV < descending.gather(-1, crossing_B1), -torch.inf)
    return logits_BV


def sorted_values(logits: Tensor) -> Tensor:
    """The last dimension in ascending order. Where the order itself is not asked for, NumPy's sort is ten times as
    fast on a CPU as PyTorch's, which keeps account of it."""
    if type(logits) is Tensor and logits.device.type == "cpu" and logits.dtype == torch.float32:
        return torch.from_numpy(np.sort(logits.detach().numpy(), axis=-1))
    return logits.sort(dim=-1).values
