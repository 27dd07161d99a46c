"""Exercises of chapter 07: the cache, guidance, the filters; the loop is in ``chapter07_loop``."""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import torch
from torch import Tensor

from minivar import sampling
from minivar.book.exercises.exercise import Exercise

# The cache ----------------------------------------------------------------------------------------------------------


def append_to_cache(cache, k_BHlE, v_BHlE):
    """Keys and values of a new scale -> those of all tokens so far, (B, H, tokens so far, E) each."""
    end = cache.filled + k_BHlE.shape[2]
    cache.k[:, :, cache.filled : end] = k_BHlE
    cache.v[:, :, cache.filled : end] = v_BHlE
    cache.filled = end
    return cache.k[:, :, :end], cache.v[:, :, :end]


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


def _ask_cache(counts: tuple[int, ...], what: Callable):
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


def _returned(cache, last, allocated) -> Tensor:
    return torch.cat(tuple(last), dim=1)


def _written(cache, last, allocated) -> Tensor:
    return torch.cat([cache.k, cache.v], dim=1)[:, :, :5]


def _tokens_kept(cache, last, allocated) -> int:
    return cache.filled


def _same_memory(cache, last, allocated) -> bool:
    return cache.k is allocated[0] and cache.v is allocated[1]


APPEND = Exercise(
    append_to_cache,
    title="The cache",
    stars=1,
    minutes=10,
    way_in="write behind what is there, move `filled` on, return the filled part",
    hint="A slice of a tensor is a view: assigning to it writes into the tensor, and returning it copies nothing. "
    "There are three things to update and two to return.",
    cases=(
        ("what the first scale, of one token, gets back", _ask_cache((1,), _returned)),
        ("what cache.k and cache.v hold after scales of 1 and 4 tokens", _ask_cache((1, 4), _written)),
        ("what the second scale, of 4 tokens, gets back", _ask_cache((1, 4), _returned)),
        ("what the third of scales of 1, 4 and 9 tokens gets back", _ask_cache((1, 4, 9), _returned)),
        ("cache.filled after scales of 1 and 4 tokens", _ask_cache((1, 4), _tokens_kept)),
        ("whether cache.k and cache.v are the tensors that were allocated", _ask_cache((1, 4), _same_memory)),
    ),
    mistakes=(
        ("The new tokens come back alone; a query must see coarser scales too.", partial(_append, alone=True)),
        ("Nothing is written into the cache.", lambda cache, k, v: (k, v)),
        ("Each scale is written over the one before it: where does the next begin?", partial(_append, begin=0)),
        ("The whole buffer comes back, with places never written to.", partial(_append, whole=True)),
        ("Keys and values have changed places.", lambda cache, k, v: _append(cache, k, v)[::-1]),
        ("They are new tensors: joining copies all earlier tokens again.", _joined),
    ),
)

# Guidance -----------------------------------------------------------------------------------------------------------


def guided_probabilities(p_class, p_null, k, num_scales, cfg):
    """Probabilities (l, V) with class and null class -> guided probabilities (l, V) at scale k = 1, ..., K."""
    t = cfg * (k - 1) / max(num_scales - 1, 1)
    return ((1 + t) * p_class.log() - t * p_null.log()).softmax(-1)


def _guided(p_class: Tensor, p_null: Tensor, t: float, normalise: bool = True) -> Tensor:
    weights = p_class ** (1 + t) / p_null**t
    return weights / weights.sum(-1, keepdim=True) if normalise else weights


def _strength(k: int, num_scales: int, cfg: float, first: int = 1, steps: int = 1) -> float:
    return cfg * (k - first) / max(num_scales - steps, 1)


def _mixed(p_class: Tensor, p_null: Tensor, *scale) -> Tensor:
    t = _strength(*scale)
    return (1 + t) * p_class - t * p_null


def _clipped(*arguments) -> Tensor:
    mixed = _mixed(*arguments).clamp_min(0)
    return mixed / mixed.sum(-1, keepdim=True)


def _ask_guided(k: int, num_scales: int, cfg: float, sharp: float = 1.0):
    draw = torch.Generator().manual_seed(k)
    p_class, p_null = (sharp * torch.randn(2, 3, 6, generator=draw)).softmax(-1)
    return lambda function: function(p_class.clone(), p_null.clone(), k, num_scales, cfg)


GUIDED = Exercise(
    guided_probabilities,
    title="Guidance without logits",
    stars=2,
    minutes=15,
    way_in="the strength of this scale first, then a line of logarithms",
    hint="The product of powers has the right proportions, and the factor is whatever makes the sum one. In which "
    "space would you compute it if probabilities may be very small?",
    remark="A logarithm of probabilities is as good as the logits they came from: the two differ by one constant a "
    "position, which the softmax removes.",
    cases=(
        ("the last of 10 scales", _ask_guided(10, 10, 1.5)),
        ("the first of 10 scales", _ask_guided(1, 10, 4.0)),
        ("the third of 5 scales", _ask_guided(3, 5, 3.0)),
        ("a schedule of one scale", _ask_guided(1, 1, 2.0)),
        ("sharp distributions", _ask_guided(4, 4, 4.0, sharp=4.0)),
    ),
    mistakes=(
        ("The class alone comes back: where is the null class?", lambda c, u, *scale: c),
        ("They do not sum to one.", lambda c, u, *scale: _guided(c, u, _strength(*scale), normalise=False)),
        ("The probabilities are extrapolated; the text extrapolates their logarithms.", _mixed),
        ("The probabilities are extrapolated, and cut off at 0; the text extrapolates their logarithms.", _clipped),
        (
            "All of cfg is used, at the first scale already: where does the ramp begin?",
            lambda c, u, k, n, g: _guided(c, u, g),
        ),
        (
            "Scales are counted from 1: the ramp is one scale ahead, and goes beyond cfg.",
            lambda c, u, *scale: _guided(c, u, _strength(*scale, first=0)),
        ),
        (
            "The ramp begins above 0: it has K - 1 steps, from the first scale to the last.",
            lambda c, u, *scale: _guided(c, u, _strength(*scale, first=0, steps=0)),
        ),
        (
            "The last scale does not get all of cfg: where does the ramp end?",
            lambda c, u, *scale: _guided(c, u, _strength(*scale, steps=0)),
        ),
        ("Class and null class have changed places.", lambda c, u, *scale: _guided(u, c, _strength(*scale))),
        (
            "This takes cfg for LlamaGen's s, which is 1 + t.",
            lambda c, u, *scale: _guided(c, u, _strength(*scale) - 1),
        ),
    ),
)

# Filters ------------------------------------------------------------------------------------------------------------


def keep_likely(logits_lV, top_k, top_p):
    """Logits (l, V) -> logits (l, V) with -inf for the codes that are not to be drawn; 0 switches a filter off."""
    if top_k > 0:
        smallest = logits_lV.topk(min(top_k, logits_lV.shape[-1]), dim=-1).values[..., -1:]
        logits_lV = logits_lV.masked_fill(logits_lV < smallest, -torch.inf)
    if top_p > 0:
        descending, order = logits_lV.sort(dim=-1, descending=True)
        mass = descending.softmax(-1)
        drop = mass.cumsum(-1) - mass >= top_p  # the better codes have the mass already
        drop[..., 0] = False
        logits_lV = logits_lV.masked_fill(drop.scatter(-1, order, drop), -torch.inf)
    return logits_lV


def _filter(logits: Tensor, top_k: int, top_p: float, crossing: bool = True, unsort: bool = True) -> Tensor:
    """``filter_logits`` by cumulative mass from the best code down, with switches for what can go wrong."""
    descending, order = sampling.filter_logits(logits, top_k).sort(dim=-1, descending=True)
    if top_p > 0:
        mass = descending.softmax(-1)
        drop = mass.cumsum(-1) - mass >= top_p if crossing else mass.cumsum(-1) > top_p
        drop[..., 0] = False
        descending = descending.masked_fill(drop, -torch.inf)
    return descending.gather(-1, order.argsort(-1)) if unsort else descending


def _top_p_first(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    return sampling.filter_logits(sampling.filter_logits(logits, 0, top_p), top_k)


def _mask_astray(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    left = sampling.filter_logits(logits, top_k)
    drop = left.sort(dim=-1).values.softmax(-1).cumsum(-1) <= 1 - top_p
    drop[..., -1] = False
    return left.masked_fill(drop, -torch.inf) if top_p > 0 else left


def _worst(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    return logits.masked_fill(sampling.filter_logits(-logits, top_k, top_p).isinf(), -torch.inf)


def _ask_filter(probabilities: list[float], top_k: int, top_p: float):
    logits = torch.tensor([probabilities, probabilities[::-1]]).log()
    return lambda function: function(logits.clone(), top_k, top_p)


FIVE = [0.10, 0.40, 0.05, 0.30, 0.15]

FILTER = Exercise(
    keep_likely,
    title="Top-k, then top-p",
    stars=2,
    minutes=25,
    way_in="find the worst logit that stays; then sort, and add up what is left",
    hint="For top-k, `topk(...).values[..., -1:]` is the smallest logit that stays. For top-p, sort; the softmax of "
    "sorted logits, some of which are $-\\infty$ by now, is already renormalised, and `cumsum` adds it up. What you "
    "learn about the sorted row has to find its way back to the unsorted one: `scatter` with the sorting's indices "
    "does that.",
    remark="The package looks for the smallest logit that stays here too, and needs no way back: see "
    "`sampling.filter_logits`.",
    cases=(
        ("both filters off", _ask_filter(FIVE, 0, 0.0)),
        ("top_k = 2", _ask_filter(FIVE, 2, 0.0)),
        ("top_k = 9 of five codes", _ask_filter(FIVE, 9, 0.0)),
        ("top_p = 0.6", _ask_filter(FIVE, 0, 0.6)),
        ("top_p = 0.1, less than the best code has", _ask_filter(FIVE, 0, 0.1)),
        ("top_k = 3 and top_p = 0.8", _ask_filter(FIVE, 3, 0.8)),
        ("top_k = 4 and top_p = 0.72", _ask_filter(FIVE, 4, 0.72)),
    ),
    mistakes=(
        ("Nothing is filtered.", lambda x, k, p: x),
        ("Top-p saw codes that top-k removes: which comes first, and what is renormalised?", _top_p_first),
        ("The code whose mass crosses top_p has to stay.", partial(_filter, crossing=False)),
        ("The rows have been sorted, and are not put back into their order.", partial(_filter, unsort=False)),
        ("What to drop was found in sorted rows, and is dropped from unsorted ones.", _mask_astray),
        (
            "Probabilities come back; logits are asked for.",
            lambda x, k, p: sampling.filter_logits(x, k, p).softmax(-1),
        ),
        ("The worst codes are kept in place of the best.", _worst),
    ),
)
