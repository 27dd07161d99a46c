"""Exercises of chapter 12: MaskGIT's schedule and step, the mixture of diffusion, DDIM's way back."""

import math
from functools import partial

import torch
from torch import Tensor

from minivar.book.exercises.exercise import Exercise

# MaskGIT ----------------------------------------------------------------------------------------------------------


def hidden_after(tokens, steps):
    """How many of the tokens are hidden after step 1, 2, ..., steps: a list of ints."""
    shares = [math.cos(math.pi / 2 * step / steps) for step in range(1, steps + 1)]
    return [math.floor(tokens * share + 1e-9) for share in shares]


def _hidden(tokens: int, steps: int, shape: str = "cosine", shown: bool = False, first: int = 1) -> list[int]:
    shares = {"cosine": lambda p: math.cos(math.pi / 2 * p), "sine": lambda p: math.sin(math.pi / 2 * p)}
    share = shares.get(shape, lambda p: 1 - p)
    counts = [math.floor(tokens * share(step / steps) + 1e-9) for step in range(first, first + steps)]
    return [tokens - count for count in counts] if shown else counts


def _ask_counts(*numbers: int):
    return lambda function: [int(count) for count in function(*numbers)]


HIDDEN_AFTER = Exercise(
    hidden_after,
    title="The schedule",
    stars=1,
    minutes=5,
    way_in="the floor of tokens times a cosine, for each step",
    remark="The last cosine is not 0 but $6 \\cdot 10^{-17}$, and others may come out just below a whole number; "
    "hence the $10^{-9}$. `sampling.hidden_counts` also sees to it that every step shows at least one token.",
    cases=(
        ("49 tokens, 4 steps", _ask_counts(49, 4)),
        ("one step", _ask_counts(49, 1)),
        ("256 tokens, 8 steps", _ask_counts(256, 8)),
    ),
    mistakes=(
        ("That is a straight line: the cosine hides most tokens for long.", partial(_hidden, shape="line")),
        ("That is how many are shown; asked for are those that stay hidden.", partial(_hidden, shown=True)),
        ("The sine begins with nothing hidden; here everything is.", partial(_hidden, shape="sine")),
        ("The list begins after the first step, not before it.", partial(_hidden, first=0)),
    ),
)


def keep_surest(tokens, drawn, logits, count, mask):
    """Tokens (B, N), draws (B, N), their logits (B, N, V) -> tokens of which the count least sure are the mask's."""
    hidden = tokens == mask
    found = torch.where(hidden, drawn, tokens)
    surety = logits.log_softmax(-1).gather(-1, found[..., None])[..., 0]
    surety = surety.masked_fill(~hidden, float("inf"))
    return found.scatter(-1, surety.argsort(dim=-1)[:, :count], mask)


def _keep(
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


MASK = 5
_DRAW = torch.Generator().manual_seed(0)
LOGITS = torch.randn(3, 6, MASK, generator=_DRAW) * 2
DRAWN = torch.randint(MASK, (3, 6), generator=_DRAW)


def _ask_kept(shown: tuple[int, ...], count: int):
    """All tokens are hidden but those at the places ``shown``, whose codes are those that the model likes least."""
    tokens = torch.full((3, 6), MASK)
    for place in shown:
        tokens[:, place] = LOGITS[:, place].argmin(-1)
    return lambda function: function(tokens.clone(), DRAWN.clone(), LOGITS.clone(), count, MASK)


KEEP_SUREST = Exercise(
    keep_surest,
    title="One step",
    stars=2,
    minutes=15,
    way_in="torch.where, log_softmax, gather, argsort, scatter",
    hint="The surety is `logits.log_softmax(-1).gather(-1, found[..., None])[..., 0]`, and infinite where nothing "
    "was hidden.",
    remark="`sampling.sample_masked` adds noise to the surety, less and less over the steps: without it the model "
    "keeps what is easiest, which is the background, and its samples are alike.",
    cases=(
        ("all hidden, the last step", _ask_kept((), 0)),
        ("all hidden, four stay hidden", _ask_kept((), 4)),
        ("two are shown, the last step", _ask_kept((1, 4), 0)),
        ("two are shown, three stay hidden", _ask_kept((1, 4), 3)),
    ),
    mistakes=(
        ("What was shown has been drawn anew.", partial(_keep, redraw=True)),
        ("What was shown has been hidden again: it counts as infinitely sure.", partial(_keep, frozen=False)),
        ("The surest are hidden; it should be the least sure.", partial(_keep, descending=True)),
        (
            "Surety is the probability of the code that was drawn, not of the likeliest code.",
            partial(_keep, of_best=True),
        ),
        ("Logits of two positions do not compare: take log_softmax first.", partial(_keep, raw=True)),
    ),
)

# Diffusion --------------------------------------------------------------------------------------------------------


def mix(picture, noise, kept):
    """x_t, of whose variance the picture makes up the share kept."""
    return kept**0.5 * picture + (1 - kept) ** 0.5 * noise


def ddim_step(x, epsilon, kept, kept_before):
    """From x at level kept to the level kept_before, with epsilon as the network's answer."""
    picture = (x - (1 - kept) ** 0.5 * epsilon) / kept**0.5
    return kept_before**0.5 * picture + (1 - kept_before) ** 0.5 * epsilon


def _step(x, epsilon, kept: float, before: float, stop=False, divide=True, again=False) -> Tensor:
    picture = x - (1 - kept) ** 0.5 * epsilon
    picture = picture / kept**0.5 if divide else picture
    return picture if stop else mix(picture, epsilon, kept if again else before)


A, B = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(1))


def _ask_levels(*levels: float):
    return lambda function: function(A.clone(), B.clone(), *levels)


MIX = Exercise(
    mix,
    title="The mixture",
    stars=1,
    minutes=5,
    way_in="the formula above",
    cases=(
        ("nothing added yet", _ask_levels(1.0)),
        ("nothing left", _ask_levels(0.0)),
        ("a quarter left", _ask_levels(0.25)),
    ),
    mistakes=(
        ("The shares are of the variance: take their roots.", lambda x, e, kept: kept * x + (1 - kept) * e),
        ("Picture and noise have changed places.", lambda x, e, kept: mix(e, x, kept)),
        (
            "1 - root(kept) is not the root of 1 - kept: it is the variances that add up to one.",
            lambda x, e, kept: kept**0.5 * x + (1 - kept**0.5) * e,
        ),
    ),
)
DDIM_STEP = Exercise(
    ddim_step,
    title="A step back",
    stars=2,
    minutes=10,
    way_in="estimate the picture, then mix it with the noise again",
    remark="With the true noise every step is exact, however large. The error of diffusion is the network's alone.",
    cases=(
        ("the last step", _ask_levels(0.9, 1.0)),
        ("in the middle", _ask_levels(0.3, 0.5)),
        ("no step", _ask_levels(0.3, 0.3)),
    ),
    mistakes=(
        ("That is the picture; it is mixed with the noise again, with less of it.", partial(_step, stop=True)),
        ("Divide by the root of what was kept: the picture in x_t is faint.", partial(_step, divide=False)),
        (
            "The noise was added with this step's share, and is taken away with it.",
            lambda x, e, kept, before: mix((x - (1 - before) ** 0.5 * e) / kept**0.5, e, before),
        ),
        ("The mixture takes the shares of the step before, not of this one.", partial(_step, again=True)),
    ),
)
