"""A small text encoder: captions to features, one for each word, which transformers then read.

Words are sums of pieces (``data.words``), among which a few of VAR's blocks with plain layer norms look about. The
last word of every caption is END: its feature stands for the whole, as in CLIP (arXiv 2103.00020), whose loss it is
trained by, together with the image tower that judges (``evaluation.captions``). Features of padding are zero, and so
whoever reads them knows where it is. Explained in ``notebooks/15_text_and_serving.ipynb``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minivar.checks import check
from minivar.data.captions import check_style
from minivar.data.words import NOTHING, Vocabulary
from minivar.models.products import Linear
from minivar.models.var import blocks_like, stack


@dataclass(frozen=True)
class TextConfig:
    """Shape of the encoder, the words that it knows, and the styles that a text may name."""

    vocabulary: Vocabulary
    styles: tuple[str, ...] = ()
    width: int = 64  # D, of the features
    depth: int = 2
    heads: int = 4
    mlp_ratio: float = 2.0
    projection: int = 64  # P, what is compared with pictures
    drop_path: float = 0.1
    gamma_init: float = 1.0  # not used: the gates of plain blocks are open

    def __post_init__(self) -> None:
        ranges = dict.fromkeys(("width", "depth", "heads", "projection"), "[1, 1e6]")
        check(self, mlp_ratio="(0, 1000]", drop_path="[0, 1)", **ranges)
        if self.width % self.heads:
            raise ValueError(f"Width must be a multiple of heads; got width {self.width}, heads {self.heads}.")


class TextEncoder(nn.Module):
    """Pieces of words -> a feature for each word, and of the whole caption a vector of length 1."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        width, vocabulary = config.width, config.vocabulary
        self.pieces = nn.Embedding(vocabulary.size, width, padding_idx=NOTHING)
        self.position_1TD = nn.Parameter(torch.empty(1, vocabulary.length, width))
        self.blocks = stack(blocks_like(config, mlp_ratio=config.mlp_ratio, conditioning="prefix"))
        self.project = Linear(width, config.projection)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))  # CLIP's temperature, learned
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Sums of pieces about as large as the rest; what ends a branch small."""
        nn.init.normal_(self.pieces.weight, std=0.3)
        self.pieces.weight[NOTHING] = 0
        nn.init.normal_(self.position_1TD, std=0.3)
        for block in self.blocks:
            for layer in (block.attn.proj, block.mlp.fc2):
                layer.weight.div_(math.sqrt(2 * self.config.depth))

    def forward(self, ids: Tensor) -> Tensor:
        """Pieces (B, T, P) int64, as ``Vocabulary.ids`` gives them -> features (B, T, D), zero where padding is."""
        vocabulary = self.config.vocabulary
        if tuple(ids.shape[1:]) != (vocabulary.length, vocabulary.pieces):
            expected = f"(B, {vocabulary.length}, {vocabulary.pieces})"
            raise ValueError(f"Expected pieces of words of shape {expected}; got {tuple(ids.shape)}.")
        here_BT = ids[..., 0] != NOTHING
        x_BTD = self.pieces(ids).sum(2) + self.position_1TD
        for block in self.blocks:
            x_BTD = block(x_BTD, x_BTD[:, -1], here_BT[:, None, None])
        return F.layer_norm(x_BTD, x_BTD.shape[-1:]) * here_BT[..., None]

    def embed(self, ids: Tensor) -> Tensor:
        """Pieces (B, T, P) -> (B, projection), of length 1: what is compared with pictures."""
        return F.normalize(self.project(self(ids)[:, -1]), dim=-1)

    @torch.no_grad()
    def read(self, texts: Sequence[str]) -> Tensor:
        """Texts -> features (B, T, D), as a condition to draw from.

        Raises ``DataError``, in one sentence, for a text without words, or with too many, or with an unknown style.
        """
        for text in texts:
            check_style(text, self.config.styles)
        return self(self.config.vocabulary.ids(texts).to(self.pieces.weight.device))
