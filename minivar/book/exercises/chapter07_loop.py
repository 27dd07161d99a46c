"""The last exercise of chapter 07: the whole loop that draws."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from minivar import sampling
from minivar.book.exercises.chapter05a import small_pair
from minivar.book.exercises.exercise import Exercise
from minivar.scales import ScaleSchedule


def draw_scales(model, quantizer, labels, cfg, top_k, top_p, generator):
    """Labels (B,) -> tokens (B, L), those that minivar.sampling.sample draws with the same generator."""
    batch, num_scales, guided = len(labels), model.schedule.num_scales, cfg > 0
    if guided:
        labels = torch.cat([labels, torch.full_like(labels, model.config.num_classes)])
    cond, cond_blocks = model.condition(labels)
    caches = [sampling.KVCache(model.schedule.num_tokens) for _ in model.blocks]
    f_hat, inputs, tokens = 0, None, []
    for k in range(num_scales):  # from 0: scale k + 1
        hidden = model.embed(k, cond, inputs)
        for block, cache in zip(model.blocks, caches):
            hidden = block(hidden, cond_blocks, None, cache)
        t = cfg * k / max(num_scales - 1, 1)
        rows = 2 * batch if t > 0 else batch
        logits = model.logits(hidden[:rows], cond[:rows])
        if t > 0:
            logits = sampling.guide(logits, t)
        tokens.append(sampling.draw_tokens(sampling.filter_logits(logits, top_k, top_p), generator))
        f_hat = f_hat + quantizer.contribution(quantizer.lookup(tokens[-1]), k)
        if k + 1 < num_scales:
            inputs = quantizer.at_scale(f_hat, k + 1).repeat(1 + guided, 1, 1)
    return torch.cat(tokens, dim=1)


def _draw(
    model, quantizer, labels, cfg, top_k, top_p, generator,
    constant=False, swapped=False, cached=True, summed=True, phi=True, filters=True, always=False, head=False,
) -> Tensor:  # fmt: skip
    """The loop over scales, with switches for what can go wrong."""
    K, B = model.schedule.num_scales, len(labels)
    guided = cfg > 0 or always
    null = torch.full_like(labels, model.config.num_classes)
    halves = [null, labels] if swapped else [labels, null]
    cond, cond_blocks = model.condition(torch.cat(halves) if guided else labels)
    caches = [sampling.KVCache(model.schedule.num_tokens) for _ in model.blocks]
    f_hat, inputs, drawn = 0.0, None, []
    for k in range(K):
        x = model.embed(k, cond, inputs)
        for block, cache in zip(model.blocks, caches):
            x = block(x, cond_blocks, None, cache if cached else None)
        t = cfg if constant else cfg * k / max(K - 1, 1)
        rows = 2 * B if guided and (t > 0 or head or always) else B
        logits = model.logits(x[:rows], cond[:rows])
        logits = sampling.guide(logits, t) if rows > B else logits
        logits = sampling.filter_logits(logits, top_k, top_p) if filters else logits
        drawn.append(sampling.draw_tokens(logits, generator))
        part = _contribution(quantizer, quantizer.lookup(drawn[-1]), k, phi)
        f_hat = f_hat + part if summed else part
        if k + 1 < K:
            inputs = quantizer.at_scale(f_hat, k + 1).repeat(1 + guided, 1, 1)
    return torch.cat(drawn, dim=1)


def _contribution(quantizer, codes: Tensor, k: int, phi: bool) -> Tensor:
    if phi:
        return quantizer.contribution(codes, k)
    grid, final = quantizer.schedule.grids[k], quantizer.schedule.final_grid
    return torch.nn.functional.interpolate(codes.transpose(1, 2).unflatten(2, grid), size=final, mode="bicubic")


def _ask_draw(sides: tuple, labels: list[int], cfg: float, top_k: int = 0, top_p: float = 0.0, passed: bool = False):
    """The tokens; or, for ``passed``, how many sequences pass the first block, and get logits, scale by scale."""

    def asked(function: Callable):
        model, quantizer = small_pair(ScaleSchedule(sides))
        rows: list[int] = []
        model.blocks[0].register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
        model.head.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
        with torch.no_grad():
            draw = torch.Generator().manual_seed(3)
            tokens = function(model, quantizer, torch.tensor(labels), cfg, top_k, top_p, draw)
        return rows if passed else tokens

    return asked


THREE = [0, 4, 2]

DRAW = Exercise(
    draw_scales,
    title="The whole loop",
    stars=3,
    minutes=45,
    way_in="condition, embed, blocks, logits, guide, filter, draw, add, average down",
    hint="Guided, the labels become `[labels; null]`, and everything up to the head has $2B$ sequences, with the "
    "same input $\\hat f$ for both halves. `block(x, cond_blocks, None, cache)` is a block; there is no mask. Give "
    "the head `hidden[:rows]` and `cond[:rows]`, with as many rows as somebody will read.",
    remark="The package's loop has three things more: AdaLN before the loop, soft codes, and a hook for editing, "
    "which chapter 10 uses.",
    cases=(
        ("one scale, without guidance", _ask_draw((1,), THREE, 0.0)),
        ("scales 1, 2 and 4, without guidance", _ask_draw((1, 2, 4), THREE, 0.0)),
        ("scales 1, 2 and 4, cfg = 3", _ask_draw((1, 2, 4), THREE, 3.0)),
        ("scales 1, 2 and 4, cfg = 3, top_k = 9, top_p = 0.7", _ask_draw((1, 2, 4), THREE, 3.0, 9, 0.7)),
        ("grids that are not square, cfg = 2", _ask_draw(((1, 1), (1, 2), (2, 4)), [1, 1], 2.0)),
        ("sequences that pass blocks and head without guidance", _ask_draw((1, 2), THREE, 0.0, passed=True)),
        ("sequences that pass blocks and head with cfg = 3", _ask_draw((1, 2), THREE, 3.0, passed=True)),
    ),
    mistakes=(
        ("The tokens are right; the null half of the first scale needs no logits.", partial(_draw, head=True)),
        ("Guidance is as strong at the first scale as at the last.", partial(_draw, constant=True)),
        ("Class and null class have changed places.", partial(_draw, swapped=True)),
        ("A scale does not see the coarser ones: does each block have its cache?", partial(_draw, cached=False)),
        ("A scale reads the last contribution alone: f_hat is the sum of all.", partial(_draw, summed=False)),
        ("Codes are added as they are, without the quantiser's `contribution`.", partial(_draw, phi=False)),
        ("The filters are missing.", partial(_draw, filters=False)),
        ("The null half is computed though nothing asks for it.", partial(_draw, always=True)),
    ),
)
