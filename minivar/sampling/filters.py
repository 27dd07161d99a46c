"""From the logits of a model to those that are drawn from: guidance, top-k, nucleus."""

import torch
from torch import Tensor


def guide(logits_2BlV: Tensor, strength: float) -> Tensor:
    """Classifier-free guidance: (1 + t) conditional - t unconditional; the batch is [conditional; unconditional]."""
    cond_BlV, uncond_BlV = logits_2BlV.chunk(2)
    return (1 + strength) * cond_BlV - strength * uncond_BlV


def filter_logits(logits_BlV: Tensor, top_k: int = 0, top_p: float = 0.0) -> Tensor:
    """Set all but the likeliest codes to -inf: the ``top_k`` best, then of these the nucleus of mass ``top_p``.

    0 switches a filter off. The best code always survives. Nucleus: arXiv 1904.09751.
    """
    if top_k > 0:
        kth_Bl1 = logits_BlV.topk(min(top_k, logits_BlV.shape[-1]), dim=-1).values[..., -1:]
        logits_BlV = logits_BlV.masked_fill(logits_BlV < kth_Bl1, -torch.inf)
    if top_p > 0:
        ascending, order = logits_BlV.sort(dim=-1)
        drop = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p
        drop[..., -1] = False
        logits_BlV = logits_BlV.masked_fill(drop.scatter(-1, order, drop), -torch.inf)
    return logits_BlV


def filter_descending(logits_BV: Tensor, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """LlamaGen's filters: the ``top_k`` best codes (0: all), then the fewest of mass above ``top_p`` (1: all)."""
    logits_BV = filter_logits(logits_BV, top_k)
    if top_p < 1.0:
        descending, order = logits_BV.sort(dim=-1, descending=True)
        drop = descending.softmax(dim=-1).cumsum(dim=-1) > top_p
        # shifted by one: the code that crosses top_p stays
        drop = torch.cat([torch.zeros_like(drop[..., :1]), drop[..., :-1]], dim=-1)
        logits_BV = logits_BV.masked_fill(drop.scatter(-1, order, drop), -torch.inf)
    return logits_BV
