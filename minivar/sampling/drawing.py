"""Drawing tokens from logits, and what every sampler returns."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Sample(NamedTuple):
    """Result of sampling."""

    images: Tensor | None  # (B, 3, H, W) float32 in [0, 1]
    tokens: Tensor | None  # (B, L) int64, the scales one after the other; None of models that draw no tokens


def check_labels(labels: Tensor, classes: int) -> None:
    """Raise ``ValueError`` unless these are classes (B,) or the null class, which has the index ``classes``."""
    if labels.dim() != 1 or labels.numel() == 0 or labels.dtype != torch.int64:
        raise ValueError(f"Labels must be a non-empty int64 vector; got {labels.dtype} {tuple(labels.shape)}.")
    if not labels.is_meta and (int(labels.min()) < 0 or int(labels.max()) > classes):
        raise ValueError(
            f"Labels must lie in 0..{classes - 1} (or {classes}, the null class); got values from "
            f"{int(labels.min())} to {int(labels.max())}."
        )


def check_given(given: Tensor | None, shape: tuple[int, int], codes: int) -> None:
    """Raise ``ValueError`` unless these are tokens (B, N) of ``codes``, -1 where they are to be drawn, or None."""
    if given is None:
        return
    if tuple(given.shape) != shape or given.dtype != torch.int64:
        raise ValueError(f"Given tokens must be int64 {shape}; got {given.dtype} {tuple(given.shape)}.")
    if int(given.min()) < -1 or int(given.max()) >= codes:
        raise ValueError(
            f"Given tokens must lie in 0..{codes - 1}, or be -1 where they are to be drawn; got values from "
            f"{int(given.min())} to {int(given.max())}."
        )


Generators = torch.Generator | Sequence[torch.Generator] | None


def draw_tokens(logits_BlV: Tensor, generator: Generators = None) -> Tensor:
    """One code per position, (B, l) int64. Positions of a scale are drawn independently of each other.

    Of a list of generators, of one device, each image has its own, and gets what it would get alone (``serving``).
    """
    probs_BlV = logits_BlV.softmax(dim=-1)
    if isinstance(generator, Sequence):
        each_own = zip(probs_BlV.to(generator[0].device), generator, strict=True)
        alone = [torch.multinomial(probs_lV, 1, replacement=True, generator=own) for probs_lV, own in each_own]
        return torch.stack(alone)[..., 0].to(logits_BlV.device)
    probs_NV = probs_BlV.flatten(0, 1)
    tokens_N = torch.multinomial(probs_NV, 1, replacement=True, generator=generator)[:, 0]
    return tokens_N.view(logits_BlV.shape[:2])


def gumbel_codes(logits_BlV: Tensor, codebook_VC: Tensor, ratio: float, generator=None) -> Tensor:
    """Soft codes (B, l, C) for ``smooth``: a Gumbel-softmax mixture of the codebook, sharper at finer scales.

    ``ratio`` = k / (K - 1). The published demo calls this "more smooth"; it is for looks, not for FID.
    """
    noise = -torch.empty_like(logits_BlV).exponential_(generator=generator).log()
    tau = max(0.27 * (1 - 0.95 * ratio), 0.005)
    return ((logits_BlV * (1 + ratio) + noise) / tau).softmax(dim=-1) @ codebook_VC
