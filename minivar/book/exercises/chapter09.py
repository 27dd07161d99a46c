"""Checks of the exercises of chapter 09: the reader's answer beside those of the mistakes that one makes here."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from minivar.book.exercises.verdict import diagnose

# The Fréchet distance ---------------------------------------------------------------------------------------------


def _sets(seed: int, count: int, other: int, size: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    mix = torch.randn(2, size, size, generator=draw, dtype=torch.float64)
    first = torch.randn(count, size, generator=draw, dtype=torch.float64) @ mix[0]
    return first, torch.randn(other, size, generator=draw, dtype=torch.float64) @ mix[1] + 1.0


def check_frechet(fn: Callable[[Tensor, Tensor], object]) -> bool:
    """``fn(a, b)`` -> Fréchet distance of the Gaussians fitted to features a (N, F) and b (M, F), float64."""

    def ask(*sets: Tensor):
        return lambda function: float(function(*(each.clone() for each in sets)))

    first, second = _sets(0, 40, 40, 3)
    line = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None]
    return diagnose(
        "frechet",
        (
            ("one feature, the same spread, means 3 apart", ask(line, line + 3)),
            ("one feature, the same mean, twice the spread", ask(line, 2 * line)),
            ("a set against itself", ask(first, first)),
            ("three features that vary together", ask(first, second)),
            ("sets of 40 and of 25", ask(*_sets(1, 40, 25, 3))),
            ("few samples: 4 of 6 features, so that covariances are singular", ask(*_sets(2, 4, 4, 6))),
        ),
        fn,
        _frechet,
        (
            (
                "The distance of the means alone: what of two spreads around one place?",
                partial(_frechet, spread=False),
            ),
            ("The means count by their distance; the formula squares it.", partial(_frechet, squared=False)),
            ("The root is taken of each entry: it is meant of the matrix.", partial(_frechet, entrywise=True)),
            ("The covariances divide by N, not by N - 1.", partial(_frechet, correction=0)),
            ("The term with the root counts twice, with a minus.", partial(_frechet, weight=1.0)),
        ),
    )


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


# Precision and recall ---------------------------------------------------------------------------------------------


def check_covered(fn: Callable[[Tensor, Tensor, int], object]) -> bool:
    """``fn(points, manifold, k)`` -> share of points (M, F) in a ball around some of the manifold's (N, F)."""

    def ask(points, manifold, k):
        points, manifold = (torch.as_tensor(x, dtype=torch.float64) for x in (points, manifold))
        return lambda function: float(function(points.clone(), manifold.clone(), k))

    line = [[0.0], [1.0], [2.0], [10.0]]
    draw = torch.Generator().manual_seed(0)
    cloud, others = (torch.randn(60, 2, generator=draw) for _ in range(2))
    return diagnose(
        "covered",
        (
            (
                "points on a line, k = 1: the ball of 10 reaches to 2",
                ask([[0.5], [4.0], [19.0], [-1.5], [3.9]], line, 1),
            ),
            ("the same, k = 2", ask([[0.5], [4.0], [19.0], [-1.5], [3.9]], line, 2)),
            ("the manifold's own points", ask(line, line, 1)),
            ("sixty points among sixty others, k = 3", ask(others, cloud, 3)),
            ("ten points among sixty, k = 3: the share is of the points", ask(others[:10], cloud, 3)),
        ),
        fn,
        _covered,
        (
            ("The nearest neighbour of a point is the point itself: look for k others.", partial(_covered, extra=0)),
            ("The radius belongs to the manifold's point, not to the point that is asked about.", _own_radius),
            ("Every ball has the same size here; each reaches to its own neighbour.", partial(_covered, shared=True)),
            ("This is the share of the balls that hold a point: ask of each point whether a ball holds it.", _balls),
        ),
    )


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


# Inception Score --------------------------------------------------------------------------------------------------


def check_inception(fn: Callable[[Tensor], object]) -> bool:
    """``fn(probs)`` -> exp of the mean divergence of each p(class | image) (N, C) from their mean."""

    def ask(probs):
        probs = torch.as_tensor(probs, dtype=torch.float64)
        return lambda function: float(function(probs.clone()))

    draw = torch.Generator().manual_seed(0)
    soft = torch.randn(30, 5, generator=draw, dtype=torch.float64).softmax(1)
    return diagnose(
        "inception score",
        (
            ("four images, each surely of a class of its own", ask(torch.eye(4))),
            ("four images, all surely of one class", ask(torch.eye(4)[[2, 2, 2, 2]])),
            ("a judge who can never decide", ask(torch.full((6, 3), 1 / 3))),
            ("two classes, one of them three times as often", ask(torch.eye(2)[[0, 0, 0, 1]])),
            ("thirty soft opinions about five classes", ask(soft)),
        ),
        fn,
        _inception,
        (
            ("0 times the logarithm of 0 counts as 0, and log 0 alone is -inf.", partial(_inception, careless=True)),
            ("This is the mean divergence; the score is its exponential.", partial(_inception, exponential=False)),
            ("Divergences are taken from equal shares: take them from the mean of all opinions.", _from_equal),
            ("The divergence is taken the other way round: of the mean from each opinion.", _other_way),
        ),
    )


def _inception(probs: Tensor, careless: bool = False, exponential: bool = True) -> float:
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


# Moments ----------------------------------------------------------------------------------------------------------


def check_streaming(fn: Callable[[list[Tensor]], tuple[Tensor, Tensor]]) -> bool:
    """``fn(batches)`` -> mean (F,) and covariance (F, F) of all rows of the batches (B, F), seen one at a time."""

    def ask(*sizes: int):
        draw = torch.Generator().manual_seed(len(sizes))
        rows = torch.randn(sum(sizes), 3, generator=draw, dtype=torch.float64) * 2 + 5

        def answer(function: Callable):
            mean, covariance = function(list(rows.clone().split(sizes)))
            return torch.cat([torch.as_tensor(mean).flatten(), torch.as_tensor(covariance).flatten()])

        return answer

    return diagnose(
        "streaming",
        (
            ("one batch of 20", ask(20)),
            ("two batches of 10", ask(10, 10)),
            ("batches of 16, 16 and 3", ask(16, 16, 3)),
            ("batches of one", ask(*[1] * 7)),
        ),
        fn,
        _streaming,
        (
            (
                "This is right of the last batch alone: nothing of the earlier ones is kept.",
                lambda b: _streaming(b[-1:]),
            ),
            ("A mean of means is right only where all batches have one size.", _mean_of_means),
            ("The covariance divides by N, not by N - 1.", partial(_streaming, correction=0)),
            ("The mean is not taken off: E[x x'] is not yet a covariance.", partial(_streaming, centred=False)),
        ),
    )


def _streaming(batches: list[Tensor], correction: int = 1, centred: bool = True) -> tuple[Tensor, Tensor]:
    count, total, products = 0, 0.0, 0.0
    for batch in batches:
        count, total, products = count + len(batch), total + batch.sum(0), products + batch.T @ batch
    mean = total / count
    return mean, (products - count * torch.outer(mean, mean) * centred) / (count - correction)


def _mean_of_means(batches: list[Tensor]) -> tuple[Tensor, Tensor]:
    parts = [_streaming([batch]) for batch in batches]
    return torch.stack([mean for mean, _ in parts]).mean(0), torch.stack([cov for _, cov in parts]).mean(0)
