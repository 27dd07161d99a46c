"""Judges: networks in whose features samples are compared, and who say what a sample shows.

On ImageNet the judge is InceptionV3. Digits need eyes of their own: ``DigitClassifier`` is a small convolutional
network whose weights are shipped (``data/checkpoints/digits-classifier.safetensors``, built by
``experiments/build_classifier.py``); its penultimate layer gives the features.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from minivar import checkpoints, data
from minivar.checks import check
from minivar.evaluation.metrics import frechet_distance, in_batches, precision_recall


@dataclass(frozen=True)
class ClassifierConfig:
    """Shape of the digit classifier."""

    width: int = 16
    features: int = 64
    num_classes: int = 10
    image_size: int = 28

    def __post_init__(self) -> None:
        check(self, width="[1, 1e6]", features="[1, 1e6]", num_classes="[1, 1e6]", image_size="[4, 65536]")


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


KINDS = {"DigitClassifier": (DigitClassifier, ClassifierConfig)}  # for ``checkpoints.load``
SHIPPED = data.DATA_ROOT / "checkpoints" / "digits-classifier.safetensors"


def load_digit_classifier(path: Path | str = SHIPPED) -> tuple[DigitClassifier, dict]:
    """The judge of the digits, in eval mode, and its header; ``CheckpointError`` where the file is no classifier."""
    return checkpoints.load(Path(path), "DigitClassifier", KINDS)


def judge_digits(
    classifier: DigitClassifier, images: Tensor, labels: Tensor, split: str = "heldout"
) -> dict[str, float]:
    """Scores of generated digits, images (N, 1, 28, 28) in [0, 1], against those of a split.

    Choose by "validation" (800 digits), report on "heldout" (2,000); the names below say held-out for either.

    ``accuracy``: share recognised as their label. ``frechet``: distance to N held-out digits; ``frechet_real``: that
    of N training digits to the same ones, the noise floor; ``frechet_ratio``: the first over the second.
    ``precision`` and ``recall`` likewise, with ``recall_real`` of the training digits for scale. ``novelty``: median
    distance in pixels to the nearest training digit, over that of held-out digits; copies would bring it near 0.
    """
    others = {"heldout": "train+validation", "validation": "train"}[split]  # what a model may have been trained on
    train, heldout = data.load_digits(others), data.load_digits(split)
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
