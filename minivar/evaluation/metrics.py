"""Distances and shares: Fréchet distance, precision and recall, codebook usage, reconstruction error.

They compare features, whichever network the features are from (``judges``).
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def in_batches(function, images: Tensor, size: int = 500) -> Tensor:
    """Apply ``function`` to slices of ``images`` without gradients and join the results."""
    with torch.no_grad():
        return torch.cat([function(part) for part in images.split(size)])


def frechet_distance(features_a: Tensor, features_b: Tensor) -> float:
    """Fréchet distance of two Gaussians fitted to features (N, F) and (M, F) (FID, arXiv 1706.08500).

    |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)). Both sets should have the same size: the estimate is biased
    upwards for small ones.
    """
    a, b = (features.double().numpy() for features in (features_a, features_b))
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # tr (S_a S_b)^(1/2) is the sum of square roots of the eigenvalues of S_a^(1/2) S_b S_a^(1/2), a symmetric matrix
    values, vectors = np.linalg.eigh(cov_a)
    root_a = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root_a @ cov_b @ root_a).clip(0)).sum()
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


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


def reconstruction_error(tokenizer, images: Tensor) -> float:
    """Mean squared error of images (N, 3, H, W) in [-1, 1] after tokens and back."""
    rebuilt = in_batches(lambda part: tokenizer.decode(tokenizer.encode(part)), images)
    return F.mse_loss(rebuilt, images).item()
