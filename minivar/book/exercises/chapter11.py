"""Checks of the exercises of chapter 11: parameters of a rung, a power law, the floor, and what a budget buys."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from minivar.book.exercises.verdict import diagnose

# How many parameters ----------------------------------------------------------------------------------------------


def check_block_parameters(fn: Callable[[int, int], object]) -> bool:
    """``fn(depth, width)`` -> entries of all matrices of the blocks of a VAR, its AdaLN included, as an int."""

    def ask(*shape: int):
        return lambda function: int(function(*shape))

    return diagnose(
        "block_parameters",
        (("one block of width 1", ask(1, 1)), ("depth 2, width 32", ask(2, 32)), ("VAR-d16", ask(16, 1024))),
        fn,
        _block_parameters,
        (
            ("The MLP is two matrices, to 4 D and back: 8 D^2.", partial(_block_parameters, mlp=4)),
            ("Attention has four matrices: q, k, v, and the way out.", partial(_block_parameters, attention=3)),
            ("AdaLN is a matrix too: it maps the class to six vectors.", partial(_block_parameters, adaln=0)),
            ("AdaLN makes six vectors, not one.", partial(_block_parameters, adaln=1)),
            ("That is one block; there are d of them.", lambda depth, width: _block_parameters(1, width)),
        ),
    )


def _block_parameters(depth: int, width: int, attention: int = 4, mlp: int = 8, adaln: int = 6) -> int:
    return depth * (attention + mlp + adaln) * width**2


# A power law ------------------------------------------------------------------------------------------------------

SIZES = np.array([0.06, 0.2, 0.7, 2.1, 8.0])
LOSSES = (4.0 * SIZES) ** -0.25 * np.array([1.01, 0.98, 1.02, 1.0, 0.99])


def check_power_law(fn: Callable[[np.ndarray, np.ndarray], object]) -> bool:
    """``fn(x, y)`` -> (alpha, beta) of the power law y = (beta x)^alpha that is nearest in logarithms, floats."""

    def ask(x, y, which: int):
        return lambda function: float(function(np.array(x), np.array(y))[which])

    line = [1.0, 10.0, 100.0]
    return diagnose(
        "power_law",
        (
            ("the exponent of y = x^-2", ask(line, [1.0, 1e-2, 1e-4], 0)),
            ("beta of y = x^-2", ask(line, [1.0, 1e-2, 1e-4], 1)),
            ("the exponent of five runs", ask(SIZES, LOSSES, 0)),
            ("beta of five runs", ask(SIZES, LOSSES, 1)),
        ),
        fn,
        _power_law,
        (
            ("The line is fitted to the numbers themselves: take the logarithms of both first.", _straight_line),
            ("Only one of the two axes is logarithmic.", partial(_power_law, only="x")),
            ("Only one of the two axes is logarithmic.", partial(_power_law, only="y")),
            (
                "The intercept is alpha log beta: divide it by alpha before you take the exponential.",
                partial(_power_law, divide=False),
            ),
            ("The logarithms are of base 10 on one side and natural on the other.", partial(_power_law, mixed=True)),
        ),
    )


def _power_law(x, y, only: str = "", divide: bool = True, mixed: bool = False) -> tuple[float, float]:
    log_x, log_y = (np.log(v) if only in ("", name) else v for name, v in (("x", x), ("y", y)))
    slope, intercept = np.polyfit(log_x, log_y, 1)
    exponent = intercept / slope if divide else intercept
    return float(slope), float(10**exponent if mixed else np.exp(exponent))


def _straight_line(x, y) -> tuple[float, float]:
    slope, intercept = np.polyfit(x, y, 1)
    return float(slope), float(np.exp(intercept / slope))


# What no model can undercut ---------------------------------------------------------------------------------------


def check_entropy(fn: Callable[[Sequence[float]], object]) -> bool:
    """``fn(p)`` -> the lowest mean cross-entropy that any model reaches on tokens drawn from p (V,), in nats."""

    def ask(*p: float):
        return lambda function: float(function(np.array(p)))

    return diagnose(
        "floor",
        (
            ("a fair coin", ask(0.5, 0.5)),
            ("512 codes, all alike", ask(*[1 / 512] * 512)),
            ("three codes, one of which never comes", ask(0.75, 0.25, 0.0)),
            ("a token that is always the same", ask(1.0)),
        ),
        fn,
        _entropy,
        (
            ("Nats are natural logarithms; these are bits.", lambda p: _entropy(p) / np.log(2)),
            ("The surprises -log p have to be weighed by how often they come, p.", _mean_surprise),
            ("A surprise is minus the logarithm: a loss is not negative.", lambda p: -_entropy(p)),
            ("That is the surprise of the likeliest code alone.", lambda p: -float(np.log(p.max()))),
        ),
    )


def _entropy(p) -> float:
    p = np.asarray(p, dtype=float)
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


def _mean_surprise(p) -> float:
    return float(-np.log(p[p > 0]).mean())


# What a budget buys -----------------------------------------------------------------------------------------------


def check_best_rung(fn: Callable[[Sequence, float], object]) -> bool:
    """``fn(curves, budget)`` -> which of the curves, [(compute, loss)], has the lowest loss within a budget, an int.

    ``compute`` (M,) ascends; a curve that has not begun by then does not count, and a lower loss is kept.
    """
    small = (np.array([1.0, 2.0, 4.0, 8.0]), np.array([6.0, 5.0, 4.8, 4.7]))
    middle = (np.array([3.0, 6.0, 12.0, 24.0]), np.array([5.5, 4.5, 4.9, 4.85]))  # goes astray after 6
    large = (np.array([10.0, 20.0, 40.0, 80.0]), np.array([5.2, 4.4, 3.9, 3.5]))
    curves = [small, middle, large]

    def ask(budget: float):
        return lambda function: int(function(curves, budget))

    return diagnose(
        "best_rung",
        (
            ("a budget of 2: one rung has begun", ask(2.0)),
            ("a budget of 4", ask(4.0)),
            ("a budget of 8", ask(8.0)),
            ("a budget of 13, when the second has gone astray", ask(13.0)),
            ("a budget of 20", ask(20.0)),
            ("a budget of 100", ask(100.0)),
        ),
        fn,
        _best_rung,
        (
            ("The budget is ignored: these are the losses at the end of training.", _best_at_the_end),
            ("Entries beyond the budget are not bought.", partial(_best_rung, beyond=True)),
            ("The budget itself may be spent: compute <= budget.", partial(_best_rung, strict=True)),
            ("That is the last entry within the budget, not the lowest.", partial(_best_rung, last=True)),
        ),
    )


def _best_rung(curves, budget: float, strict=False, last=False, beyond=False) -> int:
    losses = []
    for compute, loss in curves:
        inside = loss[compute < budget] if strict else loss[compute <= budget]
        if beyond:
            inside = loss[: len(inside) + 1]
        losses.append(np.inf if not len(inside) else inside[-1] if last else inside.min())
    return int(np.argmin(losses))


def _best_at_the_end(curves, budget: float) -> int:
    return int(np.argmin([loss[-1] for _, loss in curves]))
