"""The masked transformer: MaskGIT (arXiv 2202.04200, section 3).

All tokens of one grid are there from the beginning, some of them hidden, and every position sees every other: the
model says what the hidden ones are. Where VAR goes from coarse to fine, this goes from few tokens to all. The blocks
are VAR's, class and AdaLN included, so that a comparison is one of orders and not of layers. Explained in
``notebooks/12_rivals.ipynb``.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minivar.checks import check
from minivar.models.layers import drop_labels
from minivar.models.products import Linear
from minivar.models.var import blocks_like, class_logits, initialise, stack


@dataclass(frozen=True)
class MaskGITConfig:
    """Shape and regularisation. Defaults: the published depth and width at 256 pixels."""

    depth: int = 24
    width: int = 768  # D
    heads: int = 16  # H
    mlp_ratio: float = 4.0
    grid: tuple[int, int] = (16, 16)  # N = rows * columns tokens
    codebook_size: int = 1024  # V; code V is the mask
    num_classes: int = 1000  # class index num_classes is the null class
    l2_norm_attention: bool = True
    label_dropout: float = 0.1
    label_smoothing: float = 0.1  # of the loss, as published
    drop_path: float = 0.1
    gamma_init: float = 1e-3  # scale of the initial AdaLN gates

    def __post_init__(self) -> None:
        check(
            self,
            depth="[1, 1000]",
            width="[1, 1e6]",
            heads="[1, 1e6]",
            mlp_ratio="(0, 1000]",
            grid="[1, 4096]",
            codebook_size="[1, 1e8]",
            num_classes="[1, 1e8]",
            label_dropout="[0, 1]",
            label_smoothing="[0, 1)",
            drop_path="[0, 1)",
            gamma_init="[0, inf)",
        )
        if self.width % self.heads:
            raise ValueError(f"Width must be a multiple of heads; got width {self.width}, heads {self.heads}.")

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """The one token map that the model predicts."""
        return (self.grid,)

    @property
    def num_tokens(self) -> int:
        """N."""
        return self.grid[0] * self.grid[1]


class MaskGIT(nn.Module):
    """p(token at i | class, the tokens that are not hidden), for all positions i at once."""

    def __init__(self, config: MaskGITConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.token_embed = nn.Embedding(config.codebook_size + 1, width)
        self.class_embed = nn.Embedding(config.num_classes + 1, width)
        self.position_1ND = nn.Parameter(torch.empty(1, config.num_tokens, width))
        self.blocks = stack(
            blocks_like(config, mlp_ratio=config.mlp_ratio, l2_norm_attention=config.l2_norm_attention)
        )
        self.head_ada = Linear(width, 2 * width)
        self.head = Linear(width, config.codebook_size)
        initialise(self, self.position_1ND)

    @property
    def mask_code(self) -> int:
        """The code of a hidden token."""
        return self.config.codebook_size

    def forward(self, labels: Tensor, tokens: Tensor) -> Tensor:
        """Classes (B,) and tokens (B, N) int64, hidden ones ``mask_code`` -> logits (B, N, V) float32.

        Raises ``ValueError`` where the tokens do not fill the grid.
        """
        if tuple(tokens.shape) != (len(labels), self.config.num_tokens):
            expected = (len(labels), self.config.num_tokens)
            raise ValueError(f"Expected tokens of shape {expected}; got {tuple(tokens.shape)}.")
        cond_BD = self.class_embed(drop_labels(labels, self.config, self.training))
        x_BND = self.token_embed(tokens) + self.position_1ND
        for block in self.blocks:
            x_BND = block(x_BND, cond_BD, None)
        return class_logits(self, x_BND, cond_BD)
