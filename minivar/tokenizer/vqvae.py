"""The tokenizer: image <-> tokens, a VQ-VAE (arXiv 1711.00937) around either quantiser.

image (B, 3, H, W) in [-1, 1] -> encoder -> quant_conv -> features (B, C, h, w) -> quantiser -> tokens
tokens -> codes summed to f_hat (B, C, h, w) -> post_quant_conv -> decoder -> image.
Explained in ``notebooks/04_token_pyramid.ipynb``.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minivar.checks import check
from minivar.scales import VAR_256, ScaleSchedule
from minivar.tokenizer.multi_scale import MultiScaleQuantizer
from minivar.tokenizer.nets import Decoder, Encoder, NetConfig
from minivar.tokenizer.single_scale import VectorQuantizer


@dataclass(frozen=True)
class TokenizerConfig:
    """Everything that determines a tokenizer's shape. Defaults: VAR's published one."""

    image_size: int | tuple[int, int] | None = 256  # side, or (height, width), in pixels; None: any, single only
    nets: NetConfig = field(default_factory=NetConfig)
    codebook_size: int = 4096  # V
    code_dim: int = 32  # C
    quantizer: str = "multi-scale"  # or "single": one grid, as in LlamaGen
    z_channels: int | None = None  # of encoder output and decoder input; None: C
    quant_conv_kernel: int = 3
    schedule: ScaleSchedule | None = VAR_256  # None for a single grid
    beta: float = 0.25  # weight of the commitment loss
    num_phi: int = 4  # multi-scale only
    phi_ratio: float = 0.5  # multi-scale only
    own_codes: bool = False  # multi-scale only: each scale has a part of the codebook to itself
    l2_norm_codes: bool = True  # single only: compare directions, not points

    def __post_init__(self) -> None:
        if isinstance(self.image_size, int):
            object.__setattr__(self, "image_size", (self.image_size, self.image_size))
        check(
            self,
            image_size="[1, 65536]",
            codebook_size="[1, 1e8]",
            code_dim="[1, 1e6]",
            quantizer=("multi-scale", "single"),
            z_channels="[1, 1e6]",
            quant_conv_kernel="[1, 31]",
            beta="[0, inf)",
            num_phi="[1, 1000]",
            phi_ratio="[0, 1]",
        )
        if self.quant_conv_kernel % 2 == 0:
            raise ValueError(f"quant_conv_kernel must be odd, to keep the grid; got {self.quant_conv_kernel}.")
        single, size = self.quantizer == "single", self.image_size
        if single != (self.schedule is None) or (size is None and not single):
            raise ValueError(
                "A multi-scale tokenizer needs a schedule and an image size, a single-scale one has no schedule; got "
                f"quantizer {self.quantizer!r}, schedule {self.schedule}, image size {size}."
            )
        if self.own_codes and (single or self.codebook_size < self.schedule.num_scales):
            raise ValueError(
                "Codes of their own are for several scales, at least one code each; got quantizer "
                f"{self.quantizer!r}, codebook_size {self.codebook_size}."
            )
        if not single and self.latent_grid != self.schedule.final_grid:
            raise ValueError(
                f"The last grid of the schedule must be the latent grid: got {self.schedule.final_grid}, expected "
                f"{self.latent_grid} for {self.image_size} pixels at stride {self.nets.stride}."
            )

    @property
    def latent_grid(self) -> tuple[int, int] | None:
        """Rows and columns of the latent cells; None where images may have any size."""
        return self.image_size and tuple(-(-side // self.nets.stride) for side in self.image_size)


class TokenizerOutput(NamedTuple):
    """The training forward of the tokenizer."""

    reconstruction: Tensor  # (B, 3, H, W), not clamped
    loss: Tensor  # scalar: the quantiser's loss
    tokens: list[Tensor]  # K x (B, h_k * w_k) int64
    residuals: list[Tensor]  # K x (N, C), what was quantised at each scale; for reviving dead codes
    scale_errors: Tensor  # (K,) mean squared error of the features after each scale


class VQVAE(nn.Module):
    """Tokenizer with a multi-scale residual quantiser, or with one grid (``config.quantizer``).

    Images whose sides are not multiples of the stride are padded to one on the way in, by repeating their border,
    and cropped on the way out: 28 x 28 digits pass through a 32 x 32 network.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        channels, kernel = config.code_dim, config.quant_conv_kernel
        z_channels = config.z_channels or channels
        shape = (config.codebook_size, channels, config.beta)
        self.encoder = Encoder(config.nets, z_channels)
        self.quant_conv = nn.Conv2d(z_channels, channels, kernel, padding=kernel // 2)
        if config.quantizer == "single":
            self.quantizer = VectorQuantizer(*shape, config.l2_norm_codes, config.latent_grid)
        else:
            self.quantizer = MultiScaleQuantizer(
                config.schedule, *shape, config.num_phi, config.phi_ratio, config.own_codes
            )
        self.post_quant_conv = nn.Conv2d(channels, z_channels, kernel, padding=kernel // 2)
        self.decoder = Decoder(config.nets, z_channels)

    @property
    def schedule(self) -> ScaleSchedule | None:
        """The scale schedule, None for a single grid."""
        return self.config.schedule

    @property
    def padding(self) -> tuple[int, int, int, int]:
        """(left, right, top, bottom) pixels that complete the last latent cells."""
        stride = self.config.nets.stride
        height, width = self.config.image_size or (stride, stride)
        (left, top) = ((-width % stride) // 2, (-height % stride) // 2)
        return left, -width % stride - left, top, -height % stride - top

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) float in [-1, 1] -> (B, C, h, w) float, before quantisation.

        Raises ``ValueError`` if channels or size are not the tokenizer's.
        """
        stride, size = self.config.nets.stride, self.config.image_size
        expected = (self.config.nets.image_channels, *(size or [f"a multiple of {stride}"] * 2))
        fits = images.dim() == 4 and images.shape[1] == expected[0]
        fits = fits and (tuple(images.shape[2:]) == size if size else not any(s % stride for s in images.shape[2:]))
        if not fits:
            raise ValueError(
                f"The tokenizer expects images of shape (B, {', '.join(map(str, expected))}); got "
                f"{tuple(images.shape)}."
            )
        if any(self.padding):
            images = F.pad(images, self.padding, mode="replicate")
        return self.quant_conv(self.encoder(images))

    def decode_features(self, f_hat_BChw: Tensor) -> Tensor:
        """(B, C, h, w) quantised features -> (B, 3, H, W) pixels, not clamped."""
        images = self.decoder(self.post_quant_conv(f_hat_BChw))
        left, right, top, bottom = self.padding
        return images[:, :, top : images.shape[2] - bottom, left : images.shape[3] - right]

    def forward(self, images: Tensor) -> TokenizerOutput:
        """Training forward: (B, 3, H, W) in [-1, 1] -> reconstruction, quantiser loss and statistics."""
        out = self.quantizer(self.features(images))
        return TokenizerOutput(
            self.decode_features(out.quantized), out.loss, out.tokens, out.residuals, out.scale_errors
        )

    @torch.no_grad()
    def encode(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) float in [-1, 1] -> K LongTensors (B, h_k * w_k) with values in [0, V)."""
        return self.quantizer.encode(self.features(images))

    @torch.no_grad()
    def decode(self, tokens: list[Tensor]) -> Tensor:
        """K LongTensors (B, h_k * w_k) -> (B, 3, H, W) float, clamped to [-1, 1].

        A prefix of the scales gives the image as it looks so far.
        """
        self._check_tokens(tokens)
        *_, f_hat_BChw = self.quantizer.accumulate(tokens)
        return self.decode_features(f_hat_BChw).clamp(-1, 1)

    @torch.no_grad()
    def latents(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, C, h, w) float32: what the quantiser is given, for models that draw that."""
        return self.quantizer.prepare(self.features(images))

    @torch.no_grad()
    def decode_latents(self, latents_BChw: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 3, H, W), clamped to [-1, 1]: through the nearest codes, which the decoder knows."""
        return self.decode(self.quantizer.encode(latents_BChw))

    @torch.no_grad()
    def decode_pyramid(self, tokens: list[Tensor]) -> list[Tensor]:
        """The image after each scale of ``tokens``: K tensors (B, 3, H, W), clamped to [-1, 1]."""
        self._check_tokens(tokens)
        return [self.decode_features(f).clamp(-1, 1) for f in self.quantizer.accumulate(tokens)]

    @torch.no_grad()
    def teacher_inputs(self, tokens: list[Tensor]) -> Tensor:
        """K LongTensors -> (B, L - 1, C) float: what the transformer reads to predict scales 2..K.

        (L - 1 because the first scale, one token in every published schedule, is predicted from the class alone.)
        """
        self._check_tokens(tokens)
        return self.quantizer.teacher_inputs(tokens)

    def _check_tokens(self, tokens: list[Tensor]) -> None:
        got = [tuple(t.shape) for t in tokens]
        if self.schedule is None:
            grid = self.config.latent_grid
            one = len(got) == 1 and len(got[0]) == 2
            if not one or got[0][1] != (math.prod(grid) if grid else math.isqrt(got[0][1]) ** 2):
                shape = f"(B, {math.prod(grid)})" if grid else "(B, side * side)"
                raise ValueError(f"Expected one {shape} tensor of tokens in a list; got shapes {got}.")
            return
        counts = self.schedule.counts[: len(tokens)]
        if not tokens or len(tokens) > self.schedule.num_scales or [s[1:] for s in got] != [(c,) for c in counts]:
            raise ValueError(
                f"Expected one (B, h_k*w_k) tensor of tokens a scale, with {self.schedule.counts} tokens; "
                f"got shapes {got}."
            )
