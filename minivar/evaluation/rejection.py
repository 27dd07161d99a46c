"""Rejection sampling, the "-re" of the papers' tables: more is drawn than is shown, and a classifier chooses.

For a share a that is accepted, N images cost N / a drawings. What the classifier is surest of is kept, which raises
precision and lowers variety, and flatters every score that is made of what such a classifier sees. Explained in
``notebooks/12_rivals.ipynb``; source: RQ-Transformer (arXiv 2203.01941), as VAR's tables use it.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from minivar.evaluation.evaluating import draw
from minivar.evaluation.metrics import in_batches
from minivar.models import Generator
from minivar.tokenizer import VQVAE, Pixels

Classifier = Callable[[Tensor], Tensor]  # images (B, C, H, W) in [-1, 1] -> logits (B, classes)


def surest(logits_NK: Tensor, labels_N: Tensor, wanted_M: Tensor) -> Tensor:
    """Which drawings to keep: logits (N, classes) of images drawn as ``labels`` (N,) -> indices (M,) for ``wanted``.

    Of each class the most probable as their class come first. Raises ``ValueError`` if a class has too few drawings.
    """
    surety_N = logits_NK.log_softmax(1).gather(1, labels_N[:, None])[:, 0]
    chosen_M = torch.empty_like(wanted_M)
    for label in wanted_M.unique().tolist():
        drawn, places = (labels_N == label).nonzero()[:, 0], (wanted_M == label).nonzero()[:, 0]
        if len(drawn) < len(places):
            raise ValueError(f"Class {label} has {len(drawn)} drawings; expected at least the {len(places)} wanted.")
        chosen_M[places] = drawn[surety_N[drawn].argsort(descending=True, stable=True)[: len(places)]]
    return chosen_M


def candidates(wanted_M: Tensor, accepted: float, seed: int = 0) -> Tensor:
    """Classes (N,) to draw, in random order, so that a share ``accepted`` of each are the wanted ones (M,).

    Raises ``ValueError`` unless 0 < ``accepted`` <= 1.
    """
    if not 0 < accepted <= 1:
        raise ValueError(f"The share of drawings that is accepted lies in (0, 1]; got {accepted}.")
    classes, counts = wanted_M.unique(return_counts=True)
    drawn = [math.ceil(count / accepted - 1e-9) for count in counts.tolist()]  # 7 / 0.07 is not 101
    labels_N = classes.repeat_interleave(torch.tensor(drawn))
    return labels_N[torch.randperm(len(labels_N), generator=torch.Generator().manual_seed(seed))]


def draw_accepted(
    model: Generator,
    tokenizer: VQVAE | Pixels,
    wanted_M: Tensor,
    classifier: Classifier,
    accepted: float,
    seed: int = 0,
    batch: int | None = None,
    **settings,
) -> Tensor:
    """As ``draw``: of 1 / ``accepted`` times as many drawings those that the classifier is surest of."""
    labels_N = candidates(wanted_M, accepted, seed)
    images = draw(model, tokenizer, labels_N, seed, batch, **settings)
    return images[surest(in_batches(classifier, images * 2 - 1), labels_N, wanted_M)]
