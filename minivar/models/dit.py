"""The diffusion transformer: DiT (arXiv 2212.09748, section 3).

A transformer over patches of a noisy picture, all of which see one another: there is no order and no mask. It answers
which noise was added, and how sure it is. Timestep and class enter as in VAR, which took it from here: adaptive layer
norm in every block, whose gates begin closed ("adaLN-Zero"). Explained in ``notebooks/12_rivals.ipynb``.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minivar.checks import check
from minivar.models.layers import MLP, drop_labels, modulate
from minivar.models.products import Linear

# Published sizes: depth, width, heads (table 1)
SIZES = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}
FREQUENCIES = 256  # numbers that describe a timestep before the network sees it


@dataclass(frozen=True)
class DiTConfig:
    """Shape of the transformer and of the pictures that it cleans. Defaults: the published XL/2 for 256 pixels."""

    depth: int = 28
    width: int = 1152  # D
    heads: int = 16
    mlp_ratio: float = 4.0
    num_classes: int = 1000  # class index num_classes is the null class of classifier-free guidance
    channels: int = 4  # C, of the pictures: latents of an autoencoder, or pixels
    input_size: int = 32  # s, height and width of the pictures
    patch: int = 2  # p, side of the square that becomes a token
    label_dropout: float = 0.1
    guided_channels: int | None = None  # those that guidance moves: all; the published code: 3 of 4
    latents: bool = True  # the pictures are a tokenizer's features; False: pixels in [-1, 1]

    def __post_init__(self) -> None:
        check(
            self,
            depth="[1, 1000]",
            width="[4, 1e6]",
            heads="[1, 1e6]",
            mlp_ratio="(0, 1000]",
            num_classes="[1, 1e8]",
            channels="[1, 1e6]",
            input_size="[1, 65536]",
            patch="[1, 65536]",
            label_dropout="[0, 1]",
            guided_channels="[1, 1e6]",
        )
        if self.width % self.heads:
            raise ValueError(f"Width must be a multiple of heads; got width {self.width}, heads {self.heads}.")
        if self.width % 4:
            raise ValueError(f"Width must be a multiple of 4, for the sines of two axes; got {self.width}.")
        if self.input_size % self.patch:
            raise ValueError(
                f"The pictures must divide into patches; got input_size {self.input_size}, patch {self.patch}."
            )
        if self.guided_channels is not None and self.guided_channels > self.channels:
            raise ValueError(f"At most all {self.channels} channels are guided; got {self.guided_channels}.")

    @classmethod
    def from_name(cls, name: str, **other) -> "DiTConfig":
        """A published shape: "XL/2" is size XL with patches of 2 x 2."""
        size, _, patch = name.partition("/")
        if size not in SIZES or not patch.isdigit():
            raise ValueError(f"Unknown DiT {name!r}: expected one of {', '.join(SIZES)}, a slash and a patch size.")
        depth, width, heads = SIZES[size]
        return cls(**{"depth": depth, "width": width, "heads": heads, "patch": int(patch), **other})


class Attention(nn.Module):
    """Plain multi-head self-attention over all patches."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = Linear(config.width, 3 * config.width)
        self.proj = Linear(config.width, config.width)

    def forward(self, x_BlD: Tensor) -> Tensor:
        q, k, v = self.qkv(x_BlD).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, H, l, E) each
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class DiTBlock(nn.Module):
    """Attention and MLP, each behind a modulated layer norm and a gate that begins closed: it begins as nothing."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.attn = Attention(config)
        self.mlp = MLP(config.width, round(config.width * config.mlp_ratio))
        self.ada = Linear(config.width, 6 * config.width)

    def forward(self, x_BlD: Tensor, cond_BD: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.ada(F.silu(cond_BD)).unsqueeze(1).chunk(6, dim=-1)
        x_BlD = x_BlD + gate1 * self.attn(modulate(x_BlD, scale1, shift1))
        return x_BlD + gate2 * self.mlp(modulate(x_BlD, scale2, shift2))


class DiT(nn.Module):
    """Noisy pictures, timesteps and classes -> the noise, and where between its bounds the variance lies.

    The pictures are (what is drawn - ``mean_C11``) / ``deviation_C11``: noise has deviation 1, and so have they. The
    two buffers are measured when training begins; of pixels they are 0 and 1.
    """

    measured = ("mean_C11", "deviation_C11")  # what decides about the images beside the parameters

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        width, p = config.width, config.patch
        self.register_buffer("mean_C11", torch.zeros(config.channels, 1, 1))
        self.register_buffer("deviation_C11", torch.ones(config.channels, 1, 1))
        self.patch_embed = nn.Conv2d(config.channels, width, p, stride=p)
        self.register_buffer("position_1lD", sine_table(config.input_size // p, width)[None], persistent=False)
        self.time1, self.time2 = Linear(FREQUENCIES, width), Linear(width, width)
        self.class_embed = nn.Embedding(config.num_classes + 1, width)
        self.blocks = nn.ModuleList(DiTBlock(config) for _ in range(config.depth))
        self.head_ada = Linear(width, 2 * width)
        self.head = Linear(width, p * p * 2 * config.channels)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Published initialisation: Glorot-uniform matrices, small embeddings, and zero where a branch ends."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patch_embed.weight.flatten(1))
        nn.init.zeros_(self.patch_embed.bias)
        for layer in (self.class_embed, self.time1, self.time2):
            nn.init.normal_(layer.weight, std=0.02)
        for layer in (*(block.ada for block in self.blocks), self.head_ada, self.head):
            nn.init.zeros_(layer.weight)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """Pictures (B, C, s, s), timesteps (B,) in 0..999, classes (B,) int64 -> (B, 2 C, s, s).

        The first C channels are the noise, epsilon; the others, about in [-1, 1], say where between the smallest and
        the largest sensible variance the next step's lies (arXiv 2102.09672). Raises ``ValueError`` for other shapes.
        """
        config, size = self.config, self.config.input_size
        if tuple(x.shape[1:]) != (config.channels, size, size):
            raise ValueError(f"Expected pictures (B, {config.channels}, {size}, {size}); got {tuple(x.shape)}.")
        x_BlD = self.patch_embed(x).flatten(2).transpose(1, 2) + self.position_1lD
        time_BD = self.time2(F.silu(self.time1(time_frequencies(t))))
        cond_BD = time_BD + self.class_embed(drop_labels(labels, self.config, self.training))
        for block in self.blocks:
            x_BlD = block(x_BlD, cond_BD)
        shift, scale = self.head_ada(F.silu(cond_BD)).unsqueeze(1).chunk(2, dim=-1)
        patches = self.head(modulate(x_BlD, scale, shift))  # (B, l, p p 2C)
        side, p = size // config.patch, config.patch
        patches = patches.unflatten(1, (side, side)).unflatten(-1, (p, p, -1))  # (B, h, w, p, p, 2C)
        return patches.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def time_frequencies(t_B: Tensor) -> Tensor:
    """Timesteps (B,) -> cosines and sines of them at 128 frequencies from 1 to 1 / 10,000, (B, 256) float32."""
    half = FREQUENCIES // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=t_B.device) / half)
    angles = t_B.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def sine_table(side: int, width: int) -> Tensor:
    """Fixed positions of side x side patches, (side^2, D) float32: a quarter of D each for the sine and cosine of the
    column, then of the row."""
    place = torch.arange(side, dtype=torch.float64, device="cpu")
    frequencies = 10_000.0 ** -(torch.arange(width // 4, dtype=torch.float64, device="cpu") / (width // 4))
    angles = place[:, None] * frequencies
    axis = torch.cat([angles.sin(), angles.cos()], dim=-1)  # (side, D / 2)
    columns, rows = axis.expand(side, side, -1), axis[:, None].expand(side, side, -1)
    return torch.cat([columns, rows], dim=-1).flatten(0, 1).float()
