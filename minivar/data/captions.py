"""Captions of the emoji world: "red apple, openmoji", of which training leaves out now this and now that.

A caption has up to three parts: a colour, measured from the drawing (``colours``), what is drawn, by its name or by
some of its keywords, and, behind a comma, the style. Explained in ``notebooks/15_text_and_serving.ipynb``.
"""

import functools
import zlib

import torch
from torch import Tensor

from minivar.data.arrays import ArraySet
from minivar.data.base import DataError
from minivar.data.colours import NAMES, NONE, with_colours
from minivar.data.emoji_world import emoji_listing
from minivar.data.words import words_of

# What a caption of training says: its subject by name, by keywords or not at all, then how often colour and style
BY_NAME, BY_KEYWORDS = 0.6, 0.3
WITH_COLOUR, WITH_STYLE = 0.5, 0.75
MOST_KEYWORDS, MOST_WORDS = 3, 8  # of a subject
NEEDED = ("name", "thing", "style", "colour")


class Captioned(ArraySet):
    """Drawings with captions: ``captions(index, epoch)`` says what an epoch calls each, and depends on nothing else.

    ``extra`` must hold name, thing, style and colour. Raises ``DataError`` where it does not.
    """

    def __init__(self, images: ArraySet, seed: int = 0) -> None:
        super().__init__(images.images, images.labels, images.class_names, images.extra, images.background)
        missing = [name for name in NEEDED if name not in self.extra]
        if missing:
            raise DataError(
                f"Captions are made of {', '.join(NEEDED)}: expected them of each image, no {missing[0]}."
            )
        self.seed = seed
        self.known = {thing["id"]: thing for thing in emoji_listing()["things"]}
        self._draws = functools.lru_cache(maxsize=2)(self._draw)

    @property
    def fingerprint(self) -> int:
        """That of images and labels, and of how they are called."""
        how = (self.seed, BY_NAME, BY_KEYWORDS, WITH_COLOUR, WITH_STYLE, MOST_KEYWORDS, MOST_WORDS)
        return zlib.crc32(repr(how).encode(), super().fingerprint)

    def _draw(self, epoch: int) -> Tensor:
        """(N, 4) in [0, 1), what decides about the captions of an epoch."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return torch.rand(len(self), 4, generator=generator)

    def said(self, index: Tensor, epoch: int) -> Tensor:
        """bool (B, 4): whether the captions of an epoch say name, keywords, colour and style; never nothing."""
        subject, colour, style, _ = self._draws(epoch)[index].unbind(1)
        by_name, by_keywords = subject < BY_NAME, (subject >= BY_NAME) & (subject < BY_NAME + BY_KEYWORDS)
        colours = self.extra["colour"].values[index]
        with_colour = (colour < WITH_COLOUR) & (colours != NONE)
        with_style = (style < WITH_STYLE) | ~(by_name | by_keywords | with_colour)
        return torch.stack([by_name, by_keywords, with_colour, with_style], dim=1)

    def captions(self, index: Tensor, epoch: int = 0) -> list[str]:
        """What an epoch calls the images ``index`` (B,)."""
        index = torch.as_tensor(index)
        chance = self._draws(epoch)[index, 3].tolist()
        parts = zip(index.tolist(), self.said(index, epoch).tolist(), chance)
        return [self._caption(i, *said, chance) for i, said, chance in parts]

    def full_captions(self, index: Tensor) -> list[str]:
        """Colour, name and style of the images ``index`` (B,)."""
        return [self._caption(i, True, False, True, True, 0.0) for i in torch.as_tensor(index).tolist()]

    def _caption(self, i: int, name: bool, keywords: bool, colour: bool, style: bool, chance: float) -> str:
        drawn = {key: self.extra[key].names[int(self.extra[key].values[i])] for key in NEEDED}
        subject: list[str] = words_of(drawn["name"]) if name else []
        if keywords:
            subject = self._keywords(drawn["thing"], chance) or words_of(drawn["name"])
        hue = drawn["colour"] if colour and not set(NAMES) & set(subject) else ""  # "red apple", no "red red heart"
        return compose(hue, " ".join(subject[:MOST_WORDS]), drawn["style"] if style else "")

    def _keywords(self, thing: str, chance: float) -> list[str]:
        """The words of one to three keywords in a row, of which ``chance`` in [0, 1) says where they begin."""
        keywords = self.known[thing]["keywords"]
        if not keywords:
            return []
        count, place = divmod(int(chance * MOST_KEYWORDS * len(keywords)), len(keywords))
        chosen = (keywords * 2)[place : place + min(count + 1, len(keywords))]
        return [word for keyword in chosen for word in words_of(keyword)]


def compose(colour: str, subject: str, style: str) -> str:
    """ "red", "apple", "openmoji" -> "red apple, openmoji"; each may be empty."""
    return ", ".join(part for part in (f"{colour} {subject}".strip(), style) if part)


def captioned(images: ArraySet, seed: int = 0) -> Captioned:
    """Drawings of the emoji world with captions; their colours are measured here, unless they are known."""
    return Captioned(images if "colour" in images.extra else with_colours(images), seed)


def check_style(text: str, styles: tuple[str, ...]) -> None:
    """Raise ``DataError`` where a text names, behind its last comma, a style that is not there."""
    _, comma, style = text.rpartition(",")
    if comma and style.strip().lower() not in styles:
        raise DataError(
            f"Unknown style {style.strip()!r:.80}: expected, behind the comma, one of {', '.join(styles)}."
        )
