"""Distances and shares: Fréchet distance, Inception Score, precision and recall, usage, PSNR, SSIM, and intervals.

Those of sets compare features, whichever network the features are from (``judges``).
"""

import warnings
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minivar.distributed import Ranks


def in_batches(function, images: Tensor, size: int = 500) -> Tensor:
    """Apply ``function`` to slices of ``images`` without gradients and join the results."""
    with torch.no_grad():
        return torch.cat([function(part) for part in images.split(size)])


class Moments:
    """Mean and covariance of features that come batch by batch: 50,000 pictures need no more memory than one batch.

    ``add`` features (B, F); ``merged`` with those of other ranks they are the moments of all.
    """

    def __init__(self, features: Tensor | None = None) -> None:
        self.count, self.sum_F, self.products_FF = 0, 0.0, 0.0
        if features is not None:
            self.add(features)

    @classmethod
    def known(cls, mean_F: np.ndarray, covariance_FF: np.ndarray, count: int = 50_000) -> "Moments":
        """Of a set whose mean and covariance somebody else has computed."""
        found = cls()
        found.count, found.sum_F = count, np.asarray(mean_F, dtype=np.float64) * count
        found.products_FF = covariance_FF * (count - 1) + count * np.outer(mean_F, mean_F)
        return found

    def add(self, features_BF: Tensor) -> None:
        """Take a batch in."""
        if features_BF.dim() != 2:
            raise ValueError(f"Features must be (B, F); got {tuple(features_BF.shape)}.")
        batch = features_BF.detach().double().cpu().numpy()
        self.count += len(batch)
        self.sum_F = self.sum_F + batch.sum(0)
        self.products_FF = self.products_FF + batch.T @ batch

    def merged(self, ranks: Ranks) -> "Moments":
        """Of what all ranks have added, on every one of them."""
        whole = Moments()
        for count, sum_F, products_FF in ranks.gather((self.count, self.sum_F, self.products_FF)):
            whole.count += count
            whole.sum_F, whole.products_FF = whole.sum_F + sum_F, whole.products_FF + products_FF
        return whole

    @property
    def mean(self) -> np.ndarray:
        """float64 (F,)."""
        return self.sum_F / self.count

    @property
    def covariance(self) -> np.ndarray:
        """float64 (F, F), divided by one less than the count."""
        return (self.products_FF - self.count * np.outer(self.mean, self.mean)) / (self.count - 1)


def frechet_distance(features_a: Tensor | Moments, features_b: Tensor | Moments) -> float:
    """Fréchet distance of two Gaussians fitted to features (N, F) and (M, F) (FID, arXiv 1706.08500).

    |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)). Both sets should have the same size: the estimate is biased
    upwards for small ones, and warns where a set has no more samples than features, since its covariance is singular
    then. Raises ``ValueError`` for sets that cannot be compared.
    """
    a, b = (found if isinstance(found, Moments) else Moments(found) for found in (features_a, features_b))
    if min(a.count, b.count) < 2 or a.mean.shape != b.mean.shape:
        shapes = " and ".join(f"{found.count} of {np.size(found.sum_F)} numbers" for found in (a, b))
        raise ValueError(f"A Fréchet distance needs two sets of at least 2 features of one size; got {shapes}.")
    fewest, size = min(a.count, b.count), len(a.mean)
    if fewest <= size:
        message = f"A Fréchet distance over {size} features from {fewest} samples: too few, it is biased upwards."
        warnings.warn(message, stacklevel=2)
    cov_a, cov_b = a.covariance, b.covariance
    # tr (S_a S_b)^(1/2) is the sum of square roots of the eigenvalues of S_a^(1/2) S_b S_a^(1/2), a symmetric matrix
    values, vectors = np.linalg.eigh(cov_a)
    root_a = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root_a @ cov_b @ root_a).clip(0)).sum()
    return float(np.square(a.mean - b.mean).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def inception_score(probs_NC: Tensor, splits: int = 10) -> tuple[float, float]:
    """Mean and deviation, over ``splits`` parts in order, of exp E[KL(p(class | image) || p(class))].

    Probabilities (N, C) of any classifier; of InceptionV3 it is the Inception Score (arXiv 1606.03498), from 1, all
    images alike or undecided, to C, all decided and all classes equally many.
    """
    if len(probs_NC) < splits or splits < 1:
        raise ValueError(f"{splits} parts need at least as many images; got {len(probs_NC)}.")
    scores = []
    for part_MC in probs_NC.double().tensor_split(splits):
        divergence = torch.xlogy(part_MC, part_MC) - torch.xlogy(part_MC, part_MC.mean(0, keepdim=True))
        scores.append(divergence.sum(1).mean().exp().item())
    return float(np.mean(scores)), float(np.std(scores))


def bootstrap_interval(
    score: Callable[..., float], *sets: Tensor, draws: int = 200, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Where ``score`` of these sets, each (N, ...), would lie had others of their size been drawn: low and high.

    Every draw takes N of the N members of each set, with replacement; ``level`` of the scores lie between the two
    numbers. It knows the chance of the draw, not a bias that all draws share: a Fréchet distance is biased upwards by
    the smallness of a set, and once more by repeating members, so that it may lie below its own interval.
    """
    generator = torch.Generator().manual_seed(seed)
    scores = []
    for _ in range(draws):
        again = [members[torch.randint(len(members), (len(members),), generator=generator)] for members in sets]
        scores.append(score(*again))
    low, high = np.quantile(scores, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)


def precision_recall(real: Tensor, generated: Tensor, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall (arXiv 1904.06991) of features (N, F), (M, F), both in [0, 1].

    Precision: share of generated points inside the real manifold, the union of balls around real points that reach
    to their ``k``-th neighbour. Recall: share of real points inside the generated manifold; it measures diversity.
    """

    if min(len(real), len(generated)) <= k:
        raise ValueError(f"Precision and recall need more than k = {k} points; got {len(real)} and {len(generated)}.")

    def covered(points: Tensor, manifold: Tensor) -> float:
        radius_N = torch.cdist(manifold, manifold).kthvalue(k + 1, dim=1).values  # the first neighbour is itself
        return (torch.cdist(points, manifold) <= radius_N).any(dim=1).float().mean().item()

    return covered(generated, real), covered(real, generated)


def codebook_usage(tokens: list[Tensor], codebook_size: int) -> list[dict[str, float]]:
    """Per scale: ``used``, the share of the codebook that occurs, and ``perplexity``, exp of the code entropy."""
    result = []
    for tokens_Nl in tokens:
        p_V = torch.bincount(tokens_Nl.flatten(), minlength=codebook_size).double() / tokens_Nl.numel()
        entropy = -(p_V * p_V.clamp_min(1e-12).log()).sum()
        result.append({"used": (p_V > 0).double().mean().item(), "perplexity": entropy.exp().item()})
    return result


def share_in_queue(tokens: Tensor, codebook_size: int, queue: int = 65_536) -> float:
    """LlamaGen's usage: the share of the codebook that occurs among the last ``queue`` tokens, of any shape.

    Fewer tokens than that give a lower share than the paper's would be.
    """
    return len(tokens.flatten()[-queue:].unique()) / codebook_size


def psnr(images: Tensor, others: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each pair of images (B, C, H, W) in [0, 1], in decibels: (B,)."""
    check_pairs(images, others)
    return -10 * (images.double() - others.double()).square().mean((1, 2, 3)).log10()


def ssim(images: Tensor, others: Tensor) -> Tensor:
    """Structural similarity of each pair of images (B, C, H, W) in [0, 1], at most 1: (B,).

    Wang et al. 2004: brightness, contrast and structure of windows of 11 x 11 pixels, weighted by a Gaussian of
    deviation 1.5, averaged over all that lie within the image, and over the channels. (torchmetrics mirrors the image
    at its borders, to have a window around every pixel.) At least 11 pixels a side.
    """
    check_pairs(images, others)
    if min(images.shape[-2:]) < 11:
        raise ValueError(f"SSIM looks at windows of 11 x 11 pixels; got images of {tuple(images.shape[-2:])}.")
    weights = torch.exp(-(torch.arange(-5.0, 6.0, dtype=torch.float64) ** 2) / (2 * 1.5**2))
    weights = (weights / weights.sum()).to(images.device)

    def window_mean(x: Tensor) -> Tensor:
        x = F.conv2d(x.flatten(0, 1)[:, None], weights[None, None, :, None])
        return F.conv2d(x, weights[None, None, None, :])[:, 0].unflatten(0, images.shape[:2])

    a, b = images.double(), others.double()
    mean_a, mean_b = window_mean(a), window_mean(b)
    variance_a, variance_b = window_mean(a * a) - mean_a**2, window_mean(b * b) - mean_b**2
    together = window_mean(a * b) - mean_a * mean_b
    brightness = (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
    structure = (2 * together + 0.03**2) / (variance_a + variance_b + 0.03**2)
    return (brightness * structure).mean((1, 2, 3))


def check_pairs(images: Tensor, others: Tensor) -> None:
    """``ValueError`` unless both are images (B, C, H, W) of one shape."""
    if images.dim() != 4 or images.shape != others.shape:
        raise ValueError(f"Expected two sets (B, C, H, W) of one shape; got {images.shape} and {others.shape}.")


def reconstruction_error(tokenizer, images: Tensor) -> float:
    """Mean squared error of images (N, 3, H, W) in [-1, 1] after tokens and back."""
    rebuilt = in_batches(lambda part: tokenizer.decode(tokenizer.encode(part)), images)
    return F.mse_loss(rebuilt, images).item()
