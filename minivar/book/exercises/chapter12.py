"""Checks of the exercises of chapter 12: MaskGIT's schedule and step, the mixture of diffusion, DDIM's way back."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from minivar.book.exercises.verdict import diagnose

# MaskGIT ----------------------------------------------------------------------------------------------------------


def check_hidden_counts(fn: Callable[[int, int], object]) -> bool:
    """``fn(tokens, steps)`` -> how many of the tokens are hidden after step 1, ..., steps, a list of ints.

    floor(tokens cos(pi / 2 step / steps)), and nothing at the end.
    """

    def ask(*numbers: int):
        return lambda function: [int(count) for count in function(*numbers)]

    return diagnose(
        "hidden_counts",
        (("49 tokens, 4 steps", ask(49, 4)), ("one step", ask(49, 1)), ("256 tokens, 8 steps", ask(256, 8))),
        fn,
        _hidden_counts,
        (
            (
                "That is a straight line: the cosine hides most tokens for long.",
                partial(_hidden_counts, shape="line"),
            ),
            (
                "That is how many are shown; asked for are those that stay hidden.",
                partial(_hidden_counts, shown=True),
            ),
            ("The sine begins with nothing hidden; here everything is.", partial(_hidden_counts, shape="sine")),
            ("The list begins after the first step, not before it.", partial(_hidden_counts, first=0)),
        ),
    )


def _hidden_counts(tokens: int, steps: int, shape: str = "cosine", shown: bool = False, first: int = 1) -> list[int]:
    shares = {"cosine": lambda p: math.cos(math.pi / 2 * p), "sine": lambda p: math.sin(math.pi / 2 * p)}
    share = shares.get(shape, lambda p: 1 - p)
    counts = [math.floor(tokens * share(step / steps) + 1e-9) for step in range(first, first + steps)]
    return [tokens - count for count in counts] if shown else counts


def check_keep_surest(fn: Callable[[Tensor, Tensor, Tensor, int, int], object]) -> bool:
    """``fn(tokens, drawn, logits, count, mask)`` -> tokens (B, N) of which the ``count`` least sure are ``mask``.

    ``drawn`` (B, N) replaces the hidden tokens, those that are ``mask``; tokens that were shown stay, whatever the
    ``logits`` (B, N, V) say of them.
    """
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 6, 5, generator=draw) * 2
    drawn = torch.randint(5, (3, 6), generator=draw)
    hidden = torch.full((3, 6), 5)
    some = hidden.clone()
    some[:, 1], some[:, 4] = logits[:, 1].argmin(-1), logits[:, 4].argmin(-1)  # shown, and thought unlikely

    def ask(tokens: Tensor, count: int):
        return lambda function: function(tokens.clone(), drawn.clone(), logits.clone(), count, 5)

    return diagnose(
        "keep_surest",
        (
            ("all hidden, the last step", ask(hidden, 0)),
            ("all hidden, four stay hidden", ask(hidden, 4)),
            ("two are shown, the last step", ask(some, 0)),
            ("two are shown, three stay hidden", ask(some, 3)),
        ),
        fn,
        _keep_surest,
        (
            ("What was shown has been drawn anew.", partial(_keep_surest, redraw=True)),
            (
                "A token that was shown has been hidden again: it counts as infinitely sure.",
                partial(_keep_surest, frozen=False),
            ),
            ("The surest are hidden; it should be the least sure.", partial(_keep_surest, descending=True)),
            (
                "Surety is the probability of the code that was drawn, not of the likeliest code.",
                partial(_keep_surest, of_best=True),
            ),
            ("Logits of two positions do not compare: take log_softmax first.", partial(_keep_surest, raw=True)),
        ),
    )


def _keep_surest(
    tokens,
    drawn,
    logits,
    count: int,
    mask: int,
    redraw=False,
    frozen=True,
    descending=False,
    of_best=False,
    raw=False,
) -> Tensor:
    hidden = tokens == mask
    found = drawn if redraw else torch.where(hidden, drawn, tokens)
    scores = logits if raw else logits.log_softmax(-1)
    surety = scores.amax(-1) if of_best else scores.gather(-1, found[..., None])[..., 0]
    if frozen:
        surety = surety.masked_fill(~hidden, -math.inf if descending else math.inf)
    return found.scatter(-1, surety.argsort(dim=-1, descending=descending)[:, :count], mask)


# Diffusion --------------------------------------------------------------------------------------------------------


def check_mix(fn: Callable[[Tensor, Tensor, float], object]) -> bool:
    """``fn(picture, noise, kept)`` -> x_t, whose variance is made up of a share ``kept`` of the picture's."""
    draw = torch.Generator().manual_seed(1)
    picture, noise = (torch.randn(2, 3, generator=draw) for _ in range(2))

    def ask(kept: float):
        return lambda function: function(picture.clone(), noise.clone(), kept)

    return diagnose(
        "mix",
        (("nothing added yet", ask(1.0)), ("nothing left", ask(0.0)), ("a quarter left", ask(0.25))),
        fn,
        _mix,
        (
            ("The shares are of the variance: take their roots.", partial(_mix, root=False)),
            ("Picture and noise have changed places.", lambda picture, noise, kept: _mix(noise, picture, kept)),
            ("1 - root(kept) is not the root of 1 - kept: it is the variances that add up to one.", _mix_linear),
        ),
    )


def _mix(picture: Tensor, noise: Tensor, kept: float, root: bool = True) -> Tensor:
    power = 0.5 if root else 1.0
    return kept**power * picture + (1 - kept) ** power * noise


def _mix_linear(picture: Tensor, noise: Tensor, kept: float) -> Tensor:
    return kept**0.5 * picture + (1 - kept**0.5) * noise


def check_ddim_step(fn: Callable[[Tensor, Tensor, float, float], object]) -> bool:
    """``fn(x_t, epsilon, kept, kept_before)`` -> x_{t-1}: the picture that epsilon leaves, mixed with it again."""
    draw = torch.Generator().manual_seed(2)
    x, epsilon = (torch.randn(2, 3, generator=draw) for _ in range(2))

    def ask(kept: float, before: float):
        return lambda function: function(x.clone(), epsilon.clone(), kept, before)

    return diagnose(
        "ddim_step",
        (
            ("the last step, to the picture", ask(0.9, 1.0)),
            ("in the middle", ask(0.3, 0.5)),
            ("no step", ask(0.3, 0.3)),
        ),
        fn,
        _ddim_step,
        (
            (
                "That is the picture; it is mixed with the noise again, with less of it.",
                partial(_ddim_step, stop=True),
            ),
            ("Divide by the root of what was kept: the picture in x_t is faint.", partial(_ddim_step, divide=False)),
            ("The noise was added with this step's share, and is taken away with it.", _ddim_early),
            ("The mixture takes the shares of the step before, not of this one.", partial(_ddim_step, again=True)),
        ),
    )


def _ddim_step(x, epsilon, kept: float, before: float, stop=False, divide=True, again=False) -> Tensor:
    picture = x - (1 - kept) ** 0.5 * epsilon
    picture = picture / kept**0.5 if divide else picture
    return picture if stop else _mix(picture, epsilon, kept if again else before)


def _ddim_early(x, epsilon, kept: float, before: float) -> Tensor:
    return _mix((x - (1 - before) ** 0.5 * epsilon) / kept**0.5, epsilon, before)
