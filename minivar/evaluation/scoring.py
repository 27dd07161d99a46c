"""Scores of generated images: against held-out ones, in the features of every judge there is.

Explained in ``notebooks/09_judging.ipynb``.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from minivar import data
from minivar.data import ArraySet
from minivar.evaluation.judges import DigitClassifier, judges_of
from minivar.evaluation.metrics import bootstrap_interval, frechet_distance, in_batches, precision_recall

OTHERS = {"heldout": "train+validation", "validation": "train"}  # what a model may have been trained on


def compare(
    features: Callable[[Tensor], Tensor], images: Tensor, train: ArraySet, heldout: ArraySet, draws: int = 0
) -> dict[str, float | list[float]]:
    """Images (N, C, H, W) in [0, 1] against as many held-out ones, in the features of one judge.

    ``count``: how many of each are compared, N or all held-out ones. ``frechet``: the distance; ``frechet_real``:
    that of as many training images to the same ones, the noise floor; ``frechet_ratio``: the first over the second.
    ``precision`` and ``recall``, with ``recall_real`` of the training images for scale. ``draws`` bootstrap samples
    give the distance an ``interval``.
    """
    count = min(len(images), len(heldout), len(train))
    pick = torch.Generator().manual_seed(0)
    chosen = [torch.randperm(len(each), generator=pick)[:count] for each in (train, heldout)]
    real_a, real_b = (
        in_batches(features, each.batch(index)[0]) for each, index in zip((train, heldout), chosen, strict=True)
    )
    fake = in_batches(features, images[:count] * 2 - 1)
    frechet, frechet_real = frechet_distance(fake, real_b), frechet_distance(real_a, real_b)
    precision, recall = precision_recall(real_b, fake)
    interval = {"interval": list(bootstrap_interval(frechet_distance, fake, real_b, draws=draws))} if draws else {}
    return {
        "count": count,
        "frechet": frechet,
        **interval,
        "frechet_real": frechet_real,
        "frechet_ratio": frechet / frechet_real,
        "precision": precision,
        "recall": recall,
        "recall_real": precision_recall(real_b, real_a)[1],
    }


def novelty(images: Tensor, train: ArraySet, heldout: ArraySet) -> float:
    """Median distance in pixels to the nearest training image, over that of held-out images; near 0 for copies."""
    pixels = train.batch(slice(None))[0].flatten(1)

    def distance_to_train(points: Tensor) -> float:
        return in_batches(lambda part: torch.cdist(part.flatten(1), pixels).amin(1), points).median().item()

    return distance_to_train(images * 2 - 1) / distance_to_train(heldout.batch(slice(None))[0])


def frequency_loss(known_NL: Tensor, tokens_ML: Tensor, codes: int) -> float:
    """Nats a token of int64 ``tokens_ML``, to whom knows how often each code was at each place in ``known_NL``.

    And nothing else: neither what was asked for nor what came before. Each code counts as seen once more than it was.
    """
    count = torch.ones(known_NL.shape[1], codes).scatter_add_(1, known_NL.T, torch.ones(known_NL.T.shape))
    log_p_LV = (count / count.sum(1, keepdim=True)).log()
    return -log_p_LV.gather(1, tokens_ML.T).mean().item()


def judge_digits(
    classifier: DigitClassifier, images: Tensor, labels: Tensor, split: str = "heldout"
) -> dict[str, float]:
    """Scores of generated digits, images (N, 1, 28, 28) in [0, 1], against those of a split, by one judge.

    Choose by "validation" (800 digits), report on "heldout" (2,000). What ``compare`` says, ``accuracy``: share
    recognised as their label, and ``novelty``.
    """
    train, heldout = data.load_digits(OTHERS[split]), data.load_digits(split)
    predicted = in_batches(classifier, images * 2 - 1).argmax(1)
    return {
        **compare(classifier.features, images, train, heldout),
        "accuracy": (predicted == labels).float().mean().item(),
        "novelty": novelty(images, train, heldout),
    }


def judge(images: Tensor, train: ArraySet, heldout: ArraySet, world: str) -> dict[str, dict[str, float]]:
    """What each judge of a world says of images (N, C, H, W) in [0, 1]: ``compare``, by the judge's name."""
    return {name: compare(features, images, train, heldout) for name, features in judges_of(world).items()}


def agreement(scores: Mapping[str, Sequence[float]]) -> float:
    """Share of all pairs of models which two judges put in the same order; .5 is what chance gives.

    ``scores`` of the models in one order, by judge. Raises ``ValueError`` unless there are two judges of one length.
    """
    lengths = [len(each) for each in scores.values()]
    if len(lengths) != 2 or lengths[0] != lengths[1] or lengths[0] < 2:
        raise ValueError(f"Agreement is of two judges on the same two models or more; got {dict(scores)!r:.80}.")
    first, second = scores.values()
    pairs = [(i, j) for i in range(lengths[0]) for j in range(i)]
    return sum((first[i] - first[j]) * (second[i] - second[j]) > 0 for i, j in pairs) / len(pairs)
