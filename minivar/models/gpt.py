"""The next-token transformer: GPT over the tokens of one grid in raster order.

Three styles, one class. ``style="llama"`` is LlamaGen (arXiv 2406.06525): RMSNorm, SwiGLU, two-dimensional rotary
positions, no biases. ``style="gpt2"`` is the "AR" baseline of the VAR paper's ablation: LayerNorm, GELU, learned
positions. ``style="var"`` has VAR's own blocks and learned positions, so that the orders can be compared alone. The
condition, a class or a caption, is a prefix of tokens before the image's.
Explained in ``notebooks/02a_llamagen.ipynb``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minivar.checks import check
from minivar.models import var
from minivar.models.layers import MLP, RMSNorm, SwiGLU
from minivar.models.products import Linear


@dataclass(frozen=True)
class GPTConfig:
    """Shape and regularisation. Defaults: LlamaGen-B at 256 pixels."""

    depth: int = 12
    width: int = 768  # D
    heads: int = 12  # H
    grid: tuple[int, int] | None = (16, 16)  # N = rows * columns tokens; None: any square, llama only
    codebook_size: int = 16384  # V
    num_classes: int = 1000  # class index num_classes is the null class
    caption_tokens: int = 0  # above 0: conditioned on caption features instead of a class
    caption_dim: int = 2048
    style: str = "llama"  # or "gpt2", or "var"
    conditioning: str = "prefix"  # or, in style "var", "adaln": the class modulates every block as well
    hidden: int | None = None  # of the MLP; None: 4 D for GELU, 8 D / 3 up to a multiple of 256 for SwiGLU
    norm_eps: float = 1e-5
    rope_base: float = 10000.0
    dropout: float = 0.1  # on tokens, and on the outputs of attention and MLP; VAR's blocks have none
    drop_path: float = 0.0  # style "var" only, as in VARConfig
    gamma_init: float = 1e-3  # likewise
    label_dropout: float = 0.1

    def __post_init__(self) -> None:
        check(
            self,
            depth="[1, 1000]",
            width="[1, 1e6]",
            heads="[1, 1e6]",
            grid="[1, 4096]",
            codebook_size="[1, 1e8]",
            num_classes="[0, 1e8]",
            caption_tokens="[0, 1e6]",
            caption_dim="[0, 1e6]",
            style=("llama", "gpt2", "var"),
            conditioning=("prefix", "adaln"),
            hidden="[1, 1e8]",
            norm_eps="(0, 1]",
            rope_base="[1, 1e12]",
            dropout="[0, 1)",
            drop_path="[0, 1)",
            gamma_init="[0, inf)",
            label_dropout="[0, 1]",
        )
        if not (self.caption_dim if self.caption_tokens else self.num_classes):
            needed = "caption_dim" if self.caption_tokens else "num_classes"
            raise ValueError(f"With {self.caption_tokens} caption tokens, {needed} must be at least 1; got 0.")
        if self.style != "llama" and self.grid is None:
            raise ValueError(f"A {self.style}-style GPT has a table of positions and needs a grid; got None.")
        if self.style != "var" and self.conditioning == "adaln":
            raise ValueError(f"Only VAR's blocks have AdaLN: expected style var for it; got {self.style}.")
        if self.style == "var" and (self.caption_tokens or self.dropout):
            raise ValueError(
                "A var-style GPT takes a class, and its blocks have no dropout: expected caption_tokens 0 and "
                f"dropout 0; got {self.caption_tokens} and {self.dropout}."
            )
        if self.width % self.heads or (self.width // self.heads) % 4:
            raise ValueError(
                f"Width must be heads times a multiple of 4 (two axes of rotary pairs); got width {self.width}, "
                f"heads {self.heads}."
            )

    @property
    def grids(self) -> tuple[tuple[int, int] | None, ...]:
        """The one token map that the model predicts; of any size where the configuration has no grid."""
        return (self.grid,)

    @property
    def prefix(self) -> int:
        """Condition tokens before the image: 1 for a class, 120 for LlamaGen's captions."""
        return self.caption_tokens or 1

    @property
    def mlp_width(self) -> int:
        """Hidden width of the MLP; SwiGLU has three matrices in place of two, hence two thirds of 4 D."""
        if self.hidden:
            return self.hidden
        return -(-int(8 * self.width / 3) // 256) * 256 if self.style == "llama" else 4 * self.width


def rotary_table(config: GPTConfig, grid: tuple[int, int], device: torch.device | str | None = None) -> Tensor:
    """(prefix + N, E / 2, 2) float32: cosine and sine of each position's angles.

    The first half of the pairs turns with the row, the second with the column. Condition tokens get zeros, not ones:
    their queries and keys vanish, so that only their values are read (LlamaGen's code, ``precompute_freqs_cis_2d``).
    """
    rows, columns = grid
    half = config.width // config.heads // 2
    speed = config.rope_base ** (-torch.arange(0, half, 2, device=device).float() / half)  # (E / 4,)
    row_angles = torch.arange(rows, device=device)[:, None, None] * speed  # (rows, 1, E / 4)
    column_angles = torch.arange(columns, device=device)[None, :, None] * speed
    angles = torch.cat([row_angles.expand(-1, columns, -1), column_angles.expand(rows, -1, -1)], dim=-1).flatten(0, 1)
    image = torch.stack([angles.cos(), angles.sin()], dim=-1)
    return torch.cat([torch.zeros(config.prefix, *image.shape[1:], device=device), image])


def rotate(x_BHlE: Tensor, table_lE2: Tensor) -> Tensor:
    """Turn each pair (x_2i, x_2i+1) by its position's angle."""
    even, odd = x_BHlE.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = table_lE2.unbind(-1)
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2).to(x_BHlE.dtype)


class GPTBlock(nn.Module):
    """Pre-norm attention and MLP with residual connections."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        width, self.heads, self.dropout = config.width, config.heads, config.dropout
        llama = config.style == "llama"

        def norm() -> nn.Module:
            return RMSNorm(width, config.norm_eps) if llama else nn.LayerNorm(width, eps=config.norm_eps)

        self.attention_norm, self.mlp_norm = norm(), norm()
        self.qkv = Linear(width, 3 * width, bias=not llama)
        self.proj = Linear(width, width, bias=not llama)
        self.mlp = (SwiGLU if llama else MLP)(width, config.mlp_width)

    def forward(self, x_BlD: Tensor, table: Tensor | None, cache=None, mask: Tensor | None = None) -> Tensor:
        """``table``: rotary table of these positions, None for learned ones; ``cache`` as in ``models.var``.

        ``mask``, (B, 1, l, L), True where new tokens may look: for captions with padding, or rows of a cache that
        differ in length. Without it each sees itself and all before it.
        """
        qkv = self.qkv(self.attention_norm(x_BlD)).unflatten(-1, (3, self.heads, -1))
        qkv = qkv.permute(2, 0, 3, 1, 4)  # (3, B, H, l, E)
        q_BHlE, k_BHlE, v_BHlE = qkv
        if table is not None:
            q_BHlE, k_BHlE = rotate(qkv[:2], table)
        if cache is not None:
            k_BHlE, v_BHlE = cache.append(k_BHlE, v_BHlE)
        # one new token may look at everything in the cache; several at once need the causal mask
        causal = mask is None and q_BHlE.shape[2] > 1
        out_BHlE = F.scaled_dot_product_attention(q_BHlE, k_BHlE, v_BHlE, attn_mask=mask, is_causal=causal)
        x_BlD = x_BlD + self._drop(self.proj(out_BHlE.transpose(1, 2).flatten(2)))
        return x_BlD + self._drop(self.mlp(self.mlp_norm(x_BlD)))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class VARBlock(var.Block):
    """VAR's block where every token sees itself and those before it."""

    def forward(self, x_BlD: Tensor, cond_BD: Tensor, cache=None, mask: Tensor | None = None, six=None) -> Tensor:
        """``mask`` as in ``GPTBlock``, ``six`` as in VAR's."""
        length = x_BlD.shape[1]
        if length > 1:
            mask = torch.ones(length, length, dtype=torch.bool, device=x_BlD.device).tril()
        return super().forward(x_BlD, cond_BD, mask, cache, six=six)


class Context(NamedTuple):
    """What a GPT is told beside its tokens, the same for a whole image; of gpt2's style nothing."""

    table_LE2: Tensor | None = None  # llama: ``rotary_table`` of the grid
    cond_BD: Tensor | None = None  # var: class embeddings ...
    sixes: Sequence[tuple[Tensor, ...]] | None = None  # ... and, for drawing, what each block makes of them


class GPT(nn.Module):
    """Next-token prediction: p(x_i | x_1, ..., x_{i-1}, condition) over one grid in raster order."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        width, style = config.width, config.style
        if config.caption_tokens:
            self.null_caption = nn.Parameter(torch.empty(config.caption_tokens, config.caption_dim))
            self.caption1 = Linear(config.caption_dim, width, bias=False)
            self.caption2 = Linear(width, width, bias=False)
        else:
            self.class_embed = nn.Embedding(config.num_classes + 1, width)
        self.token_embed = nn.Embedding(config.codebook_size, width)
        self.position = None
        if style == "gpt2":
            self.position = nn.Parameter(torch.empty(config.prefix + math.prod(config.grid), width))
        if style == "var":
            self.position_1LD = nn.Parameter(torch.empty(1, config.prefix + math.prod(config.grid), width))
            shape = {"mlp_ratio": config.mlp_width / width, "conditioning": config.conditioning}
            self.blocks = var.stack(var.blocks_like(config, **shape), VARBlock)
            self.norm = nn.Identity()  # ``head_ada`` modulates a layer norm without parameters
            self.head_ada = var.modulation_of(config, gates=0, norms=1)
        else:
            self.blocks = nn.ModuleList(GPTBlock(config) for _ in range(config.depth))
            self.norm = RMSNorm(width, config.norm_eps) if style == "llama" else nn.LayerNorm(width, config.norm_eps)
        self.head = Linear(width, config.codebook_size, bias=style == "var")
        if style == "var":
            var.initialise(self, self.position_1LD)
        else:
            self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """LlamaGen's initialisation: normal with std 0.02, biases and output zero."""
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        if self.config.caption_tokens:
            self.null_caption.div_(0.02 * math.sqrt(self.config.caption_dim))  # published: randn / sqrt(dim)
        nn.init.zeros_(self.head.weight)

    def null_condition(self, cond: Tensor) -> Tensor:
        """The condition that stands for none, in the shape of ``cond``; for classifier-free guidance.

        Where a caption has padding, zeros, that which stands for it has padding too, as in LlamaGen's code.
        """
        if self.config.caption_tokens:
            return torch.where(cond.any(-1, keepdim=True), self.null_caption.to(cond.dtype), 0)
        return torch.full_like(cond, self.config.num_classes)

    def visible(self, cond: Tensor, length: int) -> Tensor | None:
        """Which tokens each of ``length`` may look at, (B, 1, length, length) bool; None: all before it.

        Padding of captions, whose features are zeros, is seen by itself alone (LlamaGen's code, ``generate.py``).
        """
        if not self.config.caption_tokens:
            return None
        here_BT = F.pad(cond.any(-1), (0, length - self.config.caption_tokens), value=True)
        causal_LL = torch.ones(length, length, dtype=torch.bool, device=cond.device).tril()
        itself_LL = torch.eye(length, dtype=torch.bool, device=cond.device)
        return (causal_LL & here_BT[:, None, None]) | itself_LL

    def drop_conditions(self, cond: Tensor) -> Tensor:
        """In training, a share of the conditions replaced by the null one, for classifier-free guidance."""
        if not self.training or self.config.label_dropout == 0:
            return cond
        drop = torch.rand(len(cond), device=cond.device) < self.config.label_dropout
        return torch.where(drop.view(-1, *[1] * (cond.dim() - 1)), self.null_condition(cond), cond)

    def prefix(self, cond: Tensor) -> Tensor:
        """Classes (B,) or caption features (B, caption_tokens, caption_dim) -> condition tokens (B, prefix, D)."""
        if not self.config.caption_tokens:
            return self.class_embed(cond)[:, None]
        return self.caption2(F.gelu(self.caption1(cond), approximate="tanh"))

    def context(self, cond: Tensor | None, grid: tuple[int, int], ahead: bool = False) -> Context:
        """What is the same for all tokens of an image; ``ahead``: the blocks' modulation too, for many steps."""
        if self.config.style == "llama":
            return Context(rotary_table(self.config, grid, self.token_embed.weight.device))
        if self.config.style == "gpt2":
            return Context()
        cond_BD = self.class_embed(cond)
        return Context(None, cond_BD, [block.modulation(cond_BD) for block in self.blocks] if ahead else None)

    def hidden(
        self,
        x_BlD: Tensor,
        begin: int | Tensor,
        grid: tuple[int, int],
        caches=None,
        context: Context | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Embedded tokens of positions ``begin``.. (prefix included) through the blocks and the last norm.

        ``mask`` as in ``GPTBlock``. ``begin`` (B,) int64: every row has one token, at a position of its own
        (serving/continuous.py). ``context``: what the method of that name gives; style "var" cannot do without.
        """
        each_its_own, style = isinstance(begin, Tensor), self.config.style
        here = begin[:, None] if each_its_own else slice(begin, begin + x_BlD.shape[1])  # (B, 1), or l positions
        if context is None:
            context = self.context(None, grid)
        if style == "llama":
            told = context.table_LE2[here]
            told = told[:, None] if each_its_own else told  # (B, 1, 1, E / 2, 2): between batch and length are heads
        elif style == "gpt2":
            x_BlD, told = x_BlD + self.position[here], None
        else:
            x_BlD, told = x_BlD + self.position_1LD[0][here], context.cond_BD
        x_BlD = F.dropout(x_BlD, self.config.dropout, self.training)
        for i, block in enumerate(self.blocks):
            own = {"six": context.sixes[i]} if context.sixes else {}
            x_BlD = block(x_BlD, told, caches[i] if caches else None, mask, **own)
        return self.norm(x_BlD)

    def logits(self, x_BlD: Tensor, context: Context) -> Tensor:
        """What ``hidden`` gave -> logits (B, l, V) float32."""
        if self.config.style == "var":
            return var.class_logits(self, x_BlD, context.cond_BD)
        return self.head(x_BlD).float()

    def forward(self, cond: Tensor, tokens: Tensor) -> Tensor:
        """Teacher-forced pass: condition, tokens (B, n) with n < N -> logits (B, n + 1, V) float32.

        For training, n = N - 1. Position i of the output predicts token i. Where the configuration has no grid, it is
        the square of n + 1 tokens. Raises ``ValueError`` for wrong shapes.
        """
        config = self.config
        expected = (config.caption_tokens, config.caption_dim) if config.caption_tokens else ()
        if tuple(cond.shape[1:]) != expected or tokens.dim() != 2 or len(tokens) != len(cond):
            raise ValueError(
                f"Expected a condition of shape (B, {', '.join(map(str, expected))}) and tokens (B, n); got "
                f"{tuple(cond.shape)} and {tuple(tokens.shape)}."
            )
        side = math.isqrt(tokens.shape[1] + 1)
        grid = config.grid or (side, side)
        if tokens.shape[1] >= math.prod(grid):
            expected = f"fewer than {math.prod(grid)}" if config.grid else "one fewer than a square of"
            raise ValueError(f"Expected {expected} tokens to predict from; got {tokens.shape[1]}.")
        cond = self.drop_conditions(cond)
        x, context = torch.cat([self.prefix(cond), self.token_embed(tokens)], dim=1), self.context(cond, grid)
        hidden = self.hidden(x, 0, grid, None, context, self.visible(cond, x.shape[1]))
        return self.logits(hidden[:, config.prefix - 1 :], context)
