"""Scaling laws: how a loss falls with parameters and with arithmetic (paper, section 5.2).

A power law L = (beta x)^alpha + floor is a straight line of log(L - floor) over log x; ``floor`` is what no model of
this kind can undercut, the entropy of the tokens themselves, and is not known. Explained in
``notebooks/11_scaling.ipynb``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CANDIDATES = 2_000  # floors that are tried, between nothing and the lowest loss
NEAREST = 0.999  # a floor is at most this share of the lowest loss


@dataclass(frozen=True)
class PowerLaw:
    """y = (beta x)^alpha + floor, and how straight the line is: Pearson's r of log(y - floor) and log x."""

    alpha: float
    beta: float
    floor: float
    pearson: float

    def __call__(self, x):
        """y at x, numbers or arrays of them."""
        return (self.beta * np.asarray(x, dtype=float)) ** self.alpha + self.floor


def transformer_parameters(depth: int, width: int) -> int:
    """N = 18 d D^2: the matrices of d blocks, 4 D^2 of attention, 8 D^2 of the MLP, 6 D^2 of AdaLN.

    With D = 64 d it is the paper's 73,728 d^3 (section 4.1). Embeddings, head and biases are not counted.
    """
    return 18 * depth * width**2


def fit_power_law(x: Sequence[float], y: Sequence[float], floor: float = 0.0) -> PowerLaw:
    """Least squares through the logarithms of x (M,) and y - floor (M,), all positive, M of at least 3.

    Raises ``ValueError`` for fewer points, or for numbers that have no logarithm.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if x.ndim != 1 or x.shape != y.shape or len(x) < 3:
        raise ValueError(f"A power law is fitted to at least 3 points (x, y); got shapes {x.shape} and {y.shape}.")
    if not (x > 0).all() or not (y > floor).all():
        raise ValueError(
            f"A power law needs x > 0 and y above its floor {floor:g}; got x from {x.min():g}, y from {y.min():g}."
        )
    log_x, log_y = np.log(x), np.log(y - floor)
    alpha, intercept = np.polyfit(log_x, log_y, 1)  # log(y - floor) = alpha log x + alpha log beta
    return PowerLaw(float(alpha), float(np.exp(intercept / alpha)), floor, float(np.corrcoef(log_x, log_y)[0, 1]))


def fit_with_floor(x: Sequence[float], y: Sequence[float]) -> PowerLaw:
    """The law whose floor leaves the smallest squares of log y, of floors from 0 to just below the lowest y.

    Squares of log(y - floor) would not do: they depend on the floor that is being chosen.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    floors = np.linspace(0, y.min() * NEAREST, CANDIDATES)
    log_x, log_y = np.log(x), np.log(y - floors[:, None])  # all lines at once
    alpha = (log_y * (log_x - log_x.mean())).sum(1) / ((log_x - log_x.mean()) ** 2).sum()
    lines = log_y.mean(1, keepdims=True) + alpha[:, None] * (log_x - log_x.mean())
    misses = ((np.log(np.exp(lines) + floors[:, None]) - np.log(y)) ** 2).sum(1)
    return fit_power_law(x, y, float(floors[misses.argmin()]))


def bootstrap_laws(
    x: Sequence[float], runs: Sequence[Sequence[float]], draws: int = 1_000, floor: float | None = 0.0, seed: int = 0
) -> list[PowerLaw]:
    """Laws of ``draws`` ladders like this one: rungs drawn with replacement, of each one of its runs.

    ``runs[i]`` are the y of the runs at ``x[i]``. ``floor`` None: fitted, of each ladder anew. Ladders of fewer than
    four different rungs are drawn again.
    """
    random = np.random.default_rng(seed)
    laws: list[PowerLaw] = []
    while len(laws) < draws:
        rungs = random.integers(len(x), size=len(x))
        if len(set(rungs.tolist())) < min(4, len(x)):
            continue
        ys = [runs[rung][random.integers(len(runs[rung]))] for rung in rungs]
        xs = [x[rung] for rung in rungs]
        laws.append(fit_with_floor(xs, ys) if floor is None else fit_power_law(xs, ys, floor))
    return laws


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """The middle ``level`` of the values."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def frontier(curves: Sequence[tuple[Sequence[float], Sequence[float]]], points: int = 30) -> np.ndarray:
    """The lowest loss that any of the curves has reached for a budget: float (points, 3), budget, loss, which curve.

    A curve is (compute spent (M,), loss there (M,)), compute ascending. The budgets are evenly spread over the
    logarithm, from where the first curve begins to where the last one ends; between entries of a curve its loss is
    interpolated over the logarithm of compute, and what was reached is kept (training can go astray for a while).
    """
    begin, end = min(c[0][0] for c in curves), max(c[0][-1] for c in curves)
    budgets = np.geomspace(begin, end, points)
    rows = np.full((len(curves), points), np.inf)
    for row, (compute, losses) in zip(rows, curves, strict=True):
        reached = np.minimum.accumulate(np.asarray(losses, dtype=float))
        inside = budgets >= compute[0] * (1 - 1e-12)
        row[inside] = np.interp(np.log(budgets[inside]), np.log(np.asarray(compute, dtype=float)), reached)
    best = rows.argmin(0)
    return np.stack([budgets, rows.min(0), best], 1)


# VAR, arXiv 2404.02905, section 5.2: N in billions, C in PFLOPs, L the cross-entropy less 4.5 nats (last scale) or 5
# nats (all scales), twelve models of depth 6 to 30.
PAPER = {
    "loss of the last scale over N": PowerLaw(-0.23, 2.0, 4.5, -0.998),
    "loss of all scales over N": PowerLaw(-0.20, 2.5, 5.0, -0.998),
    "error of the last scale over N": PowerLaw(-0.016, 4.9e2, 0.0, -0.998),
    "error of all scales over N": PowerLaw(-0.010, 6.5e2, 0.0, -0.998),
    "loss of the last scale over C": PowerLaw(-0.13, 2.2e-5, 4.5, -0.99),
    "loss of all scales over C": PowerLaw(-0.16, 1.5e-5, 5.0, -0.99),
    "error of the last scale over C": PowerLaw(-0.0067, 8.1e-2, 0.0, -0.99),
    "error of all scales over C": PowerLaw(-0.011, 4.4e-2, 0.0, -0.99),
}
