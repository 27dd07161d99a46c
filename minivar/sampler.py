"""Sampling: logits to tokens to images, scale by scale or token by token.

Random draws are taken in the order and shape of the published code, so that a seed gives the same image on a CPU:
one multinomial per scale from a (B * h_k * w_k, V) table, then, with ``smooth``, one exponential of that shape.
Explained in ``notebooks/00_quickstart.ipynb`` and ``notebooks/05_next_scale.ipynb``.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from minivar.raster import GPT
from minivar.tokenizer import VQVAE
from minivar.transformer import VAR


class Sample(NamedTuple):
    """Result of sampling."""

    images: Tensor | None  # (B, 3, H, W) float32 in [0, 1]
    tokens: Tensor  # (B, L) int64, the scales one after the other


class KVCache:
    """Keys and values of one attention layer, (B, H, length, E), allocated at once and filled as tokens come."""

    def __init__(self, length: int) -> None:
        self.length, self.filled = length, 0

    def append(self, k_BHlE: Tensor, v_BHlE: Tensor) -> tuple[Tensor, Tensor]:
        """Add the keys and values of new tokens; returns those of all tokens so far."""
        if self.filled == 0:
            batch, heads, _, width = k_BHlE.shape
            self.k_BHLE = k_BHlE.new_empty(batch, heads, self.length, width)
            self.v_BHLE = v_BHlE.new_empty(batch, heads, self.length, width)
        end = self.filled + k_BHlE.shape[2]
        self.k_BHLE[:, :, self.filled : end] = k_BHlE
        self.v_BHLE[:, :, self.filled : end] = v_BHlE
        self.filled = end
        return self.k_BHLE[:, :, :end], self.v_BHLE[:, :, :end]


# Logits -> tokens -------------------------------------------------------------------------------------------------


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


def draw_tokens(logits_BlV: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """One code per position, (B, l) int64. Positions of a scale are drawn independently of each other."""
    probs_NV = logits_BlV.softmax(dim=-1).flatten(0, 1)
    tokens_N = torch.multinomial(probs_NV, 1, replacement=True, generator=generator)[:, 0]
    return tokens_N.view(logits_BlV.shape[:2])


def gumbel_codes(logits_BlV: Tensor, codebook_VC: Tensor, ratio: float, generator=None) -> Tensor:
    """Soft codes (B, l, C) for ``smooth``: a Gumbel-softmax mixture of the codebook, sharper at finer scales.

    ``ratio`` = k / (K - 1). The published demo calls this "more smooth"; it is for looks, not for FID.
    """
    noise = -torch.empty_like(logits_BlV).exponential_(generator=generator).log()
    tau = max(0.27 * (1 - 0.95 * ratio), 0.005)
    return ((logits_BlV * (1 + ratio) + noise) / tau).softmax(dim=-1) @ codebook_VC


# The loop over scales -----------------------------------------------------------------------------------------------


class ScaleState(NamedTuple):
    """What the sampler knows after scale k; for figures and for editing."""

    k: int
    tokens_Bl: Tensor  # the tokens just drawn
    f_hat_BChw: Tensor  # the image so far, in feature space


@torch.no_grad()
def sample_scales(
    model: VAR,
    quantizer,
    labels: Tensor,
    cfg: float = 1.5,
    top_k: int = 0,
    top_p: float = 0.0,
    smooth: bool = False,
    generator: torch.Generator | None = None,
    replace=None,
    use_cache: bool = True,
):
    """Generator over the scales: yields a ``ScaleState`` after each. ``sample`` is this loop run to its end.

    ``replace(k, codes_BlC) -> codes_BlC`` may overwrite the codes of a scale before they are added (editing).
    With ``use_cache=False`` every step recomputes all earlier tokens under the block-causal mask: slower, the same
    result; a test holds the two together.
    """
    check_sampling(model, labels, cfg, top_k, top_p)
    schedule, batch = model.schedule, labels.shape[0]
    null_B = torch.full_like(labels, model.config.num_classes)
    cond_2BD, cond_blocks = model.condition(torch.cat([labels, null_B]))
    caches = [KVCache(schedule.num_tokens) if use_cache else None for _ in model.blocks]
    f_hat_BChw = torch.zeros(
        batch, model.config.code_dim, *schedule.final_grid, dtype=cond_2BD.dtype, device=labels.device
    )
    x_2BlD = model.embed(0, cond_2BD)
    for k in range(schedule.num_scales):
        hidden, mask = x_2BlD, None
        if not use_cache:
            end = x_2BlD.shape[1]
            mask = schedule.block_causal_mask(labels.device)[:end, :end]
        for block, cache in zip(model.blocks, caches, strict=True):
            hidden = block(hidden, cond_blocks, mask, cache)
        ratio = k / max(schedule.num_scales - 1, 1)  # 0 at the first scale, 1 at the last
        logits_2BlV = model.logits(hidden[:, -schedule.counts[k] :], cond_2BD)
        logits_BlV = filter_logits(guide(logits_2BlV, cfg * ratio), top_k, top_p)
        tokens_Bl = draw_tokens(logits_BlV, generator)
        codes_BlC = quantizer.lookup(tokens_Bl)
        if smooth:
            codes_BlC = gumbel_codes(logits_BlV, quantizer.codebook, ratio, generator)
        if replace is not None:
            codes_BlC = replace(k, codes_BlC)
        f_hat_BChw = f_hat_BChw + quantizer.contribution(codes_BlC, k)
        yield ScaleState(k, tokens_Bl, f_hat_BChw)
        if k + 1 < schedule.num_scales:
            inputs_BlC = quantizer.at_scale(f_hat_BChw, k + 1)
            next_2BlD = model.embed(k + 1, cond_2BD, inputs_BlC.repeat(2, 1, 1))
            x_2BlD = next_2BlD if use_cache else torch.cat([x_2BlD, next_2BlD], dim=1)


@torch.no_grad()
def sample(
    model: VAR,
    tokenizer: VQVAE,
    labels: Tensor,
    cfg: float = 1.5,
    top_k: int = 0,
    top_p: float = 0.0,
    smooth: bool = False,
    generator: torch.Generator | None = None,
    **loop_options,
) -> Sample:
    """Draw one image for each label, (B,) int64 in [0, num_classes]; num_classes is the null class.

    ``cfg`` is the guidance at the last scale (it ramps up from 0), ``top_k`` and ``top_p`` filter the codes (0: off),
    ``smooth`` mixes codes softly, ``generator=None`` uses the global random state. The tokenizer is needed even for
    tokens alone, since each scale's input is built from its codebook. Returns images (B, 3, H, W) in [0, 1] and
    tokens (B, L). Raises ``ValueError`` for impossible parameters. Source: paper, section 3.2; REFERENCE 10-12.
    """
    if tokenizer is None:
        raise ValueError(
            "Next-scale sampling needs the tokenizer, whose codebook makes each scale's input; got None."
        )
    states = list(
        sample_scales(model, tokenizer.quantizer, labels, cfg, top_k, top_p, smooth, generator, **loop_options)
    )
    images = tokenizer.decode_features(states[-1].f_hat_BChw).clamp(-1, 1)
    return Sample((images + 1) / 2, torch.cat([s.tokens_Bl for s in states], dim=1))


def check_sampling(model: VAR, labels: Tensor, cfg: float, top_k: int, top_p: float) -> None:
    """Raise ``ValueError``, in one sentence, for labels or parameters that cannot be meant."""
    check_labels(labels, model.config.num_classes)
    if not math.isfinite(cfg) or cfg < 0 or top_k < 0 or not 0 <= top_p <= 1:
        raise ValueError(
            f"Sampling needs cfg >= 0, top_k >= 0 and top_p in [0, 1]; got cfg {cfg}, top_k {top_k}, top_p {top_p}."
        )


def check_labels(labels: Tensor, classes: int) -> None:
    """Raise ``ValueError`` unless these are classes (B,) or the null class, which has the index ``classes``."""
    if labels.dim() != 1 or labels.numel() == 0 or labels.dtype != torch.int64:
        raise ValueError(f"Labels must be a non-empty int64 vector; got {labels.dtype} {tuple(labels.shape)}.")
    if not labels.is_meta and (int(labels.min()) < 0 or int(labels.max()) > classes):
        raise ValueError(
            f"Labels must lie in 0..{classes - 1} (or {classes}, the null class); got values from "
            f"{int(labels.min())} to {int(labels.max())}."
        )


# Raster order -------------------------------------------------------------------------------------------------------


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
) -> Sample:
    """Draw one image for each condition, token by token: classes (B,) or caption features (B, T, caption_dim).

    ``cfg`` above 1 guides: logits = uncond + cfg (cond - uncond). ``greedy`` takes the likeliest code, else one
    multinomial is drawn per position from the (B, V) table. ``tokenizer=None`` gives ``images=None``.
    ``grid`` is for transformers that have none of their own (published LlamaGen files): 16 x 16 by default.
    ``use_cache=False`` recomputes everything at every step, which is what O(n^6) counts. Raises ``ValueError`` for
    impossible parameters. Source: LlamaGen's code; REFERENCE section 3, points c and e.
    """
    config, guided = gpt.config, cfg > 1
    if not (1 <= cfg < math.inf and 0 < temperature < math.inf and top_k >= 0 and 0 < top_p <= 1):
        raise ValueError(
            f"Raster sampling needs cfg >= 1, temperature > 0, top_k >= 0 and top_p in (0, 1]; got cfg {cfg}, "
            f"temperature {temperature}, top_k {top_k}, top_p {top_p}."
        )
    if not config.caption_tokens:
        check_labels(cond, config.num_classes)
    elif tuple(cond.shape[1:]) != (config.caption_tokens, config.caption_dim) or len(cond) == 0:
        raise ValueError(
            f"Expected caption features of shape (B, {config.caption_tokens}, {config.caption_dim}), B > 0; got "
            f"{tuple(cond.shape)}."
        )
    x_BlD = gpt.prefix(torch.cat([cond, gpt.null_condition(cond)]) if guided else cond)
    grid = config.grid or grid or (16, 16)
    length = config.prefix + math.prod(grid)
    caches = [KVCache(length) for _ in gpt.blocks] if use_cache else None
    begin, tokens = 0, []
    for _ in range(math.prod(grid)):
        logits_BV = gpt.head(gpt.hidden(x_BlD, begin, grid, caches)[:, -1]).float()
        if guided:
            cond_BV, uncond_BV = logits_BV.chunk(2)
            logits_BV = uncond_BV + cfg * (cond_BV - uncond_BV)
        logits_BV = filter_descending(logits_BV / temperature, top_k, top_p)
        token_B = logits_BV.argmax(-1) if greedy else draw_tokens(logits_BV[:, None], generator)[:, 0]
        tokens.append(token_B)
        new_B1D = gpt.token_embed(token_B.repeat(2) if guided else token_B)[:, None]
        if use_cache:
            begin, x_BlD = begin + x_BlD.shape[1], new_B1D
        else:
            x_BlD = torch.cat([x_BlD, new_B1D], dim=1)
    tokens_BN = torch.stack(tokens, dim=1)
    images = None if tokenizer is None else (tokenizer.decode([tokens_BN]) + 1) / 2
    return Sample(images, tokens_BN)


def draw(model: VAR | GPT, tokenizer: VQVAE, labels: Tensor, generator=None, **settings) -> Sample:
    """``sample`` or ``sample_raster``, whichever the model needs, with the settings of its preset."""
    function = sample_raster if isinstance(model, GPT) else sample
    return function(model, tokenizer, labels, generator=generator, **settings)
