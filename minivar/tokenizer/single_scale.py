"""The single-scale quantiser: one token a cell of one grid (VQ-VAE, arXiv 1711.00937), LlamaGen's on the unit sphere.

Explained in ``notebooks/01_images_as_tokens.ipynb``.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from minivar.tokenizer.quantizer import Quantizer, Step


class VectorQuantizer(Quantizer):
    """One grid, one token a cell.

    With ``l2_norm``, as in LlamaGen, features and codes are projected onto the unit sphere first, so that the nearest
    code is the one with the most similar direction: no code can fall out of use for its length alone
    (arXiv 2110.04627, section 3.2). The codes begin on the sphere, as in LlamaGen's code; training moves them off it,
    which only decides how far a step of the optimiser turns them. ``grid`` are the rows and columns of the tokens;
    with None any grid will do, and where only tokens are known, it is taken to be square.
    """

    def __init__(
        self,
        codebook_size: int,
        code_dim: int,
        beta: float = 0.25,
        l2_norm: bool = True,
        grid: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(codebook_size, code_dim, beta, num_maps=1)
        self.l2_norm, self.grid = l2_norm, grid
        if l2_norm:
            self.codebook.data = F.normalize(self.codebook.data, dim=-1)

    @property
    def codes(self) -> Tensor:
        """(V, C): the codebook, of unit length with ``l2_norm``."""
        return F.normalize(self.codebook, dim=-1) if self.l2_norm else self.codebook

    def prepare(self, features_BChw: Tensor) -> Tensor:
        """Float32 features, of unit length with ``l2_norm``."""
        features_BChw = super().prepare(features_BChw)
        return F.normalize(features_BChw, dim=1) if self.l2_norm else features_BChw

    def steps(self, features_BChw: Tensor) -> Iterator[Step]:
        """The one token map."""
        z_NC = features_BChw.permute(0, 2, 3, 1).flatten(0, 2)
        with torch.no_grad():
            tokens_N = self.nearest(z_NC)
        batch, _, height, width = features_BChw.shape
        codes_BhwC = self.lookup(tokens_N).view(batch, height, width, -1)
        yield Step(z_NC, tokens_N, codes_BhwC.permute(0, 3, 1, 2))

    def accumulate(self, tokens: list[Tensor]) -> Iterator[Tensor]:
        """Yields the codes of the one token map as features (B, C, h, w)."""
        side = math.isqrt(tokens[0].shape[1])
        yield self.lookup(tokens[0]).transpose(1, 2).unflatten(2, self.grid or (side, side))
