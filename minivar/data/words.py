"""Words as numbers: a small vocabulary that also has something to say of words that it does not know.

A word is described by pieces: itself, if it is in the vocabulary, and its trigrams, "<ap", "app", ..., "le>", each
hashed into one of a few buckets (arXiv 1607.04606). An unknown "strawberries" then still has much in common with
"strawberry". A caption is padded on its left, as LlamaGen pads its captions, and ends with a word of its own, END,
whose place is always the last: there a text encoder gathers what the whole says.
"""

import re
import unicodedata
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from minivar.checks import check
from minivar.data.base import DataError

NOTHING, END = 0, 1  # pieces: of padding, and of the word that ends every caption


def words_of(text: str) -> list[str]:
    """ "Red apple, noto-v1" -> ["red", "apple", "noto", "v1"]: Latin letters without accents, and digits."""
    plain = unicodedata.normalize("NFKD", text.lower()).encode("ascii", "ignore").decode()
    return re.findall(r"[a-z0-9]+", plain)


def trigrams(word: str) -> list[str]:
    """ "ape" -> ["<ap", "ape", "pe>"]."""
    marked = f"<{word}>"
    return [marked[i : i + 3] for i in range(len(marked) - 2)]


@dataclass(frozen=True)
class Vocabulary:
    """The words that have a number of their own, and how captions are laid out."""

    words: tuple[str, ...]
    buckets: int = 1024  # that trigrams are hashed into
    length: int = 12  # T, words of a caption, END among them
    pieces: int = 16  # P, of a word at most: itself and 15 trigrams

    def __post_init__(self) -> None:
        check(self, buckets="[1, 1e6]", length="[2, 1000]", pieces="[2, 1000]")

    @property
    def size(self) -> int:
        """How many different pieces there are."""
        return 2 + len(self.words) + self.buckets

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Of the words in the vocabulary."""
        return {word: 2 + i for i, word in enumerate(self.words)}

    @cached_property
    def pieces_of(self):
        """Word -> its pieces, (P,) numbers; remembered, since the same words come again and again."""
        first = 2 + len(self.words)

        @lru_cache(maxsize=100_000)
        def find(word: str) -> list[int]:
            own = [self.numbers[word]] if word in self.numbers else []
            found = own + [first + zlib.crc32(each.encode()) % self.buckets for each in trigrams(word)]
            return (found + [NOTHING] * self.pieces)[: self.pieces]

        return find

    def ids(self, texts: Sequence[str]) -> Tensor:
        """Captions -> int64 (B, T, P), the words at the right end. Raises ``DataError`` as ``check_text`` does."""
        ids_BTP = torch.zeros(len(texts), self.length, self.pieces, dtype=torch.int64)
        ids_BTP[:, -1, 0] = END
        for row, text in enumerate(texts):
            words = self.check_text(text)
            ids_BTP[row, -1 - len(words) : -1] = torch.tensor([self.pieces_of(word) for word in words])
        return ids_BTP

    def check_text(self, text: str) -> list[str]:
        """The words of a text; ``DataError``, in one sentence, where there are none or too many."""
        words, most = words_of(text), self.length - 1
        if not words:
            raise DataError(f"A text needs a word in Latin letters or a number; got {text!r:.80}.")
        if len(words) > most:
            raise DataError(f"A text may have {most} words; got {len(words)}, {' '.join(words)!r:.80}.")
        return words


def common_words(texts: Sequence[str], times: int = 2) -> tuple[str, ...]:
    """The words that occur in at least so many of the texts, in alphabetical order."""
    counts: dict[str, int] = {}
    for text in texts:
        for word in set(words_of(text)):
            counts[word] = counts.get(word, 0) + 1
    return tuple(sorted(word for word, count in counts.items() if count >= times))
