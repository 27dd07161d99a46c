"""Everything there is to say of a model, or of two sets of pictures: what ``minivar evaluate`` prints.

Explained in ``notebooks/09_judging.ipynb``.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from minivar.data import ArraySet
from minivar.distributed import Ranks
from minivar.evaluation.judges import judges_of, load_digit_classifier
from minivar.evaluation.metrics import (
    Moments,
    bootstrap_interval,
    codebook_usage,
    frechet_distance,
    in_batches,
    inception_score,
    precision_recall,
    psnr,
    share_in_queue,
    ssim,
)
from minivar.evaluation.pictures import Pictures
from minivar.evaluation.results import ProtocolError
from minivar.evaluation.scoring import compare, novelty
from minivar.models import Generator
from minivar.sampling import generate, images_at_once, packed
from minivar.tokenizer import VQVAE, Pixels
from minivar.tokenizer.losses import Perceptual

MANIFOLD = (
    10_000  # pictures, at most, whose features precision and recall compare, as guided diffusion's evaluator does
)

Judge = Callable[
    [Tensor], tuple[Tensor, Tensor | None]
]  # uint8 (B, 3, H, W) -> features (B, F), probabilities (B, C)


# Two sets of pictures ---------------------------------------------------------------------------------------------


def compare_pictures(
    samples: Pictures,
    reference: Pictures,
    judge: Judge,
    ranks: Ranks | None = None,
    batch: int = 50,
    draws: int = 0,
    known: tuple[np.ndarray, np.ndarray] | None = None,
) -> dict[str, float | list[float]]:
    """FID, Inception Score, precision and recall of samples against a reference, in a judge's features.

    Each rank reads its share of the pictures, ``batch`` at a time, and all get the scores. ``draws`` bootstrap
    samples give the FID an interval, for which all features are kept. ``known``: mean and covariance of the
    reference, in the place of those of its pictures. Raises ``ProtocolError`` where sizes differ.
    """
    ranks = ranks or Ranks()
    if samples.shape[1:] != reference.shape[1:]:
        sizes = [f"{p.shape[2]} x {p.shape[1]}" for p in (samples, reference)]
        raise ProtocolError(
            f"Samples and reference must have one size: got {sizes[0]} in {samples.path}, {sizes[1]} in "
            f"{reference.path}."
        )
    keep = max(len(samples), len(reference)) if draws else MANIFOLD
    moments, features, probs = look(samples, judge, ranks, batch, keep)
    real_moments, real_features, _ = look(reference, judge, ranks, batch, keep)
    if known:
        real_moments = Moments.known(*known)
    fid = frechet_distance(moments, real_moments)
    scores: dict[str, float | list[float]] = {"samples": len(samples), "reference": len(reference), "fid": fid}
    if draws:
        if known:  # of which nobody has the members
            found = bootstrap_interval(lambda drawn: frechet_distance(drawn, real_moments), features, draws=draws)
        else:
            found = bootstrap_interval(frechet_distance, features, real_features, draws=draws)
        scores["fid_interval"] = list(found)
    if probs is not None and len(probs) >= 10:
        scores["inception_score"], scores["inception_score_deviation"] = inception_score(probs)
    precision, recall = precision_recall(real_features[:MANIFOLD], features[:MANIFOLD])
    return {**scores, "precision": precision, "recall": recall}


def look(
    pictures: Pictures, judge: Judge, ranks: Ranks, batch: int, keep: int
) -> tuple[Moments, Tensor, Tensor | None]:
    """Moments of all pictures, features of about ``keep`` at most, and all probabilities, in order; on all ranks."""
    moments, features, probs = Moments(), [], []
    for pixels in pictures.batches(batch, ranks):
        found, probabilities = judge(pixels)
        moments.add(found)
        if sum(map(len, features)) * ranks.count < keep:
            features.append(found.cpu())
        if probabilities is not None:
            probs.append(probabilities.cpu())

    def in_order(parts: list[Tensor]) -> Tensor | None:
        of_ranks = [part for part in ranks.gather(torch.cat(parts) if parts else None) if part is not None]
        if not of_ranks:
            return None
        # rank r has pictures r, r + count, r + 2 count, ...
        whole = torch.empty(sum(map(len, of_ranks)), *of_ranks[0].shape[1:])
        for rank, part in enumerate(of_ranks):
            whole[rank :: len(of_ranks)][: len(part)] = part
        return whole

    return moments.merged(ranks), in_order(features), in_order(probs)


def embedded_judge(world: str, name: str) -> Judge:
    """One of a world's own judges, for pictures in 8 bits; the digits' classifier also says what it sees."""
    features = judges_of(world)[name]
    channels = 1 if world == "digits" else 3
    classifier = load_digit_classifier()[0] if (world, name) == ("digits", "classifier") else None

    @torch.no_grad()
    def judge(pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        images = pixels[:, :channels].float() / 127.5 - 1
        return features(images), None if classifier is None else classifier(images).softmax(-1)

    return judge


def share_of_labels(pictures: Pictures, labels: Path | str, batch: int = 500) -> float:
    """The share of pictures of digits that the classifier sees as their labels, a file ``np.save`` made, int (N,).

    Raises ``ProtocolError`` for labels that do not fit.
    """
    try:
        found = np.load(labels, allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise ProtocolError(f"{labels} holds no labels ({error}): expected an array that np.save wrote.") from error
    if not isinstance(found, np.ndarray) or found.shape != (len(pictures),) or found.dtype.kind not in "iu":
        got = f"{found.dtype} {found.shape}" if isinstance(found, np.ndarray) else "several arrays"
        raise ProtocolError(f"Labels of {len(pictures)} pictures are whole numbers ({len(pictures)},); got {got}.")
    judge = embedded_judge("digits", "classifier")
    seen = torch.cat([judge(pixels)[1].argmax(1) for pixels in pictures.batches(batch)])
    return (seen == torch.from_numpy(found.astype(np.int64))).float().mean().item()


# A model ----------------------------------------------------------------------------------------------------------


def draw(
    model: Generator, tokenizer: VQVAE | Pixels, labels_N: Tensor, seed: int = 0, batch: int | None = None, **settings
) -> Tensor:
    """Images (N, C, H, W) in [0, 1] of classes (N,) by one generator, ``batch`` at a time; on a CPU."""
    generator = torch.Generator().manual_seed(seed)
    batch = batch or images_at_once(model.config)
    tokenizer, model = packed(tokenizer), packed(model)
    parts = [generate(model, tokenizer, part, generator, **settings).images for part in labels_N.split(batch)]
    return torch.cat(parts)


def score_samples(
    images: Tensor, labels: Tensor | None, train: ArraySet, heldout: ArraySet, world: str, draws: int = 0
) -> dict[str, object]:
    """Of images (N, C, H, W) in [0, 1]: what each judge says, by its name, and what depends on none.

    ``draws`` bootstrap samples give each Frechet distance an interval. With ``labels``, of digits: the share that is
    recognised, and the Inception Score of the classifier's probabilities.
    """
    found: dict[str, object] = {"judges": {}}
    for name, features in judges_of(world).items():
        found["judges"][name] = compare(features, images, train, heldout, draws)
    if world == "digits" and labels is not None:
        logits = in_batches(load_digit_classifier()[0], images * 2 - 1)
        found["accuracy"] = (logits.argmax(1) == labels).float().mean().item()
        found["inception_score"], _ = inception_score(logits.softmax(1), splits=min(10, len(logits)))
    return {**found, "novelty": novelty(images, train, heldout)}


def score_tokenizer(
    tokenizer: VQVAE, train: ArraySet, heldout: ArraySet, world: str, perceptual: Perceptual | None = None
) -> dict[str, object]:
    """Of held-out images after tokens and back: error, PSNR, SSIM, LPIPS where there is one, rFID by every judge.

    And of their tokens: per map the share of the codebook in use and its perplexity, and LlamaGen's share in a queue.
    """
    images = heldout.batch(slice(None))[0]
    parts = [tokenizer.encode(part) for part in images.split(500)]
    rebuilt = torch.cat([tokenizer.decode(part) for part in parts])
    tokens = [torch.cat(scale) for scale in zip(*parts, strict=True)]
    pairs = (images + 1) / 2, (rebuilt + 1) / 2
    judged = {name: compare(features, pairs[1], train, heldout) for name, features in judges_of(world).items()}
    found = {
        "mse": (images - rebuilt).square().mean().item(),
        "psnr": psnr(*pairs).mean().item(),
        "ssim": ssim(*pairs).mean().item(),
        "rfid": {name: scores["frechet"] for name, scores in judged.items()},
        "codes": codebook_usage(tokens, tokenizer.config.codebook_size),
        "queue": share_in_queue(torch.cat(tokens, dim=1), tokenizer.config.codebook_size),
    }
    if perceptual is not None:
        with torch.no_grad():
            parts = [perceptual(a, b) * len(a) for a, b in zip(images.split(100), rebuilt.split(100), strict=True)]
        found["lpips"] = (torch.stack(parts).sum() / len(images)).item()
    return found
