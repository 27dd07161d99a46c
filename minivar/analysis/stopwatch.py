"""Where the time of drawing goes: the sampling loop once more, with a stopwatch at each of its parts.

The loop is that of ``sampling.sample``, and a test holds their tokens together. Two things differ. Each part has a
name under which its seconds are added up, scale by scale; and guidance is a list of strengths, one a scale, so that
something other than the published ramp can be tried. Explained in ``notebooks/07a_speed.ipynb``.
"""

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from minivar.models import VAR
from minivar.models.layers import modulate
from minivar.sampling import KVCache, Sample, check_sampling, draw_tokens, filter_logits, guide
from minivar.tokenizer import VQVAE

ADALN, INPUTS, ATTENTION, MLP, HEAD = "class and AdaLN", "inputs", "attention", "MLP", "head"
DRAW, QUANTIZER, DECODER = "guidance, filters, draw", "quantiser", "decoder"
PARTS = (ADALN, INPUTS, ATTENTION, MLP, HEAD, DRAW, QUANTIZER, DECODER)


class Stopwatch:
    """Seconds by (part, scale); ``lap`` gives what has passed since the last lap to a part."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.seconds: dict[tuple[str, int], float] = {}
        self.last = clock()

    def lap(self, part: str, k: int) -> None:
        """On a CPU an operation is done when its call returns; a GPU would have to be waited for here."""
        now = self.clock()
        self.seconds[part, k] = self.seconds.get((part, k), 0.0) + now - self.last
        self.last = now


def ramp(cfg: float, num_scales: int) -> list[float]:
    """The published guidance of each scale: from 0 at the first to ``cfg`` at the last."""
    return [cfg * k / max(num_scales - 1, 1) for k in range(num_scales)]


@torch.no_grad()
def sample_in_parts(
    model: VAR,
    tokenizer: VQVAE,
    labels: Tensor,
    strengths: Sequence[float],
    top_k: int = 0,
    top_p: float = 0.0,
    generator: torch.Generator | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Sample, dict[tuple[str, int], float]]:
    """``sampling.sample`` on a CPU, with guidance ``strengths[k]`` at scale k, and the seconds of each (part, k).

    ``clock`` tells the time. What is done once an image is booked on the scale beside it: class and AdaLN on the
    first, the decoder on the last. Raises ``ValueError`` for impossible parameters or another number of strengths
    than of scales.
    """
    schedule, quantizer, batch = model.schedule, tokenizer.quantizer, labels.shape[0]
    if len(strengths) != schedule.num_scales or min(strengths) < 0:
        raise ValueError(f"Expected {schedule.num_scales} guidance strengths, none negative; got {list(strengths)}.")
    check_sampling(model, labels, max(strengths), top_k, top_p)
    guided = max(strengths) > 0
    watch = Stopwatch(clock)
    if guided:
        labels = torch.cat([labels, torch.full_like(labels, model.config.num_classes)])
    cond_2BD, cond_blocks = model.condition(labels)
    sixes = [block.modulation(cond_blocks) for block in model.blocks]
    watch.lap(ADALN, 0)
    caches = [KVCache(schedule.num_tokens) for _ in model.blocks]
    f_hat_BChw, inputs_2BlC, drawn = torch.zeros(()), None, []
    for k, strength in enumerate(strengths):
        x_2BlD = model.embed(k, cond_2BD, inputs_2BlC)
        watch.lap(INPUTS, k)
        for block, cache, (gamma1, gamma2, scale1, scale2, shift1, shift2) in zip(model.blocks, caches, sixes):
            attn_2BlD = block.attn(modulate(x_2BlD, scale1, shift1), None, cache)
            x_2BlD = block.residual(x_2BlD, attn_2BlD, gamma1)
            watch.lap(ATTENTION, k)
            x_2BlD = block.residual(x_2BlD, block.mlp(modulate(x_2BlD, scale2, shift2)), gamma2)
            watch.lap(MLP, k)
        rows = 2 * batch if strength > 0 else batch
        logits_BlV = model.logits(x_2BlD[:rows], cond_2BD[:rows])
        watch.lap(HEAD, k)
        if strength > 0:
            logits_BlV = guide(logits_BlV, strength)
        drawn.append(draw_tokens(filter_logits(logits_BlV, top_k, top_p), generator))
        watch.lap(DRAW, k)
        f_hat_BChw = f_hat_BChw + quantizer.contribution(quantizer.lookup(drawn[-1]), k)
        if k + 1 < schedule.num_scales:
            inputs_2BlC = quantizer.at_scale(f_hat_BChw, k + 1).repeat(1 + guided, 1, 1)
        watch.lap(QUANTIZER, k)
    images = tokenizer.decode_features(f_hat_BChw).clamp(-1, 1)
    watch.lap(DECODER, schedule.num_scales - 1)
    return Sample((images + 1) / 2, torch.cat(drawn, dim=1)), watch.seconds
