"""Whether pictures show what they were asked for: two towers, one of texts and one of images, that meet.

The towers learn that a caption and its drawing are a pair and no others of a batch are (CLIP, arXiv 2103.00020). The
one of texts is the encoder that transformers read; the other looks at what they drew, and finds, among the names of
many things, the one that was asked for. Built by ``experiments/build_text.py``. Explained in
``notebooks/15_text_and_serving.ipynb``.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from minivar import checkpoints
from minivar.data import DATA_ROOT, Captioned, to_uint8
from minivar.data.captions import compose
from minivar.data.colours import NAMES, NONE, colour_of
from minivar.data.words import words_of
from minivar.evaluation.contrast import ContrastJudge
from minivar.evaluation.judges import load_contrast_judge
from minivar.evaluation.metrics import in_batches
from minivar.files import CheckpointError, weights_fingerprint
from minivar.models import TextEncoder

TEXT, JUDGE = "text-emoji.safetensors", "judge-text-emoji.safetensors"  # in data/checkpoints


def caption_loss(
    images_BP: Tensor, texts_BP: Tensor, log_scale: Tensor, also_true_BB: Tensor | None = None
) -> Tensor:
    """Cross-entropy of finding a picture's caption among those of the batch, and a caption's picture: their mean.

    Row i of both is a pair; both are of length 1. ``also_true_BB``, bool: where the caption of the column is true of
    the picture of the row, though it was said of another: such pairs do not count as wrong.
    """
    logits_BB = images_BP @ texts_BP.T * log_scale.clamp_max(4.6052).exp()  # at most 100, as in CLIP
    own = torch.arange(len(logits_BB), device=logits_BB.device)
    if also_true_BB is not None:
        others = also_true_BB & ~torch.eye(len(own), dtype=torch.bool, device=own.device)
        logits_BB = logits_BB.masked_fill(others, -torch.inf)
    return (F.cross_entropy(logits_BB, own) + F.cross_entropy(logits_BB.T, own)) / 2


def also_true(images: Captioned, index: Tensor, epoch: int) -> Tensor:
    """bool (B, B): whether the column's caption in this epoch is true of the row's drawing.

    It is if it says nothing that differs: the thing (or, without a subject, any), the colour and the style, as far as
    it says them.
    """
    name, keywords, colour, style = images.said(index, epoch).unbind(1)
    same = {key: (v := images.extra[key].values[index])[:, None] == v for key in ("name", "colour", "style")}
    return (same["name"] | ~(name | keywords)) & (same["colour"] | ~colour) & (same["style"] | ~style)


@dataclass(frozen=True)
class CaptionJudge:
    """The two towers."""

    image: ContrastJudge
    text: TextEncoder

    def of_images(self, images: Tensor) -> Tensor:
        """(N, 3, s, s) in [-1, 1] -> (N, P), of length 1."""
        return in_batches(self.image, images)

    def of_texts(self, texts: list[str]) -> Tensor:
        """Texts -> (N, P), of length 1."""
        ids = self.text.config.vocabulary.ids(texts)
        return in_batches(self.text.embed, ids, 2000)


def load_caption_judge(folder: Path | str = DATA_ROOT / "checkpoints") -> CaptionJudge:
    """The two towers, in eval mode; ``CheckpointError`` where one is missing or they do not belong together."""
    text, _ = checkpoints.load(Path(folder) / TEXT, "TextEncoder")
    image, header = load_contrast_judge(Path(folder) / JUDGE)
    if header.get("text") != weights_fingerprint(text):
        raise CheckpointError(
            f"{TEXT} and {JUDGE} in {folder} do not belong together: the judge learned beside an encoder with the "
            f"fingerprint {str(header.get('text'))[:12]}, and this one has {weights_fingerprint(text)[:12]}."
        )
    return CaptionJudge(image, text)


def retrieval_of_captions(judge: CaptionJudge, images: Tensor, asked: Captioned) -> dict[str, dict[str, float]]:
    """Images (N, 3, s, s) in [0, 1], drawn from the full captions of ``asked``, in its order -> how often right.

    "thing": how often the judge, among all things of ``asked`` called by name in the style that was asked for, finds
    the right one nearest; "top5": among the five nearest; "group": how often what it finds is of the right group.
    "style": how often it finds the right style among all, for the thing that was asked for. "colour": how often the
    colour measured from the pixels (``data.colours``) is the one asked for, where one was. Each with
    what chance gives: for things one in as many, for groups the share of things in the right one, for styles one in
    as many, for colours what the same pictures in another order would give. What is called ``asked`` itself gives the
    most that can be hoped for.
    """
    extra, groups = asked.extra, asked.labels
    styles = extra["style"].names
    things, own_N = extra["name"].values.unique(return_inverse=True)
    group_of_T = torch.empty(len(things), dtype=torch.int64)
    group_of_T[own_N] = groups
    subjects = [" ".join(words_of(extra["name"].names[int(thing)])[:8]) for thing in things]
    texts = judge.of_texts([compose("", subject, style) for subject in subjects for style in styles])
    texts_TSP = texts.unflatten(0, (len(things), len(styles)))
    style_N, images_NP = extra["style"].values, judge.of_images(images * 2 - 1)
    cosine_NTS = torch.einsum("np,tsp->nts", images_NP, texts_TSP)
    rows = torch.arange(len(images))
    by_thing_NT = cosine_NTS[rows, :, style_N]
    nearest_N = by_thing_NT.argmax(1)
    best_N5 = by_thing_NT.topk(min(5, len(things)), dim=1).indices
    by_style_NS = cosine_NTS[rows, own_N]
    share_of_group = torch.stack([(group_of_T == group).float().mean() for group in groups])
    wanted, found = extra["colour"].values, colour_of(to_uint8(images * 2 - 1))
    coloured = wanted != NONE
    wanted, found = wanted[coloured], found[coloured]
    by_chance = sum((wanted == c).float().mean() * (found == c).float().mean() for c in range(len(NAMES)))

    def row(hits: Tensor, chance: float) -> dict[str, float]:
        return {"accuracy": hits.float().mean().item(), "chance": float(chance), "count": len(hits)}

    return {
        "thing": row(nearest_N == own_N, 1 / len(things)),
        "top5": row((best_N5 == own_N[:, None]).any(1), min(5, len(things)) / len(things)),
        "group": row(group_of_T[nearest_N] == groups, share_of_group.mean()),
        "style": row(by_style_NS.argmax(1) == style_N, 1 / len(styles)),
        "colour": row(found == wanted, by_chance),
    }
