"""Judging samples and reconstructions: Fréchet distance, precision and recall, accuracy, codebook usage.

On ImageNet these are computed in the features of InceptionV3. Digits need eyes of their own: ``DigitClassifier`` is
a small convolutional network whose weights are shipped (``data/checkpoints/digits-classifier.safetensors``, built
by ``data/build_classifier.py``); its penultimate layer gives the features.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minivar import data


@dataclass(frozen=True)
class ClassifierConfig:
    """Shape of the digit classifier."""

    width: int = 16
    features: int = 64
    num_classes: int = 10
    image_size: int = 28


class DigitClassifier(nn.Module):
    """Three convolutional stages, 28 x 28 -> 14 -> 7 -> a vector of features -> classes."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        w = config.width
        layers: list[nn.Module] = []
        for c_in, c_out in ((1, w), (w, 2 * w), (2 * w, 4 * w)):
            layers += [nn.Conv2d(c_in, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.ReLU()]
            layers += [nn.Conv2d(c_out, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.ReLU()]
            layers += [nn.MaxPool2d(2)]
        self.body = nn.Sequential(*layers[:-1], nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.project = nn.Linear(16 * w, config.features)
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(config.features, config.num_classes)

    def features(self, images: Tensor) -> Tensor:
        """(B, 1, 28, 28) in [-1, 1] -> (B, 64), the layer before the logits."""
        size = self.config.image_size
        if images.dim() != 4 or tuple(images.shape[1:]) != (1, size, size):
            raise ValueError(f"The classifier expects images (B, 1, {size}, {size}); got {tuple(images.shape)}.")
        return torch.relu(self.project(self.body(images)))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 1, 28, 28) in [-1, 1] -> logits (B, 10)."""
        return self.head(self.dropout(self.features(images)))


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


def judge_digits(classifier: DigitClassifier, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Scores of generated digits, images (N, 1, 28, 28) in [0, 1], against the held-out ones.

    ``accuracy``: share recognised as their label. ``frechet``: distance to N held-out digits; ``frechet_real``: that
    of N training digits to the same ones, the noise floor; ``frechet_ratio``: the first over the second.
    ``precision`` and ``recall`` likewise, with ``recall_real`` of the training digits for scale. ``novelty``: median
    distance in pixels to the nearest training digit, over that of held-out digits; copies would bring it near 0.
    """
    train, heldout = data.load_digits("train"), data.load_digits("heldout")
    count = min(len(images), len(heldout))
    pick = torch.Generator().manual_seed(0)
    chosen = [torch.randperm(len(digits), generator=pick)[:count] for digits in (train, heldout)]
    real_a, real_b = (
        in_batches(classifier.features, digits.batch(index)[0])
        for digits, index in zip((train, heldout), chosen, strict=True)
    )
    fake = in_batches(classifier.features, images[:count] * 2 - 1)
    predicted = in_batches(classifier, images * 2 - 1).argmax(1)
    frechet, frechet_real = frechet_distance(fake, real_b), frechet_distance(real_a, real_b)
    precision, recall = precision_recall(real_b, fake)
    pixels = train.batch(slice(None))[0].flatten(1)

    def distance_to_train(points: Tensor) -> float:
        return in_batches(lambda part: torch.cdist(part.flatten(1), pixels).amin(1), points).median().item()

    return {
        "count": count,
        "accuracy": (predicted == labels).float().mean().item(),
        "frechet": frechet,
        "frechet_real": frechet_real,
        "frechet_ratio": frechet / frechet_real,
        "precision": precision,
        "recall": recall,
        "recall_real": precision_recall(real_b, real_a)[1],
        "novelty": distance_to_train(images * 2 - 1) / distance_to_train(heldout.batch(slice(None))[0]),
    }
