"""The loop over scales: every step draws all tokens of one scale at once.

Random draws are taken in the order and shape of the published code, so that a seed gives the same image on a CPU:
one multinomial per scale from a (B * h_k * w_k, V) table, then, with ``smooth``, one exponential of that shape.
Explained in ``notebooks/00_quickstart.ipynb`` and ``notebooks/05a_loss_and_loop.ipynb``.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from minivar.models.text_var import TextVAR
from minivar.models.var import VAR
from minivar.sampling.config import SamplingConfig
from minivar.sampling.drawing import Sample, check_labels, draw_tokens, gumbel_codes
from minivar.sampling.filters import filter_logits
from minivar.sampling.walk import Walk
from minivar.tokenizer.vqvae import VQVAE


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
    ramp: bool = True,
):
    """Generator over the scales: yields a ``ScaleState`` after each. ``sample`` is this loop run to its end.

    ``replace(k, codes_BlC) -> codes_BlC`` may overwrite the codes of a scale before they are added (editing).
    ``ramp=False`` guides all scales as strongly as the last. With ``use_cache=False`` every step recomputes all
    earlier tokens under the block-causal mask: slower, the same result; a test holds the two together.
    """
    check_sampling(model, labels, cfg, top_k, top_p)
    schedule = model.schedule
    guided = cfg > 0  # the null class needs a pass of its own, which costs as much again
    walk = Walk(model, labels, guided, use_cache)
    f_hat_BChw = walk.cond_BD.new_zeros(len(labels), model.config.code_dim, *schedule.final_grid)
    x_BlD = walk.embed(0)
    for k in range(schedule.num_scales):
        mask = None
        if not use_cache:
            end = x_BlD.shape[1]
            mask = schedule.block_causal_mask(labels.device, model.config.prefix)[:end, :end]
        hidden_BlD = walk.hidden(x_BlD, mask)[:, -schedule.counts[k] :]
        ratio = k / max(schedule.num_scales - 1, 1)  # 0 at the first scale, 1 at the last
        logits_BlV = filter_logits(walk.logits(hidden_BlD, cfg * ratio if ramp else cfg), top_k, top_p)
        tokens_Bl = draw_tokens(logits_BlV, generator)
        codes_BlC = quantizer.lookup(tokens_Bl)
        if smooth:
            codes_BlC = gumbel_codes(logits_BlV, quantizer.codebook, ratio, generator)
        if replace is not None:
            codes_BlC = replace(k, codes_BlC)
        f_hat_BChw = f_hat_BChw + quantizer.contribution(codes_BlC, k)
        yield ScaleState(k, tokens_Bl, f_hat_BChw)
        if k + 1 < schedule.num_scales:
            next_BlD = walk.embed(k + 1, quantizer.at_scale(f_hat_BChw, k + 1))
            x_BlD = next_BlD if use_cache else torch.cat([x_BlD, next_BlD], dim=1)


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

    Of a ``TextVAR``, for the features of each caption, (B, T, caption_dim), in place of labels.

    ``cfg`` is the guidance at the last scale (it ramps up from 0), ``top_k`` and ``top_p`` filter the codes (0: off),
    ``smooth`` mixes codes softly, ``generator=None`` uses the global random state. The tokenizer is needed even for
    tokens alone, since each scale's input is built from its codebook. Returns images (B, 3, H, W) in [0, 1] and
    tokens (B, L). Raises ``ValueError`` for impossible parameters. Source: paper, section 3.2; the order of guidance,
    filters and draws is that of its code (``models/var.py``, ``autoregressive_infer_cfg``).
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
    """Raise ``ValueError``, in one sentence, for labels, captions or parameters that cannot be meant."""
    if isinstance(model, TextVAR):
        model.check_condition(labels)
    else:
        check_labels(labels, model.config.num_classes)
    SamplingConfig(cfg, top_k, top_p)
