"""Judges: features in which samples are compared, and who says what a sample shows.

On ImageNet the judge is InceptionV3 (``inception``). The embedded worlds need eyes of their own, and two pairs of
them, since a judge may be blind where a model is. Digits: ``DigitClassifier``, a small convolutional network whose
penultimate layer gives the features (built by ``experiments/build_classifier.py``), and a ``ContrastJudge``, which
never saw a label. Emoji: a ``ContrastJudge``, which knows a thing again that another designer drew, and ``layout``,
statistics of colour and shape. Weights are shipped in ``data/checkpoints``.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from minivar import checkpoints, data
from minivar.checks import check
from minivar.evaluation.contrast import ContrastConfig, ContrastJudge, convolutions, layout


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
        self.body = convolutions(1, config.width)
        self.project = nn.Linear(16 * config.width, config.features)
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


KINDS = {  # for ``checkpoints.load``
    "DigitClassifier": (DigitClassifier, ClassifierConfig),
    "ContrastJudge": (ContrastJudge, ContrastConfig),
}
FOLDER = data.DATA_ROOT / "checkpoints"
SHIPPED = FOLDER / "digits-classifier.safetensors"
WORLDS = ("digits", "emoji")  # that have judges of their own


def load_digit_classifier(path: Path | str = SHIPPED) -> tuple[DigitClassifier, dict]:
    """The judge of the digits, in eval mode, and its header; ``CheckpointError`` where the file is no classifier."""
    return checkpoints.load(Path(path), "DigitClassifier", KINDS)


def load_contrast_judge(path: Path | str) -> tuple[ContrastJudge, dict]:
    """A judge that learnt without labels, in eval mode, and its header."""
    return checkpoints.load(Path(path), "ContrastJudge", KINDS)


@functools.cache
def judges_of(world: str) -> dict[str, Callable[[Tensor], Tensor]]:
    """The judges of a world by name: images (B, C, H, W) in [-1, 1] -> features (B, F).

    Raises ``ValueError`` for a world that has none.
    """
    if world not in WORLDS:
        raise ValueError(f"No judge for {world!r}: expected {' or '.join(WORLDS)}.")
    contrast = load_contrast_judge(FOLDER / f"judge-{world}.safetensors")[0].features
    if world == "digits":
        return {"classifier": load_digit_classifier()[0].features, "contrast": contrast}
    return {"contrast": contrast, "layout": layout}
