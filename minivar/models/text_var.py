"""VAR that draws from a caption: its words as a prefix of the pyramid, or looked up from every block.

DEVIATION: VAR's paper knows classes alone. The caption enters as LlamaGen has it in raster order (arXiv 2406.06525,
section 2.2), frozen features of each word through a small MLP, and then one of two ways:

- ``reads="prefix"``: the words are T tokens before the pyramid's. They join the first scale's block: its own input is
  no picture yet, so that nobody learns from them what is to come, and every scale sees them. Nothing else changes.
- ``reads="cross"``: in every block the image's tokens look at the words by cross-attention, which begins as nothing
  (arXiv 2310.00426); the pyramid is as long as before.

In both, what stands for the class of a class-conditional VAR, in AdaLN and in the first token, is the feature of the
caption's last word, END. Padding is not masked: it is a word that says nothing. Explained in
``notebooks/15_text_and_serving.ipynb``.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minivar.checks import check
from minivar.models.block_causal import Mask
from minivar.models.products import Linear
from minivar.models.var import VAR, Block, VARConfig


@dataclass(frozen=True)
class TextVARConfig(VARConfig):
    """VAR's, and what the captions are. ``num_classes`` means nothing here."""

    num_classes: int = 1
    caption_tokens: int = 12  # T
    caption_dim: int = 64
    reads: str = "prefix"  # or "cross"
    dropout: float = 0.0  # on the outputs of attention and MLP, as a GPT has it

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, caption_tokens="[1, 1e6]", caption_dim="[1, 1e6]", reads=("prefix", "cross"), dropout="[0, 1)")
        if self.conditioning != "adaln" or self.shared_adaln:
            raise ValueError(
                "A VAR of captions has an AdaLN in every block: expected conditioning adaln and shared_adaln False; "
                f"got {self.conditioning} and {self.shared_adaln}."
            )

    @property
    def prefix(self) -> int:
        """Tokens before those of the pyramid."""
        return self.caption_tokens if self.reads == "prefix" else 0


class CrossAttention(nn.Module):
    """The image's tokens ask, the words of the caption answer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv, self.proj = Linear(width, width), Linear(width, 2 * width), Linear(width, width)

    def forward(self, x_BlD: Tensor, words_BTD: Tensor) -> Tensor:
        q_BHlE = self.q(F.layer_norm(x_BlD, x_BlD.shape[-1:])).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k_BHTE, v_BHTE = self.kv(words_BTD).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q_BHlE, k_BHTE, v_BHTE).transpose(1, 2).flatten(2))


class TextBlock(Block):
    """VAR's block, which takes the words of the caption (B, T, D) for the class embedding."""

    def __init__(self, config: TextVARConfig, drop_path_rate: float) -> None:
        super().__init__(config, drop_path_rate)
        self.dropout = config.dropout
        self.cross = CrossAttention(config.width, config.heads) if config.reads == "cross" else None

    def modulation(self, cond: Tensor) -> tuple[Tensor, ...]:
        """Words (B, T, D), of which the last stands for all -> six tensors (B, 1, D)."""
        return super().modulation(cond[:, -1])

    def forward(self, x_BlD: Tensor, cond: Tensor, mask: Mask, cache=None, record=None, six=None) -> Tensor:
        if self.cross is not None:
            x_BlD = x_BlD + F.dropout(self.cross(x_BlD, cond), self.dropout, self.training)
        return super().forward(x_BlD, cond, mask, cache, record, six)

    def residual(self, x_BlD: Tensor, branch_BlD: Tensor, gamma_B1D: Tensor) -> Tensor:
        return super().residual(x_BlD, F.dropout(branch_BlD, self.dropout, self.training), gamma_B1D)


class TextVAR(VAR):
    """Next-scale prediction from the features of a caption, (B, T, caption_dim), in place of labels."""

    kind_of_block = TextBlock

    def make_condition(self) -> None:
        """The projection of the words, the caption that stands for none, and positions of a prefix."""
        config = self.config
        self.null_caption = nn.Parameter(torch.empty(config.caption_tokens, config.caption_dim))
        self.caption1 = Linear(config.caption_dim, config.width)
        self.caption2 = Linear(config.width, config.width)
        self.caption_position_1TD = nn.Parameter(torch.empty(1, config.caption_tokens, config.width))

    @torch.no_grad()
    def reset_condition(self) -> None:
        """The words as large as they are; cross-attention as nothing."""
        nn.init.normal_(self.null_caption)
        nn.init.trunc_normal_(self.caption_position_1TD, std=self.config.width**-0.5)
        for block in self.blocks:
            if block.cross is not None:
                nn.init.zeros_(block.cross.proj.weight)

    def null_condition(self, cond: Tensor) -> Tensor:
        """The caption that stands for none, (B, T, caption_dim)."""
        return self.null_caption.to(cond.dtype).expand_as(cond)

    def drop_conditions(self, cond: Tensor) -> Tensor:
        """In training, a share of the captions replaced by the null one."""
        if not self.training or self.config.label_dropout == 0:
            return cond
        drop_B11 = torch.rand(len(cond), 1, 1, device=cond.device) < self.config.label_dropout
        return torch.where(drop_B11, self.null_condition(cond), cond)

    def check_condition(self, cond: Tensor) -> None:
        """Raise ``ValueError`` unless these are features of captions."""
        expected = (self.config.caption_tokens, self.config.caption_dim)
        if tuple(cond.shape[1:]) != expected or len(cond) == 0 or not cond.is_floating_point():
            raise ValueError(
                f"Expected caption features of shape (B, {', '.join(map(str, expected))}), B > 0; got {cond.dtype} "
                f"{tuple(cond.shape)}."
            )

    def condition(self, cond: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, T, caption_dim) -> words (B, T, D), twice: for head and blocks."""
        words_BTD = self.caption2(F.gelu(self.caption1(cond), approximate="tanh")) + self.caption_position_1TD
        return words_BTD, words_BTD

    def start(self, cond: Tensor) -> Tensor:
        """Input of the first scale: what the last word says of the whole, (B, l, D)."""
        return super().start(cond[:, -1])

    def led(self, x_BlD: Tensor, cond: Tensor) -> Tensor:
        """With the words before it, where they are a prefix."""
        return torch.cat([cond, x_BlD], dim=1) if self.config.prefix else x_BlD

    def logits(self, x_BlD: Tensor, cond: Tensor) -> Tensor:
        """Hidden states (B, l, D) -> logits (B, l, V), computed in float32."""
        return super().logits(x_BlD, cond[:, -1])
