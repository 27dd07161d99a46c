"""The convolutional encoder and decoder of the VQGAN family, which VAR and LlamaGen share.

The encoder halves the resolution once per level after the first; the decoder mirrors it. VAR's published tokenizer
is ``NetConfig()`` with its defaults: five levels, hence 16 pixels to a latent cell. Smaller data sets want fewer
channels and levels, and a ``patch`` above 1, which folds patch x patch pixels into channels before the first
convolution: on a CPU, full-resolution convolutions are where the time goes.
Explained in ``notebooks/04_token_pyramid.ipynb``; source: VQGAN (arXiv 2012.09841), appendix A.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minivar.checks import check


@dataclass(frozen=True)
class NetConfig:
    """Shape of encoder and decoder. Defaults: VAR's published tokenizer (its code, ``models/vqvae.py``)."""

    image_channels: int = 3
    base_channels: int = 160
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)  # channels of each level, in units of base_channels
    res_blocks: int = 2  # per level in the encoder; the decoder has one more
    attention: bool = True  # self-attention at the lowest resolution and in the middle
    groups: int = 32  # of every GroupNorm
    patch: int = 1  # side of the pixel blocks folded into channels

    def __post_init__(self) -> None:
        check(
            self,
            image_channels="[1, 1000]",
            base_channels="[1, 1e6]",
            multipliers="[1, 1000]",
            res_blocks="[1, 1000]",
            groups="[1, 1e6]",
            patch="[1, 256]",
        )
        if not 1 <= len(self.multipliers) <= 10:
            raise ValueError(f"multipliers must be 1 to 10 numbers, one for each level; got {self.multipliers}.")
        for multiplier in self.multipliers:
            if (self.base_channels * multiplier) % self.groups:
                raise ValueError(
                    f"GroupNorm with {self.groups} groups needs channels divisible by it; got "
                    f"{self.base_channels} x {multiplier}."
                )

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each level, finest first."""
        return tuple(self.base_channels * m for m in self.multipliers)

    @property
    def stride(self) -> int:
        """Pixels along the side of one latent cell."""
        return self.patch * 2 ** (len(self.multipliers) - 1)


def _norm(channels: int, config: NetConfig) -> nn.GroupNorm:
    return nn.GroupNorm(config.groups, channels, eps=1e-6)


def silu(x: Tensor) -> Tensor:
    """x sigmoid(x); written over x, a norm's output, which nothing but a gradient would ask for again."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


class ResBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), with a 1x1 convolution on the skip where channels change."""

    def __init__(self, c_in: int, c_out: int, config: NetConfig) -> None:
        super().__init__()
        self.norm1 = _norm(c_in, config)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm2 = _norm(c_out, config)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.skip = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(silu(self.norm1(x)))
        h = self.conv2(silu(self.norm2(h)))
        return self.skip(x) + h


class AttnBlock(nn.Module):
    """One-head self-attention over the h*w positions of a feature map."""

    def __init__(self, channels: int, config: NetConfig) -> None:
        super().__init__()
        self.norm = _norm(channels, config)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        q, k, v = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, dim=-1)  # each (B, h*w, channels)
        out = F.scaled_dot_product_attention(q, k, v)  # softmax(q k' / sqrt(channels)) v
        return x + self.proj(out.transpose(1, 2).unflatten(2, (h, w)))


class Downsample(nn.Module):
    """Halve the resolution: stride-2 convolution, padded on the right and below only, as in VQGAN."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double the resolution: nearest neighbour, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """Residual blocks at one resolution, each followed by attention where asked, then a change of resolution."""

    def __init__(self, c_in: int, c_out: int, blocks: int, attention: bool, resample, config: NetConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResBlock(c_in if i == 0 else c_out, c_out, config) for i in range(blocks))
        self.attns = nn.ModuleList(AttnBlock(c_out, config) if attention else nn.Identity() for _ in range(blocks))
        self.resample = resample(c_out) if resample else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for block, attn in zip(self.blocks, self.attns, strict=True):
            x = attn(block(x))
        return self.resample(x)


class Middle(nn.Module):
    """Residual block, attention, residual block, at the lowest resolution."""

    def __init__(self, channels: int, config: NetConfig) -> None:
        super().__init__()
        self.block1 = ResBlock(channels, channels, config)
        self.attn = AttnBlock(channels, config) if config.attention else nn.Identity()
        self.block2 = ResBlock(channels, channels, config)

    def forward(self, x: Tensor) -> Tensor:
        return self.block2(self.attn(self.block1(x)))


class Encoder(nn.Module):
    """(B, image_channels, height, width) in [-1, 1] -> (B, z_channels, height / stride, width / stride)."""

    def __init__(self, config: NetConfig, z_channels: int) -> None:
        super().__init__()
        self.patch = config.patch
        widths = config.channels
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(config.image_channels * config.patch**2, widths[0], 3, padding=1)
        self.levels = nn.ModuleList(
            Level(
                widths[max(i - 1, 0)],
                width,
                config.res_blocks,
                config.attention and i == last,
                Downsample if i < last else None,
                config,
            )
            for i, width in enumerate(widths)
        )
        self.middle = Middle(widths[-1], config)
        self.norm_out = _norm(widths[-1], config)
        self.conv_out = nn.Conv2d(widths[-1], z_channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        h = self.conv_in(F.pixel_unshuffle(images, self.patch))
        for level in self.levels:
            h = level(h)
        return self.conv_out(silu(self.norm_out(self.middle(h))))


class Decoder(nn.Module):
    """(B, z_channels, h, w) -> (B, image_channels, h * stride, w * stride), not clamped.

    ``levels`` runs in the order of the data, lowest resolution first.
    """

    def __init__(self, config: NetConfig, z_channels: int) -> None:
        super().__init__()
        self.patch = config.patch
        widths = config.channels[::-1]
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(z_channels, widths[0], 3, padding=1)
        self.middle = Middle(widths[0], config)
        self.levels = nn.ModuleList(
            Level(
                widths[max(i - 1, 0)],
                width,
                config.res_blocks + 1,
                config.attention and i == 0,
                Upsample if i < last else None,
                config,
            )
            for i, width in enumerate(widths)
        )
        self.norm_out = _norm(widths[-1], config)
        self.conv_out = nn.Conv2d(widths[-1], config.image_channels * config.patch**2, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.middle(self.conv_in(z))
        for level in self.levels:
            h = level(h)
        return F.pixel_shuffle(self.conv_out(silu(self.norm_out(h))), self.patch)
