"""The loop in raster order: token by token, from left to right and from top to bottom.

One multinomial is drawn per position from a (B, V) table, as in LlamaGen's published code.
Explained in ``notebooks/02_raster.ipynb``.
"""

import math

import torch
from torch import Tensor

from minivar.models.gpt import GPT
from minivar.sampling.config import RasterSamplingConfig
from minivar.sampling.drawing import Sample, check_given, check_labels, draw_tokens
from minivar.sampling.filters import filter_descending
from minivar.sampling.kv_cache import KVCache
from minivar.tokenizer.vqvae import VQVAE


@torch.no_grad()
def sample_raster(
    gpt: GPT,
    tokenizer: VQVAE | None,
    cond: Tensor,
    cfg: float = 1.0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    greedy: bool = False,
    generator: torch.Generator | None = None,
    grid: tuple[int, int] | None = None,
    use_cache: bool = True,
    given: Tensor | None = None,
) -> Sample:
    """Draw one image for each condition, token by token: classes (B,) or caption features (B, T, caption_dim).

    ``cfg`` above 1 guides: logits = uncond + cfg (cond - uncond). ``greedy`` takes the likeliest code, else one
    multinomial is drawn per position from the (B, V) table. ``tokenizer=None`` gives ``images=None``.
    ``grid`` is for transformers that have none of their own (published LlamaGen files): 16 x 16 by default.
    ``use_cache=False`` recomputes everything at every step, which is what O(n^6) counts. ``given`` (B, N): tokens
    that are known, -1 where they are to be drawn; a known one takes the place of what is drawn when its turn comes,
    and those before it were drawn without it (editing). Raises ``ValueError`` for impossible parameters. Source:
    LlamaGen's code, ``generate.py``.
    """
    config, guided = gpt.config, cfg > 1
    RasterSamplingConfig(cfg, temperature, top_k, top_p)
    if not config.caption_tokens:
        check_labels(cond, config.num_classes)
    elif tuple(cond.shape[1:]) != (config.caption_tokens, config.caption_dim) or len(cond) == 0:
        raise ValueError(
            f"Expected caption features of shape (B, {config.caption_tokens}, {config.caption_dim}), B > 0; got "
            f"{tuple(cond.shape)}."
        )
    if guided:
        cond = torch.cat([cond, gpt.null_condition(cond)])
    grid = config.grid or grid or (16, 16)
    check_given(given, (len(cond) // (1 + guided), math.prod(grid)), config.codebook_size)
    x_BlD, context = gpt.prefix(cond), gpt.context(cond, grid, ahead=True)
    length = config.prefix + math.prod(grid)
    mask = gpt.visible(cond, length)
    caches = [KVCache(length) for _ in gpt.blocks] if use_cache else None
    begin, tokens = 0, []
    for n in range(math.prod(grid)):
        end = begin + x_BlD.shape[1]
        seen = None if mask is None else mask[:, :, begin:end, :end]
        logits_BV = gpt.logits(gpt.hidden(x_BlD, begin, grid, caches, context, seen)[:, -1:], context)[:, 0]
        if guided:
            cond_BV, uncond_BV = logits_BV.chunk(2)
            logits_BV = uncond_BV + cfg * (cond_BV - uncond_BV)
        logits_BV = filter_descending(logits_BV / temperature, top_k, top_p)
        token_B = logits_BV.argmax(-1) if greedy else draw_tokens(logits_BV[:, None], generator)[:, 0]
        if given is not None:
            token_B = torch.where(given[:, n] >= 0, given[:, n], token_B)
        tokens.append(token_B)
        new_B1D = gpt.token_embed(token_B.repeat(2) if guided else token_B)[:, None]
        if use_cache:
            begin, x_BlD = end, new_B1D
        else:
            x_BlD = torch.cat([x_BlD, new_B1D], dim=1)
    tokens_BN = torch.stack(tokens, dim=1)
    images = None if tokenizer is None else (tokenizer.decode([tokens_BN]) + 1) / 2
    return Sample(images, tokens_BN)
