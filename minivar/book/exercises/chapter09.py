"""Exercises of chapter 09: the Fréchet distance, moments batch by batch, precision, the Inception Score."""

import math
from functools import partial

import torch
from torch import Tensor

from minivar.book.exercises.exercise import Exercise

# The Fréchet distance ---------------------------------------------------------------------------------------------


def frechet(a, b):
    """The distance of the Gaussians that fit features a (N, F) and b (M, F)."""
    cov_a, cov_b = (torch.cov(x.T).reshape(x.shape[1], x.shape[1]) for x in (a, b))
    roots = torch.linalg.eigvals(cov_a @ cov_b).real.clamp_min(0).sqrt()
    return float((a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * roots.sum())


def _frechet(a: Tensor, b: Tensor, spread=True, squared=True, entrywise=False, correction=1, weight=2.0) -> float:
    means, covariances = [x.mean(0) for x in (a, b)], [torch.cov(x.T, correction=correction) for x in (a, b)]
    covariances = [x.reshape(a.shape[1], a.shape[1]) for x in covariances]
    apart = float((means[0] - means[1]).square().sum())
    if not spread:
        return apart
    product = covariances[0] @ covariances[1]
    if entrywise:
        root = float(product.clamp_min(0).sqrt().trace())
    else:
        root = float(torch.linalg.eigvals(product).real.clamp_min(0).sqrt().sum())
    traces = float(covariances[0].trace() + covariances[1].trace())
    return (apart if squared else math.sqrt(apart)) + traces - weight * root


def _sets(seed: int, count: int, other: int, size: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    blend = torch.randn(2, size, size, generator=draw, dtype=torch.float64)
    first = torch.randn(count, size, generator=draw, dtype=torch.float64) @ blend[0]
    return first, torch.randn(other, size, generator=draw, dtype=torch.float64) @ blend[1] + 1.0


def _ask_sets(*sets: Tensor):
    return lambda function: float(function(*(each.clone() for each in sets)))


LINE = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None]
FIRST, SECOND = _sets(0, 40, 40, 3)

FRECHET = Exercise(
    frechet,
    title="The distance",
    stars=2,
    minutes=15,
    way_in="means, covariances, and the eigenvalues of their product",
    hint="`torch.linalg.eigvals` of the product gives complex numbers whose imaginary part is rounding: take "
    "`.real`, clamp at 0, take roots, add up.",
    remark="`torch.cov` of a single variable is a number and not a matrix, hence the `reshape`.",
    cases=(
        ("one feature, the same spread, means 3 apart", _ask_sets(LINE, LINE + 3)),
        ("one feature, the same mean, twice the spread", _ask_sets(LINE, 2 * LINE)),
        ("a set against itself", _ask_sets(FIRST, FIRST)),
        ("three features that vary together", _ask_sets(FIRST, SECOND)),
        ("sets of 40 and of 25", _ask_sets(*_sets(1, 40, 25, 3))),
        ("few samples: 4 of 6 features, so that covariances are singular", _ask_sets(*_sets(2, 4, 4, 6))),
    ),
    mistakes=(
        ("The distance of the means alone: what of two spreads around one place?", partial(_frechet, spread=False)),
        ("The means count by their distance; the formula squares it.", partial(_frechet, squared=False)),
        ("The root is taken of each entry: it is meant of the matrix.", partial(_frechet, entrywise=True)),
        ("The covariances divide by N, not by N - 1.", partial(_frechet, correction=0)),
        ("The term with the root counts twice, with a minus.", partial(_frechet, weight=1.0)),
    ),
)

# Moments ----------------------------------------------------------------------------------------------------------


def streaming(batches):
    """Mean (F,) and covariance (F, F) of all rows of the batches (B, F), one batch at a time."""
    count, total, products = 0, 0.0, 0.0
    for batch in batches:
        count, total, products = count + len(batch), total + batch.sum(0), products + batch.T @ batch
    mean = total / count
    return mean, (products - count * torch.outer(mean, mean)) / (count - 1)


def _streaming(batches: list[Tensor], correction: int = 1, centred: bool = True) -> tuple[Tensor, Tensor]:
    rows = torch.cat(batches)
    mean, count = rows.mean(0), len(rows)
    return mean, (rows.T @ rows - count * torch.outer(mean, mean) * centred) / (count - correction)


def _mean_of_means(batches: list[Tensor]) -> tuple[Tensor, Tensor]:
    parts = [_streaming([batch]) for batch in batches]
    return torch.stack([mean for mean, _ in parts]).mean(0), torch.stack([cov for _, cov in parts]).mean(0)


def _ask_batches(*sizes: int):
    draw = torch.Generator().manual_seed(len(sizes))
    rows = torch.randn(sum(sizes), 3, generator=draw, dtype=torch.float64) * 2 + 5

    def answer(function):
        mean, covariance = function(list(rows.clone().split(sizes)))
        return torch.cat([torch.as_tensor(mean).flatten(), torch.as_tensor(covariance).flatten()])

    return answer


STREAMING = Exercise(
    streaming,
    title="Moments, batch by batch",
    stars=2,
    minutes=10,
    way_in="three running sums are enough",
    hint="Keep $N$, $\\sum x$ and $\\sum x x^\\top$. With $\\mu$ the mean, "
    "$\\sum (x - \\mu)(x - \\mu)^\\top = \\sum x x^\\top - N \\mu \\mu^\\top$.",
    remark="`evaluation.Moments` does this in float64: the difference of two large sums loses digits.",
    cases=(
        ("one batch of 20", _ask_batches(20)),
        ("two batches of 10", _ask_batches(10, 10)),
        ("batches of 16, 16 and 3", _ask_batches(16, 16, 3)),
        ("batches of one", _ask_batches(*[1] * 7)),
    ),
    mistakes=(
        (
            "This is right of the last batch alone: nothing of the earlier ones is kept.",
            lambda batches: _streaming(batches[-1:]),
        ),
        ("A mean of means is right only where all batches have one size.", _mean_of_means),
        ("The covariance divides by N, not by N - 1.", partial(_streaming, correction=0)),
        ("The mean is not taken off: E[x x'] is not yet a covariance.", partial(_streaming, centred=False)),
    ),
)

# Precision and recall ---------------------------------------------------------------------------------------------


def covered(points, manifold, k):
    """Share of the points (M, F) that lie in a ball around some of the manifold's (N, F)."""
    radius = torch.cdist(manifold, manifold).kthvalue(k + 1, dim=1).values
    return (torch.cdist(points, manifold) <= radius).any(dim=1).float().mean().item()


def _covered(points: Tensor, manifold: Tensor, k: int, extra: int = 1, shared: bool = False) -> float:
    radius = torch.cdist(manifold, manifold).kthvalue(k + extra, dim=1).values
    if shared:
        radius = radius.mean().expand_as(radius)
    return float((torch.cdist(points, manifold) <= radius).any(1).double().mean())


def _own_radius(points: Tensor, manifold: Tensor, k: int) -> float:
    radius = torch.cdist(points, points).kthvalue(min(k + 1, len(points)), dim=1).values
    return float((torch.cdist(points, manifold) <= radius[:, None]).any(1).double().mean())


def _balls(points: Tensor, manifold: Tensor, k: int) -> float:
    radius = torch.cdist(manifold, manifold).kthvalue(k + 1, dim=1).values
    return float((torch.cdist(points, manifold) <= radius).any(0).double().mean())


def _ask_points(points, manifold, k: int):
    points, manifold = (torch.as_tensor(x, dtype=torch.float64) for x in (points, manifold))
    return lambda function: float(function(points.clone(), manifold.clone(), k))


PLACES, ROW = [[0.5], [4.0], [19.0], [-1.5], [3.9]], [[0.0], [1.0], [2.0], [10.0]]
_DRAW = torch.Generator().manual_seed(0)
CLOUD, OTHERS = (torch.randn(60, 2, generator=_DRAW) for _ in range(2))

COVERED = Exercise(
    covered,
    title="Covered",
    stars=2,
    minutes=10,
    way_in="torch.cdist and kthvalue",
    hint="`torch.cdist(manifold, manifold)` has zeros on its diagonal: the first neighbour of a point is itself. "
    "`kthvalue` finds the radius.",
    cases=(
        ("points on a line, k = 1: the ball of 10 reaches to 2", _ask_points(PLACES, ROW, 1)),
        ("the same, k = 2", _ask_points(PLACES, ROW, 2)),
        ("the manifold's own points", _ask_points(ROW, ROW, 1)),
        ("sixty points among sixty others, k = 3", _ask_points(OTHERS, CLOUD, 3)),
        ("ten points among sixty, k = 3: the share is of the points", _ask_points(OTHERS[:10], CLOUD, 3)),
    ),
    mistakes=(
        ("The nearest neighbour of a point is the point itself: look for k others.", partial(_covered, extra=0)),
        ("The radius belongs to the manifold's point, not to the point that is asked about.", _own_radius),
        ("Every ball has the same size here; each reaches to its own neighbour.", partial(_covered, shared=True)),
        ("This is the share of the balls that hold a point: ask of each point whether a ball holds it.", _balls),
    ),
)

# Inception Score --------------------------------------------------------------------------------------------------


def decided_and_varied(probs):
    """exp of the mean divergence of each p(class | image) (N, C) from the mean of all."""
    mean = probs.mean(0, keepdim=True)
    return (torch.xlogy(probs, probs) - torch.xlogy(probs, mean)).sum(1).mean().exp().item()


def _score(probs: Tensor, careless: bool = False, exponential: bool = True) -> float:
    mean = probs.mean(0, keepdim=True)
    if careless:
        return float((probs * (probs.log() - mean.log())).sum(1).mean().exp())
    divergence = (torch.xlogy(probs, probs) - torch.xlogy(probs, mean)).sum(1).mean()
    return float(divergence.exp() if exponential else divergence)


def _from_equal(probs: Tensor) -> float:
    equal = torch.full_like(probs[:1], 1 / probs.shape[1])
    return float((torch.xlogy(probs, probs) - torch.xlogy(probs, equal)).sum(1).mean().exp())


def _other_way(probs: Tensor) -> float:
    mean = probs.mean(0, keepdim=True).expand_as(probs)
    return float((torch.xlogy(mean, mean) - torch.xlogy(mean, probs)).sum(1).mean().exp())


def _ask_opinions(probs):
    probs = torch.as_tensor(probs, dtype=torch.float64)
    return lambda function: float(function(probs.clone()))


SOFT = torch.randn(30, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).softmax(1)

SCORE = Exercise(
    decided_and_varied,
    title="The score",
    stars=1,
    minutes=8,
    way_in="torch.xlogy knows what 0 log 0 is",
    cases=(
        ("four images, each surely of a class of its own", _ask_opinions(torch.eye(4))),
        ("four images, all surely of one class", _ask_opinions(torch.eye(4)[[2, 2, 2, 2]])),
        ("a judge who can never decide", _ask_opinions(torch.full((6, 3), 1 / 3))),
        ("two classes, one of them three times as often", _ask_opinions(torch.eye(2)[[0, 0, 0, 1]])),
        ("thirty soft opinions about five classes", _ask_opinions(SOFT)),
    ),
    mistakes=(
        ("0 times the logarithm of 0 counts as 0, and log 0 alone is -inf.", partial(_score, careless=True)),
        ("This is the mean divergence; the score is its exponential.", partial(_score, exponential=False)),
        ("Divergences are taken from equal shares: take them from the mean of all opinions.", _from_equal),
        ("The divergence is taken the other way round: of the mean from each opinion.", _other_way),
    ),
)
