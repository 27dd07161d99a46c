"""Checks of the exercises of chapter 07: the reader's answer beside those of the mistakes that one makes here."""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import torch
from torch import Tensor

from minivar.book.exercises.verdict import diagnose
from minivar.models import VAR, VARConfig
from minivar.sampling import KVCache, draw_tokens, filter_logits, guide
from minivar.scales import ScaleSchedule
from minivar.tokenizer import MultiScaleQuantizer

# The cache ----------------------------------------------------------------------------------------------------------


def check_append(fn: Callable) -> bool:
    """``fn(cache, k, v)`` -> keys and values of all tokens so far, kept in cache.k, cache.v and cache.filled."""

    def ask(counts: tuple[int, ...], what: Callable):
        """Feed tokens scale by scale; ``what`` picks the answer from the cache and what was returned last."""

        def answer(function: Callable):
            draw = torch.Generator().manual_seed(len(counts))
            cache = SimpleNamespace(k=torch.full((2, 3, 20, 4), 99.0), v=torch.full((2, 3, 20, 4), 99.0), filled=0)
            allocated = cache.k, cache.v
            for count in counts:
                keys, values = torch.randn(2, 2, 3, count, 4, generator=draw)
                last = function(cache, keys, values)
            return what(cache, last, allocated)

        return answer

    def returned(cache, last, allocated):
        return torch.cat(tuple(last), dim=1)

    def written(cache, last, allocated):
        return torch.cat([cache.k, cache.v], dim=1)[:, :, :5]

    def tokens_kept(cache, last, allocated):
        return cache.filled

    def same_memory(cache, last, allocated):
        return cache.k is allocated[0] and cache.v is allocated[1]

    return diagnose(
        "append",
        (
            ("what the first scale, of one token, gets back", ask((1,), returned)),
            ("what cache.k and cache.v hold after scales of 1 and 4 tokens", ask((1, 4), written)),
            ("what the second scale, of 4 tokens, gets back", ask((1, 4), returned)),
            ("what the third of scales of 1, 4 and 9 tokens gets back", ask((1, 4, 9), returned)),
            ("cache.filled after scales of 1 and 4 tokens", ask((1, 4), tokens_kept)),
            ("whether cache.k and cache.v are the tensors that were allocated", ask((1, 4), same_memory)),
        ),
        fn,
        _append,
        (
            ("The new tokens come back alone; a query must see coarser scales too.", partial(_append, alone=True)),
            ("Nothing is written into the cache.", lambda cache, k, v: (k, v)),
            ("Each scale is written over the one before it: where does the next begin?", partial(_append, begin=0)),
            ("The whole buffer comes back, with places never written to.", partial(_append, whole=True)),
            ("Keys and values have changed places.", lambda cache, k, v: _append(cache, k, v)[::-1]),
            ("They are new tensors: joining copies all earlier tokens again.", _joined),
        ),
    )


def _append(cache, k: Tensor, v: Tensor, whole=False, alone=False, begin: int | None = None) -> tuple[Tensor, Tensor]:
    begin = cache.filled if begin is None else begin
    end = begin + k.shape[2]
    cache.k[:, :, begin:end], cache.v[:, :, begin:end], cache.filled = k, v, end
    if whole or alone:
        return (cache.k, cache.v) if whole else (k, v)
    return cache.k[:, :, :end], cache.v[:, :, :end]


def _joined(cache, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    cache.k, cache.v = (torch.cat([x[:, :, : cache.filled], new], 2) for x, new in ((cache.k, k), (cache.v, v)))
    cache.filled += k.shape[2]
    return cache.k, cache.v


# Guidance -----------------------------------------------------------------------------------------------------------


def check_guided_probabilities(fn: Callable[[Tensor, Tensor, int, int, float], Tensor]) -> bool:
    """``fn(p_class, p_null, k, num_scales, cfg)``: probabilities (l, V) -> guided probabilities (l, V)."""

    def ask(k: int, num_scales: int, cfg: float, sharp: float = 1.0):
        draw = torch.Generator().manual_seed(k)
        p_class, p_null = (sharp * torch.randn(2, 3, 6, generator=draw)).softmax(-1)
        return lambda function: function(p_class.clone(), p_null.clone(), k, num_scales, cfg)

    return diagnose(
        "guided probabilities",
        (
            ("the last of 10 scales", ask(9, 10, 1.5)),
            ("the first of 10 scales", ask(0, 10, 4.0)),
            ("the third of 5 scales", ask(2, 5, 3.0)),
            ("a schedule of one scale", ask(0, 1, 2.0)),
            ("sharp distributions", ask(3, 4, 4.0, sharp=4.0)),
        ),
        fn,
        _guided,
        (
            ("The class alone comes back: where is the null class?", lambda c, u, k, n, g: c),
            ("They do not sum to one.", partial(_guided, normalise=False)),
            ("The probabilities are extrapolated; the text extrapolates their logarithms.", _mixed),
            ("The probabilities are extrapolated; the text extrapolates their logarithms.", _clipped),
            ("The first scale is guided already: where does the ramp begin?", _everywhere),
            ("The last scale does not get all of cfg: where does the ramp end?", partial(_guided, steps=0)),
            ("The ramp is one scale ahead.", lambda c, u, k, n, g: _guided(c, u, k + 1, n + 1, g)),
            ("Class and null class have changed places.", lambda c, u, k, n, g: _guided(u, c, k, n, g)),
            ("This takes cfg for LlamaGen's s, which is 1 + t.", _llamagen),
        ),
    )


def _guided(p_class, p_null, k: int, num_scales: int, cfg: float, normalise: bool = True, steps: int = 1) -> Tensor:
    t = cfg * k / max(num_scales - steps, 1)
    weights = p_class ** (1 + t) / p_null**t
    return weights / weights.sum(-1, keepdim=True) if normalise else weights


def _mixed(p_class, p_null, k: int, num_scales: int, cfg: float) -> Tensor:
    t = cfg * k / max(num_scales - 1, 1)
    return (1 + t) * p_class - t * p_null


def _clipped(*arguments) -> Tensor:
    mixed = _mixed(*arguments).clamp_min(0)
    return mixed / mixed.sum(-1, keepdim=True)


def _everywhere(p_class, p_null, k: int, num_scales: int, cfg: float) -> Tensor:
    return _guided(p_class, p_null, 1, 2, cfg)


def _llamagen(p_class, p_null, k: int, num_scales: int, cfg: float) -> Tensor:
    return _guided(p_class, p_null, 1, 2, cfg * k / max(num_scales - 1, 1) - 1)


# Filters ------------------------------------------------------------------------------------------------------------


def check_filter(fn: Callable[[Tensor, int, float], Tensor]) -> bool:
    """``fn(logits, top_k, top_p)``: (l, V) -> (l, V) with -inf for what is filtered out; 0 switches a filter off."""

    def ask(probabilities: list[float], top_k: int, top_p: float):
        logits = torch.tensor([probabilities, probabilities[::-1]]).log()
        return lambda function: function(logits.clone(), top_k, top_p)

    five = [0.10, 0.40, 0.05, 0.30, 0.15]
    return diagnose(
        "filter",
        (
            ("both filters off", ask(five, 0, 0.0)),
            ("top_k = 2", ask(five, 2, 0.0)),
            ("top_k = 9 of five codes", ask(five, 9, 0.0)),
            ("top_p = 0.6", ask(five, 0, 0.6)),
            ("top_p = 0.1, less than the best code has", ask(five, 0, 0.1)),
            ("top_k = 3 and top_p = 0.8", ask(five, 3, 0.8)),
            ("top_k = 4 and top_p = 0.72", ask(five, 4, 0.72)),
        ),
        fn,
        filter_logits,
        (
            ("Nothing is filtered.", lambda x, k, p: x),
            ("Top-p saw codes that top-k removes: which comes first, and what is renormalised?", _top_p_first),
            ("The code whose mass crosses top_p has to stay.", partial(_filter, crossing=False)),
            ("The rows have been sorted, and are not put back into their order.", partial(_filter, unsort=False)),
            ("What to drop was found in sorted rows, and is dropped from unsorted ones.", _mask_astray),
            ("Probabilities come back; logits are asked for.", lambda x, k, p: filter_logits(x, k, p).softmax(-1)),
            ("The worst codes are kept in place of the best.", _worst),
        ),
    )


def _filter(logits: Tensor, top_k: int, top_p: float, crossing: bool = True, unsort: bool = True) -> Tensor:
    """``filter_logits`` by cumulative mass from the best code down, with switches for what can go wrong."""
    descending, order = filter_logits(logits, top_k).sort(dim=-1, descending=True)
    if top_p > 0:
        mass = descending.softmax(-1)
        drop = mass.cumsum(-1) - mass >= top_p if crossing else mass.cumsum(-1) > top_p
        drop[..., 0] = False
        descending = descending.masked_fill(drop, -torch.inf)
    return descending.gather(-1, order.argsort(-1)) if unsort else descending


def _top_p_first(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    return filter_logits(filter_logits(logits, 0, top_p), top_k)


def _mask_astray(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    left = filter_logits(logits, top_k)
    drop = left.sort(dim=-1).values.softmax(-1).cumsum(-1) <= 1 - top_p
    drop[..., -1] = False
    return left.masked_fill(drop, -torch.inf) if top_p > 0 else left


def _worst(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    return logits.masked_fill(filter_logits(-logits, top_k, top_p).isinf(), -torch.inf)


# The loop -----------------------------------------------------------------------------------------------------------


def check_draw(fn: Callable) -> bool:
    """``fn(model, quantizer, labels, cfg, top_k, top_p, generator)`` -> tokens (B, L), those of the package."""

    def ask(sides: tuple, labels: list[int], cfg: float, top_k: int = 0, top_p: float = 0.0, answer=lambda t, *_: t):
        model, quantizer = _small(ScaleSchedule(sides))
        rows: list[int] = []  # sequences that pass the first block, then those that get logits, scale by scale
        model.blocks[0].register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
        model.head.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))

        def asked(function: Callable):
            rows.clear()
            with torch.no_grad():
                draw = torch.Generator().manual_seed(3)
                tokens = function(model, quantizer, torch.tensor(labels), cfg, top_k, top_p, draw)
            return answer(tokens, rows)

        return asked

    def passed(tokens: Tensor, rows: list[int]) -> list[int]:
        return list(rows)

    three = [0, 4, 2]
    return diagnose(
        "draw",
        (
            ("one scale, without guidance", ask((1,), three, 0.0)),
            ("scales 1, 2 and 4, without guidance", ask((1, 2, 4), three, 0.0)),
            ("scales 1, 2 and 4, cfg = 3", ask((1, 2, 4), three, 3.0)),
            ("scales 1, 2 and 4, cfg = 3, top_k = 9, top_p = 0.7", ask((1, 2, 4), three, 3.0, 9, 0.7)),
            ("grids that are not square, cfg = 2", ask(((1, 1), (1, 2), (2, 4)), [1, 1], 2.0)),
            ("how many sequences pass blocks and head without guidance", ask((1, 2), three, 0.0, answer=passed)),
            ("how many sequences pass blocks and head with cfg = 3", ask((1, 2), three, 3.0, answer=passed)),
        ),
        fn,
        _draw,
        (
            ("Guidance is as strong at the first scale as at the last.", partial(_draw, constant=True)),
            ("Class and null class have changed places.", partial(_draw, swapped=True)),
            ("A scale does not see the coarser ones: does each block have its cache?", partial(_draw, cached=False)),
            ("A scale reads the last contribution alone: f_hat is the sum of all.", partial(_draw, summed=False)),
            ("Codes are added as they are, without the quantiser's `contribution`.", partial(_draw, phi=False)),
            ("The filters are missing.", partial(_draw, filters=False)),
            ("The null half is computed though nothing asks for it.", partial(_draw, always=True)),
            ("The tokens are right; the null half of the first scale needs no logits.", partial(_draw, head=True)),
        ),
    )


def _small(schedule: ScaleSchedule) -> tuple[VAR, MultiScaleQuantizer]:
    """A transformer whose weights all matter, and a quantiser, of a size that takes milliseconds."""
    shape = {"num_classes": 5, "codebook_size": 24, "code_dim": 4, "schedule": schedule}
    model, quantizer = VAR(VARConfig(depth=2, width=32, heads=2, **shape)), MultiScaleQuantizer(schedule, 24, 4)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in (*model.parameters(), *quantizer.parameters()):
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=draw))
        quantizer.codebook.mul_(4)
    return model.eval(), quantizer.eval()


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
    caches = [KVCache(model.schedule.num_tokens) for _ in model.blocks]
    f_hat, inputs, drawn = 0.0, None, []
    for k in range(K):
        x = model.embed(k, cond, inputs)
        for block, cache in zip(model.blocks, caches):
            x = block(x, cond_blocks, None, cache if cached else None)
        t = cfg if constant else cfg * k / max(K - 1, 1)
        rows = 2 * B if guided and (t > 0 or head or always) else B
        logits = model.logits(x[:rows], cond[:rows])
        logits = guide(logits, t) if rows > B else logits
        logits = filter_logits(logits, top_k, top_p) if filters else logits
        drawn.append(draw_tokens(logits, generator))
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
