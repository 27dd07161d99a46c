"""Exercises of chapter 11: parameters of a rung, a power law, the floor, and what a budget buys."""

from functools import partial

import numpy as np

from minivar.book.exercises.exercise import Exercise

# A power law ------------------------------------------------------------------------------------------------------


def power_law(x, y):
    """Sizes x and losses y, arrays (M,) -> (alpha, beta) of the law (beta x)^alpha nearest in logarithms."""
    alpha, intercept = np.polyfit(np.log(x), np.log(y), 1)
    return float(alpha), float(np.exp(intercept / alpha))


def _law(x, y, only: str = "", divide: bool = True, mixed: bool = False) -> tuple[float, float]:
    log_x, log_y = (np.log(v) if only in ("", name) else v for name, v in (("x", x), ("y", y)))
    slope, intercept = np.polyfit(log_x, log_y, 1)
    exponent = intercept / slope if divide else intercept
    return float(slope), float(10**exponent if mixed else np.exp(exponent))


def _straight_line(x, y) -> tuple[float, float]:
    slope, intercept = np.polyfit(x, y, 1)
    return float(slope), float(np.exp(intercept / slope))


def _ask_law(x, y, which: int):
    return lambda function: float(function(np.array(x), np.array(y))[which])


LINE = ([1.0, 10.0, 100.0], [1.0, 1e-2, 1e-4])
SIZES = np.array([0.06, 0.2, 0.7, 2.1, 8.0])
LOSSES = (4.0 * SIZES) ** -0.25 * np.array([1.01, 0.98, 1.02, 1.0, 0.99])

POWER_LAW = Exercise(
    power_law,
    title="The line",
    stars=1,
    minutes=8,
    way_in="np.polyfit(..., ..., 1) gives slope and intercept of a line",
    hint="The intercept of the line is $\\alpha \\log \\beta$.",
    remark="`scaling.fit_power_law` does this, and also says how straight the line is, by Pearson's $r$.",
    cases=(
        ("the exponent of y = x^-2", _ask_law(*LINE, 0)),
        ("beta of y = x^-2", _ask_law(*LINE, 1)),
        ("the exponent of five runs", _ask_law(SIZES, LOSSES, 0)),
        ("beta of five runs", _ask_law(SIZES, LOSSES, 1)),
    ),
    mistakes=(
        ("The line is fitted to the numbers themselves: take the logarithms of both first.", _straight_line),
        ("Only one of the two axes is logarithmic.", partial(_law, only="x")),
        ("Only one of the two axes is logarithmic.", partial(_law, only="y")),
        ("The intercept is alpha log beta: divide by alpha before the exponential.", partial(_law, divide=False)),
        ("The logarithms are of base 10 on one side and natural on the other.", partial(_law, mixed=True)),
    ),
)

# How many parameters ----------------------------------------------------------------------------------------------


def block_parameters(depth, width):
    """Entries of the matrices in all blocks, AdaLN's included."""
    attention, mlp, adaln = 4, 8, 6
    return depth * (attention + mlp + adaln) * width**2


def _blocks(depth: int, width: int, attention: int = 4, mlp: int = 8, adaln: int = 6) -> int:
    return depth * (attention + mlp + adaln) * width**2


def _ask_shape(*shape: int):
    return lambda function: int(function(*shape))


BLOCK_PARAMETERS = Exercise(
    block_parameters,
    title="The rule",
    stars=1,
    minutes=5,
    way_in="attention, MLP, AdaLN: so many times width squared, in every block",
    remark="With $D = 64\\,d$ this is the paper's $18 \\cdot 64^2\\, d^3 = 73{,}728\\,d^3$.",
    cases=(
        ("one block of width 1", _ask_shape(1, 1)),
        ("depth 2, width 32", _ask_shape(2, 32)),
        ("VAR-d16", _ask_shape(16, 1024)),
    ),
    mistakes=(
        ("The MLP is two matrices, to 4 D and back: 8 D^2.", partial(_blocks, mlp=4)),
        ("Attention has four matrices: q, k, v, and the way out.", partial(_blocks, attention=3)),
        ("AdaLN is a matrix too: it maps the class to six vectors.", partial(_blocks, adaln=0)),
        ("AdaLN makes six vectors, not one.", partial(_blocks, adaln=1)),
        ("That is one block; there are d of them.", lambda depth, width: _blocks(1, width)),
    ),
)

# What no model can undercut ---------------------------------------------------------------------------------------


def entropy(p):
    """The lowest mean cross-entropy that a model reaches on tokens drawn from p (V,), in nats."""
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


def _ask_tokens(*p: float):
    return lambda function: float(function(np.array(p)))


ENTROPY = Exercise(
    entropy,
    title="The floor of a die",
    stars=1,
    minutes=8,
    way_in="a code that comes with probability p costs -log p, and comes with probability p",
    remark="Codes that never come cost nothing: $p \\log p \\to 0$.",
    cases=(
        ("a fair coin", _ask_tokens(0.5, 0.5)),
        ("512 codes, all alike", _ask_tokens(*[1 / 512] * 512)),
        ("three codes, one of which never comes", _ask_tokens(0.75, 0.25, 0.0)),
        ("a token that is always the same", _ask_tokens(1.0)),
    ),
    mistakes=(
        ("Nats are natural logarithms; these are bits.", lambda p: entropy(p) / float(np.log(2))),
        ("The surprises -log p have to be weighed by how often they come, p.", lambda p: -np.log(p[p > 0]).mean()),
        ("A surprise is minus the logarithm: a loss is not negative.", lambda p: -entropy(p)),
        ("That is the surprise of the likeliest code alone.", lambda p: -np.log(p.max())),
    ),
)

# What a budget buys -----------------------------------------------------------------------------------------------


def best_rung(curves, budget):
    """Which of the curves, (compute, loss) each, has reached the lowest loss within a budget."""
    reached = [loss[compute <= budget] for compute, loss in curves]
    return int(np.argmin([part.min() if len(part) else np.inf for part in reached]))


def _rung(curves, budget: float, strict=False, last=False, beyond=False) -> int:
    losses = []
    for compute, loss in curves:
        inside = loss[compute < budget] if strict else loss[compute <= budget]
        if beyond:
            inside = loss[: len(inside) + 1]
        losses.append(np.inf if not len(inside) else inside[-1] if last else inside.min())
    return int(np.argmin(losses))


CURVES = (
    (np.array([1.0, 2.0, 4.0, 8.0]), np.array([6.0, 5.0, 4.8, 4.7])),
    (np.array([3.0, 6.0, 12.0, 24.0]), np.array([5.5, 4.5, 4.9, 4.85])),  # goes astray after 6
    (np.array([10.0, 20.0, 40.0, 80.0]), np.array([5.2, 4.4, 3.9, 3.5])),
)


def _ask_budget(budget: float):
    return lambda function: int(function(list(CURVES), budget))


BEST_RUNG = Exercise(
    best_rung,
    title="The best rung",
    stars=2,
    minutes=10,
    way_in="loss[compute <= budget] is what a curve has seen by then",
    remark="`scaling.frontier` does this for many budgets, and interpolates between the entries of a curve.",
    cases=(
        ("a budget of 2: one rung has begun", _ask_budget(2.0)),
        ("a budget of 4", _ask_budget(4.0)),
        ("a budget of 8", _ask_budget(8.0)),
        ("a budget of 13, when the second has gone astray", _ask_budget(13.0)),
        ("a budget of 20", _ask_budget(20.0)),
        ("a budget of 100", _ask_budget(100.0)),
    ),
    mistakes=(
        (
            "The budget is ignored: these are the losses at the end of training.",
            lambda curves, budget: int(np.argmin([loss[-1] for _, loss in curves])),
        ),
        ("Entries beyond the budget are not bought.", partial(_rung, beyond=True)),
        ("The budget itself may be spent: compute <= budget.", partial(_rung, strict=True)),
        ("That is the last entry within the budget, not the lowest.", partial(_rung, last=True)),
    ),
)
