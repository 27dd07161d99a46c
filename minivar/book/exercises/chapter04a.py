"""Exercises of chapter 04a: the loss of every prefix, which codes are in use, where new ones go, a scale left out."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from minivar.book.exercises.exercise import Exercise
from minivar.scales import ScaleSchedule
from minivar.tokenizer import MultiScaleQuantizer

# The loss of every prefix -----------------------------------------------------------------------------------------


def pyramid_loss(features, sums, beta):
    """Codebook loss and beta times commitment loss: the mean over sums f_hat_1, ..., f_hat_K, each as features."""
    codebook = [(f_hat - features.detach()).square().mean() for f_hat in sums]
    commitment = [(f_hat.detach() - features).square().mean() for f_hat in sums]
    return (sum(codebook) + beta * sum(commitment)) / len(sums)


def _loss(
    features: Tensor,
    sums: Sequence[Tensor],
    beta: float,
    last: bool = False,
    total: bool = False,
    stopped: bool = True,
    swapped: bool = False,
    squares: str = "mean",
) -> Tensor:
    stop = (lambda x: x.detach()) if stopped else (lambda x: x)
    sums = sums[-1:] if last else sums
    codebook = sum(F.mse_loss(f_hat, stop(features), reduction=squares) for f_hat in sums)
    commitment = sum(F.mse_loss(stop(f_hat), features, reduction=squares) for f_hat in sums)
    loss = beta * codebook + commitment if swapped else codebook + beta * commitment
    return loss if total else loss / len(sums)


def _ask_loss(scales: int, beta: float, gradients: bool) -> Callable:
    draw = torch.Generator().manual_seed(scales)
    features, *sums = torch.randn(1 + scales, 2, 3, 4, 4, generator=draw)

    def answer(function: Callable) -> object:
        leaves = [x.clone().requires_grad_() for x in (features, *sums)]
        loss = function(leaves[0], leaves[1:], beta)
        if not gradients:
            return loss.detach()
        loss.backward()
        return torch.cat([(torch.zeros_like(x) if x.grad is None else x.grad).flatten() for x in leaves])

    return answer


LOSS = Exercise(
    pyramid_loss,
    title="The loss of every prefix",
    stars=2,
    minutes=12,
    way_in="two mean squares for each sum, each with a stop on one side",
    hint="`x.detach()` is $\\mathrm{sg}[x]$. Compute the codebook terms and the commitment terms in a list each.",
    remark="In the forward direction the two terms are one number. Only the gradients tell them apart.",
    cases=(
        ("the value, one scale", _ask_loss(1, 0.25, False)),
        ("the value, four scales", _ask_loss(4, 0.25, False)),
        ("the gradients, one scale", _ask_loss(1, 0.25, True)),
        ("the gradients, four scales", _ask_loss(4, 0.5, True)),
    ),
    mistakes=(
        ("Squares are averaged over all elements, not summed.", partial(_loss, squares="sum")),
        ("Only the last sum counts here: every prefix is to be near the features.", partial(_loss, last=True)),
        ("This is the sum over scales; the loss is the mean.", partial(_loss, total=True)),
        ("The value is right, and without the stops both sides move as one.", partial(_loss, stopped=False)),
        ("The value is right; beta weighs the wrong one of the two terms.", partial(_loss, swapped=True)),
    ),
)

# Which codes are in use -------------------------------------------------------------------------------------------


def usage_of(tokens, codebook_size):
    """Share of the codebook that occurs in tokens (of any shape), and the perplexity of the codes."""
    p = torch.bincount(tokens.flatten(), minlength=codebook_size) / tokens.numel()
    p = p[p > 0]
    return len(p) / codebook_size, (-(p * p.log()).sum()).exp().item()


def _usage(tokens: Tensor, codebook_size: int, of: str = "perplexity") -> tuple[float, float]:
    p = torch.bincount(tokens.flatten(), minlength=codebook_size) / tokens.numel()
    if of == "careless":
        return float((p > 0).double().mean()), float((-(p * p.log()).sum()).exp())
    used = p[p > 0]
    entropy = float(-(used * used.log()).sum())
    if of == "share of tokens":
        return len(used) / tokens.numel(), float(torch.tensor(entropy).exp())
    found = {"entropy": entropy, "bits": entropy / float(torch.tensor(2.0).log()), "wrong base": 0.0}
    found["wrong base"] = float(torch.tensor(found["bits"]).exp())
    return len(used) / codebook_size, found.get(of, float(torch.tensor(entropy).exp()))


def _ask_usage(tokens: Sequence, size: int) -> Callable:
    return lambda function: torch.tensor([float(x) for x in function(torch.tensor(tokens), size)]).nan_to_num(-1.0)


USAGE = Exercise(
    usage_of,
    title="Is my codebook alive?",
    stars=1,
    minutes=10,
    way_in="count the codes, and take the exponential of their entropy",
    hint="`torch.bincount(tokens.flatten(), minlength=codebook_size)` counts; drop the zeros before the logarithm.",
    remark="Neither number can exceed what the sample allows: 64 images have at most 64 different codes on a scale "
    "of one cell. Judge the coarse scales by many images.",
    cases=(
        ("sixteen codes, each once", _ask_usage(list(range(16)), 16)),
        ("four codes, equally often, of a codebook of eight", _ask_usage([[0, 2, 4, 6]] * 5, 8)),
        ("one code only", _ask_usage([3] * 10, 8)),
        ("two codes, one of them three times in four", _ask_usage([1, 1, 1, 5], 10)),
    ),
    mistakes=(
        ("0 times the logarithm of 0 counts as 0, and log 0 alone is -inf.", partial(_usage, of="careless")),
        ("This is the entropy; the perplexity is its exponential.", partial(_usage, of="entropy")),
        ("This is the entropy in bits; the perplexity is exp of the entropy in nats.", partial(_usage, of="bits")),
        ("exp undoes the natural logarithm, not that to base 2.", partial(_usage, of="wrong base")),
        ("The share is of the codebook, not of the tokens.", partial(_usage, of="share of tokens")),
    ),
)

# Where new codes go -----------------------------------------------------------------------------------------------


def replacements(residuals, count, generator):
    """New codes (count, C), each from a random scale first, a random vector of it second; residuals: K x (N_k, C)."""
    scales = torch.randint(len(residuals), (count,), generator=generator)
    sizes = torch.tensor([len(residual) for residual in residuals])[scales]
    places = (torch.rand(count, generator=generator) * sizes).long()
    return torch.stack([residuals[k][i] for k, i in zip(scales.tolist(), places.tolist(), strict=True)])


def _any_vector(residuals: Sequence[Tensor], count: int, generator: torch.Generator) -> Tensor:
    vectors = torch.cat(list(residuals))
    return vectors[torch.randint(len(vectors), (count,), generator=generator)]


def _one_scale(residuals: Sequence[Tensor], count: int, generator: torch.Generator) -> Tensor:
    chosen = residuals[int(torch.randint(len(residuals), (), generator=generator))]
    return chosen[torch.randint(len(chosen), (count,), generator=generator)]


def _first_vectors(residuals: Sequence[Tensor], count: int, generator: torch.Generator) -> Tensor:
    return torch.stack(
        [residuals[int(torch.randint(len(residuals), (), generator=generator))][0] for _ in range(count)]
    )


def _shared_places(residuals: Sequence[Tensor], count: int, generator: torch.Generator) -> Tensor:
    smallest = min(len(residual) for residual in residuals)
    scales = torch.randint(len(residuals), (count,), generator=generator)
    places = torch.randint(smallest, (count,), generator=generator)
    return torch.stack([residuals[k][i] for k, i in zip(scales.tolist(), places.tolist(), strict=True)])


SIZES = (8, 8, 80, 120, 184)  # of scales whose vectors are (number of the scale, number of the vector)
NUMBERED = [torch.stack([torch.full((n,), float(k)), torch.arange(float(n))], 1) for k, n in enumerate(SIZES)]


def _draw_from(function: Callable, count: int = 4000) -> Tensor:
    return function([x.clone() for x in NUMBERED], count, torch.Generator().manual_seed(0))


def _shares(function: Callable) -> tuple[float, ...]:
    """Of the scales, to the nearest tenth, sorted."""
    drawn = _draw_from(function)[:, 0].long()
    return tuple(sorted(round(float(n) / len(drawn), 1) for n in torch.bincount(drawn, minlength=len(NUMBERED))))


def _reach(function: Callable) -> str:
    """How much of the last scale is drawn at some time."""
    drawn = _draw_from(function)
    found = drawn[drawn[:, 0] == len(NUMBERED) - 1][:, 1].unique()
    return "one vector" if len(found) < 2 else "a part of them" if len(found) < 100 else "nearly all"


REPLACEMENTS = Exercise(
    replacements,
    title="Where new codes go",
    stars=2,
    minutes=10,
    way_in="draw a scale for each code, then a place in that scale",
    hint="`torch.randint(high, (count,), generator=generator)` draws scales. Scales differ in size, so that places "
    "may be drawn in [0, 1) and multiplied.",
    remark="`Quantizer.revive_dead_codes` draws a candidate for every code, dead or not, since a GPU would have to "
    "be waited for to know how many are dead.",
    cases=(
        ("the shape of seven codes", lambda function: tuple(_draw_from(function, 7).shape)),
        ("how often each of five scales is drawn, sorted", _shares),
        ("how many of the last scale's 184 vectors are ever drawn", _reach),
    ),
    mistakes=(
        ("All vectors are equally likely, so that nearly all come from the finest scale.", _any_vector),
        ("One scale was drawn for all codes; each code is to draw its own.", _one_scale),
        ("Only the first vector of a scale is ever taken.", _first_vectors),
        ("Places beyond the smallest scale's size are never drawn.", _shared_places),
    ),
)

# A scale left out -------------------------------------------------------------------------------------------------


def encode_without(quantizer, features, skipped):
    """f_hat of features (B, C, h, w) where scale ``skipped``, counted from 1, is missing from the start."""
    residual = features
    for k in range(quantizer.schedule.num_scales):
        if k + 1 != skipped:
            z = quantizer.at_scale(residual, k)
            tokens = quantizer.nearest(z.flatten(0, 1), k).view(z.shape[:2])
            residual = residual - quantizer.contribution(quantizer.lookup(tokens), k)
    return features - residual


def _without(
    quantizer: MultiScaleQuantizer,
    features: Tensor,
    skipped: int,
    first: int = 1,
    afterwards: bool = False,
    stops: bool = False,
    left: bool = False,
    afresh: bool = False,
) -> Tensor:
    residual, f_hat = features, torch.zeros_like(features)
    for k in range(quantizer.schedule.num_scales):
        missing = k + first == skipped
        if missing and stops:
            break
        if missing and not afterwards:
            continue
        z = quantizer.at_scale(features if afresh else residual, k)
        tokens = quantizer.nearest(z.flatten(0, 1), k).view(z.shape[:2])
        added = quantizer.contribution(quantizer.lookup(tokens), k)
        residual = residual - added
        f_hat = f_hat if missing else f_hat + added
    return residual if left else f_hat


def _small() -> tuple[MultiScaleQuantizer, Tensor]:
    draw = torch.Generator().manual_seed(1)
    quantizer = MultiScaleQuantizer(ScaleSchedule((1, 2, 4)), codebook_size=32, code_dim=4)
    for parameter in quantizer.parameters():
        parameter.requires_grad_(False).copy_(torch.randn(parameter.shape, generator=draw))
        if parameter.dim() != 2:  # of phi
            parameter.mul_(0.1)
    return quantizer, torch.randn(3, 4, 4, 4, generator=draw)


QUANTIZER, MAPS = _small()


def _ask_without(skipped: int) -> Callable:
    return lambda function: function(QUANTIZER, MAPS.clone(), skipped)


WITHOUT = Exercise(
    encode_without,
    title="A scale that was never there",
    stars=2,
    minutes=15,
    way_in="the loop of chapter 04 by the package's methods, with one scale passed over",
    hint="`at_scale(residual, k)` gives `(B, h_k * w_k, C)`, and `nearest` wants `(N, C)`: flatten, and view the "
    "tokens as `(B, h_k * w_k)` again. The methods count scales from 0.",
    remark="What all scales have added is what they took off the residual, so that no second sum is needed.",
    cases=(
        ("three scales, the second missing", _ask_without(2)),
        ("the first missing", _ask_without(1)),
        ("the last missing", _ask_without(3)),
        ("none missing, skipped = 0", _ask_without(0)),
    ),
    mistakes=(
        (
            "The scale is taken out of the sum, but the finer ones were written as if it were there.",
            partial(_without, afterwards=True),
        ),
        ("Another scale is missing: the methods count from 0, the text from 1.", partial(_without, first=0)),
        ("Nothing comes after the missing scale; the finer ones are to fill the gap.", partial(_without, stops=True)),
        ("This is what is left over; what the scales have added is asked for.", partial(_without, left=True)),
        (
            "Each scale looks at the features themselves; it is to look at what is left of them.",
            partial(_without, afresh=True),
        ),
    ),
)
