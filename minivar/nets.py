"""The convolutional encoder, decoder and discriminator of the VQGAN family, which VAR and LlamaGen share.

The encoder halves the resolution once per level after the first; the decoder mirrors it. VAR's published tokenizer
is ``NetConfig()`` with its defaults: five levels, hence 16 pixels to a latent cell. Smaller data sets want fewer
channels and levels, and a ``patch`` above 1, which folds patch x patch pixels into channels before the first
convolution: on a CPU, full-resolution convolutions are where the time goes. The discriminator judges patches of an
image; it is needed in training only, by ``losses.TokenizerLoss``.
Explained in ``notebooks/04_token_pyramid.ipynb``; source: VQGAN (arXiv 2012.09841), appendix A.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


@dataclass(frozen=True)
class NetConfig:
    """Shape of encoder and decoder. Defaults: VAR's published tokenizer (REFERENCE section 2)."""

    image_channels: int = 3
    base_channels: int = 160
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)  # channels of each level, in units of base_channels
    res_blocks: int = 2  # per level in the encoder; the decoder has one more
    attention: bool = True  # self-attention at the lowest resolution and in the middle
    groups: int = 32  # of every GroupNorm
    patch: int = 1  # side of the pixel blocks folded into channels

    def __post_init__(self) -> None:
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
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
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
        return self.conv_out(F.silu(self.norm_out(self.middle(h))))


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
        return F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(h))), self.patch)


# The discriminator ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Shape of the discriminator. Defaults: pix2pix's, VQGAN's and LlamaGen's, for images of 256 pixels.

    Each logit sees a patch of 70 pixels with three layers, of 34 with two, of 16 with one. Three layers turn an image
    of 28 pixels into a single logit; one or two suit it better.
    """

    base_channels: int = 64
    layers: int = 3  # stride-2 convolutions
    norm: str = "group"  # or "spectral": no statistics, every convolution's largest singular value is 1
    groups: int = 32  # of every GroupNorm

    def __post_init__(self) -> None:
        if self.norm not in ("group", "spectral"):
            raise ValueError(f"The discriminator's norm is 'group' or 'spectral'; got {self.norm!r}.")
        if min(self.layers, self.base_channels, self.groups) < 1:
            raise ValueError(f"A discriminator needs layers, base_channels and groups of at least 1; got {self}.")
        if self.norm == "group" and (2 * self.base_channels) % self.groups:
            raise ValueError(
                f"GroupNorm with {self.groups} groups needs channels divisible by it; got {2 * self.base_channels} "
                "in the discriminator's second layer."
            )

    @property
    def patch(self) -> int:
        """Pixels along the side of what one logit sees, if the image is larger."""
        field = 1 + 3 + 3  # the two stride-1 convolutions at the end
        for _ in range(self.layers):
            field = 2 * field + 2  # (field - 1) * stride 2 + kernel 4
        return field

    @property
    def smallest_image(self) -> int:
        """Pixels along the shortest side for which a logit is left."""
        return 3 * 2**self.layers


class PatchDiscriminator(nn.Module):
    """PatchGAN: one logit for every overlapping patch of an image, positive where the patch looks real.

    A patch has no room for what an image shows, only for how it looks close up, and that is what the pixel losses
    miss: texture and sharp edges (pix2pix, arXiv 1611.07004, section 3.2.2; VQGAN, arXiv 2012.09841, section 3.1).

    DEVIATION: GroupNorm, or spectral normalisation (arXiv 1802.05957), stands where the published PatchGAN has
    BatchNorm. BatchNorm judges an image by its neighbours in the batch: real and reconstructed images would have to
    pass apart, each process of a distributed run would see other statistics, and the R1 penalty would not be a
    gradient of one image's logit. VAR's authors train against a frozen DINO network with small heads instead.
    """

    def __init__(self, config: DiscriminatorConfig, channels: int) -> None:
        super().__init__()
        self.config, self.channels = config, channels
        widths = [config.base_channels * min(2**i, 8) for i in range(config.layers + 1)]
        stages: list[nn.Module] = [self._conv(channels, widths[0], stride=2), nn.LeakyReLU(0.2)]
        for i in range(1, config.layers + 1):
            stages.append(self._conv(widths[i - 1], widths[i], stride=2 if i < config.layers else 1))
            if config.norm == "group":
                stages.append(nn.GroupNorm(config.groups, widths[i]))
            stages.append(nn.LeakyReLU(0.2))
        self.stages = nn.Sequential(*stages, self._conv(widths[-1], 1, stride=1))

    def _conv(self, c_in: int, c_out: int, stride: int) -> nn.Module:
        conv = nn.Conv2d(c_in, c_out, 4, stride, padding=1)
        nn.init.normal_(conv.weight, std=0.02)  # pix2pix, section 6.2
        return spectral_norm(conv) if self.config.norm == "spectral" else conv

    def forward(self, images: Tensor) -> Tensor:
        """(B, channels, height, width) float, about [-1, 1] -> logits (B, 1, rows, columns), one a patch.

        Raises ``ValueError`` if the channels are not the discriminator's or no patch fits the image.
        """
        smallest = self.config.smallest_image
        if images.dim() != 4 or images.shape[1] != self.channels or min(images.shape[2:]) < smallest:
            raise ValueError(
                f"A discriminator of {self.config.layers} layers expects images (B, {self.channels}, height, width) "
                f"of at least {smallest} pixels a side; got {tuple(images.shape)}."
            )
        return self.stages(images)
