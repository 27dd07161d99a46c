"""Attention under the block-causal mask, three ways that compute the same.

A token sees its own scale and all coarser ones (paper, figure 4). *Dense*: every score is computed, and those of
masked pairs are thrown away, 38 % of the published 256-pixel schedule's. *By prefix*: the queries of a scale attend
to what they may see and to nothing else, one unmasked call a scale. *Flex*: one kernel, compiled for the mask, that
skips masked tiles of 128 x 128 pairs (FlexAttention, arXiv 2412.05496). A test holds the three together.

Training on a CPU takes the second: forward and backward of the published d16's attention took 88 ms that way and 132
dense (two images, two cores), of the emoji preset's 39 and 44, and of the digits', with 104 tokens, as long. A
compiled model on a GPU takes the third. Any other takes the first: fused kernels for a mask keep no scores, where a
call a scale would keep every output twice, a tenth of what d16 keeps for its backward pass.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from minivar.scales import ScaleSchedule

if TYPE_CHECKING:  # torch.nn.attention.flex_attention takes .4 s to import: where it is used
    from torch.nn.attention.flex_attention import BlockMask

SMALL = 24  # tokens: scales that end before it are too small to be worth a call each, and go together under a mask


class ScalePrefixes(NamedTuple):
    """Where the queries of each group of scales end in the flat sequence, and with them all that they may see."""

    ends: tuple[int, ...]
    first_ll: Tensor  # bool: the block-causal mask of the first group, which may have several scales


Mask = "Tensor | ScalePrefixes | BlockMask | None"  # for ``attend``


def prefixes(schedule: ScaleSchedule, device: torch.device, prefix: int = 0) -> ScalePrefixes:
    """The groups of a schedule: its first scales together, up to the first that ends at token ``SMALL`` or later."""
    ends = [prefix + end for _, end in schedule.bounds]
    ends = tuple(end for end in ends if end >= min(SMALL, ends[-1]))
    level_l = schedule.level_ids(device, prefix)[: ends[0]]
    return ScalePrefixes(ends, level_l[:, None] >= level_l)


def tiles(schedule: ScaleSchedule, device: torch.device, prefix: int = 0) -> "BlockMask":
    """Which tiles of 128 x 128 pairs FlexAttention may leave out."""
    from torch.nn.attention.flex_attention import create_block_mask

    level_L, length = schedule.level_ids(device, prefix), prefix + schedule.num_tokens

    def visible(batch, head, query, key):
        return level_L[query] >= level_L[key]

    return create_block_mask(visible, None, None, length, length, device=str(device))


def training_mask(schedule: ScaleSchedule, device: torch.device, prefix: int = 0) -> Mask:
    """For ``attend``, where a whole pyramid is seen at once, behind ``prefix`` tokens: as suits the device."""
    if device.type == "cpu":
        return prefixes(schedule, device, prefix)
    if device.type == "cuda" and torch.compiler.is_compiling():
        return tiles(schedule, device, prefix)
    return schedule.block_causal_mask(device, prefix)


def attend(q_BHlE: Tensor, k_BHLE: Tensor, v_BHLE: Tensor, mask: Mask, scale: float) -> Tensor:
    """softmax(scale * q k') v over the pairs that ``mask`` allows; a Tensor (l, L) is True there, None allows all."""
    if mask is None or isinstance(mask, Tensor):
        return F.scaled_dot_product_attention(q_BHlE, k_BHLE, v_BHLE, attn_mask=mask, scale=scale)
    if isinstance(mask, ScalePrefixes):
        return attend_by_prefix(q_BHlE, k_BHLE, v_BHLE, mask, scale)
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention(q_BHlE, k_BHLE, v_BHLE, block_mask=mask, scale=scale)


def attend_by_prefix(q_BHLE: Tensor, k_BHLE: Tensor, v_BHLE: Tensor, mask: ScalePrefixes, scale: float) -> Tensor:
    """A call for each group of scales, whose keys are all tokens up to its end."""
    ends, parts = mask.ends, []
    begins = (0, *ends[:-1])
    queries = q_BHLE.split([end - begin for begin, end in zip(begins, ends, strict=True)], dim=2)
    keys, values = Prefixes.apply(k_BHLE, *ends), Prefixes.apply(v_BHLE, *ends)
    for i, (q, k, v) in enumerate(zip(queries, keys, values, strict=True)):
        first = mask.first_ll if i == 0 else None
        parts.append(F.scaled_dot_product_attention(q, k, v, attn_mask=first, scale=scale).transpose(1, 2))
    return torch.cat(parts, dim=1).transpose(1, 2)  # in memory tokens before heads, as what follows wants them


class Prefixes(torch.autograd.Function):
    """Views x[:, :, :end], for rising ends of which the last is the whole.

    Slices alone would do, but autograd gives each its own gradient of full length, mostly zeros.
    """

    @staticmethod
    def forward(ctx, x_BHLE: Tensor, *ends: int) -> tuple[Tensor, ...]:
        ctx.ends = ends
        return tuple(x_BHLE[:, :, :end] for end in ends)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        *parts, whole = gradients
        total_BHLE = whole.clone()
        for end, part in zip(ctx.ends, parts, strict=False):
            total_BHLE[:, :, :end] += part
        return (total_BHLE, *[None] * len(gradients))
