"""An exercise of chapter 04: which of the four phi convolutions a scale uses."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial

import numpy as np

from minivar.book.exercises.exercise import Exercise


def phi_map(num_scales):
    """For each scale, coarse to fine, the number 0 to 3 of its convolution."""
    ticks = np.linspace(1 / 12, 11 / 12, 4)
    places = [k / max(num_scales - 1, 1) for k in range(num_scales)]
    return tuple(int(np.argmin(np.abs(ticks - place))) for place in places)


EXACT = tuple(Fraction(n, 36) for n in (3, 13, 23, 33))


def _nearest_tick(
    num_scales: int, ticks: Sequence = EXACT, start: int = 0, number: type = Fraction
) -> tuple[int, ...]:
    end = max(num_scales - 1, 1) + start
    places = [number(k + start) / number(end) for k in range(num_scales)]
    return tuple(min(range(4), key=lambda i, place=place: abs(ticks[i] - place)) for place in places)


def _evenly(num_scales: int) -> tuple[int, ...]:
    return tuple(4 * k // num_scales for k in range(num_scales))


def _ask_map(num_scales: int) -> Callable:
    return lambda function: tuple(int(i) for i in function(num_scales))


PHI_MAP = Exercise(
    phi_map,
    title="Which scale uses which convolution",
    stars=2,
    minutes=12,
    way_in="the nearest of four ticks, in double precision",
    hint="`np.linspace(1 / 12, 11 / 12, 4)` makes the ticks, in double precision and with the rounding that the "
    "authors' code has. A single scale has $K - 1 = 0$.",
    remark="With exact fractions one has to know what to do on a tie: take the *finer* tick. For every $K$ up to 100 "
    "that gives what the published arithmetic gives, by luck.",
    cases=(
        ("K = 4, the digits", _ask_map(4)),
        ("K = 14, 1024 pixels", _ask_map(14)),
        ("K = 10, 256 and 512 pixels", _ask_map(10)),
        ("K = 7", _ask_map(7)),
        ("a single scale", _ask_map(1)),
    ),
    mistakes=(
        ("This is right but for ties: with exact numbers the first of two equal distances wins.", _nearest_tick),
        (
            "This is right but for ties: 13/36 as Python rounds it is not the second tick of np.linspace.",
            partial(_nearest_tick, ticks=(1 / 12, 13 / 36, 23 / 36, 11 / 12), number=float),
        ),
        (
            "This is right but for ties: the ticks are in single precision.",
            partial(_nearest_tick, ticks=np.linspace(1 / 12, 11 / 12, 4, dtype=np.float32).tolist(), number=float),
        ),
        ("The scales are cut into four equal parts; each is to take the tick that is nearest.", _evenly),
        ("The first scale is to lie at 0 and the last at 1: k goes from 1 to K.", partial(_nearest_tick, start=1)),
        (
            "The ticks lie a twelfth from either end, and a third of what is between them apart; not at odd eighths.",
            partial(_nearest_tick, ticks=tuple(Fraction(n, 8) for n in (1, 3, 5, 7))),
        ),
    ),
)
