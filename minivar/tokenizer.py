"""The tokenizer: image <-> tokens, a VQ-VAE (arXiv 1711.00937) around either quantiser.

image (B, 3, H, W) in [-1, 1] -> encoder -> quant_conv -> features (B, C, h, w) -> quantiser -> tokens
tokens -> codes summed to f_hat (B, C, h, w) -> post_quant_conv -> decoder -> image.
Explained in ``notebooks/04_token_pyramid.ipynb``.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minivar.nets import Decoder, Encoder, NetConfig
from minivar.quantizers import MultiScaleQuantizer
from minivar.scales import VAR_256, ScaleSchedule


@dataclass(frozen=True)
class TokenizerConfig:
    """Everything that determines a tokenizer's shape. Defaults: VAR's published one (REFERENCE section 2)."""

    image_size: int | tuple[int, int] = 256  # side, or (height, width), in pixels
    nets: NetConfig = field(default_factory=NetConfig)
    codebook_size: int = 4096  # V
    code_dim: int = 32  # C
    quant_conv_kernel: int = 3
    schedule: ScaleSchedule = VAR_256
    beta: float = 0.25  # weight of the commitment loss
    num_phi: int = 4
    phi_ratio: float = 0.5

    def __post_init__(self) -> None:
        size = self.image_size
        object.__setattr__(self, "image_size", (size, size) if isinstance(size, int) else tuple(size))
        grid = tuple(-(-side // self.nets.stride) for side in self.image_size)
        if grid != self.schedule.final_grid:
            raise ValueError(
                f"The last grid of the schedule must be the latent grid: got {self.schedule.final_grid}, expected "
                f"{grid} for {self.image_size} pixels at stride {self.nets.stride}."
            )


class TokenizerOutput(NamedTuple):
    """The training forward of the tokenizer."""

    reconstruction: Tensor  # (B, 3, H, W), not clamped
    loss: Tensor  # scalar: the quantiser's loss
    tokens: list[Tensor]  # K x (B, h_k * w_k) int64
    residuals: list[Tensor]  # K x (N, C), what was quantised at each scale; for reviving dead codes
    scale_errors: Tensor  # (K,) mean squared error of the features after each scale


class VQVAE(nn.Module):
    """Tokenizer with a multi-scale residual quantiser.

    Images whose sides are not multiples of the stride are padded to one on the way in, by repeating their border,
    and cropped on the way out: 28 x 28 digits pass through a 32 x 32 network.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        channels, kernel = config.code_dim, config.quant_conv_kernel
        self.encoder = Encoder(config.nets, channels)
        self.quant_conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2)
        self.quantizer = MultiScaleQuantizer(
            config.schedule,
            config.codebook_size,
            config.code_dim,
            config.beta,
            config.num_phi,
            config.phi_ratio,
        )
        self.post_quant_conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2)
        self.decoder = Decoder(config.nets, channels)

    @property
    def schedule(self) -> ScaleSchedule:
        """The scale schedule of the quantiser."""
        return self.quantizer.schedule

    @property
    def _padding(self) -> tuple[int, int, int, int]:
        """(left, right, top, bottom) pixels that complete the last latent cells."""
        height, width = self.config.image_size
        stride = self.config.nets.stride
        (left, top) = ((-width % stride) // 2, (-height % stride) // 2)
        return left, -width % stride - left, top, -height % stride - top

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) float in [-1, 1] -> (B, C, h, w) float, before quantisation.

        Raises ``ValueError`` if channels or size are not the tokenizer's.
        """
        expected = (self.config.nets.image_channels, *self.config.image_size)
        if images.dim() != 4 or tuple(images.shape[1:]) != expected:
            raise ValueError(
                f"The tokenizer expects images of shape (B, {', '.join(map(str, expected))}); got "
                f"{tuple(images.shape)}."
            )
        if any(self._padding):
            images = F.pad(images, self._padding, mode="replicate")
        return self.quant_conv(self.encoder(images))

    def decode_features(self, f_hat_BChw: Tensor) -> Tensor:
        """(B, C, h, w) quantised features -> (B, 3, H, W) pixels, not clamped."""
        images = self.decoder(self.post_quant_conv(f_hat_BChw))
        height, width = self.config.image_size
        left, _, top, _ = self._padding
        return images[:, :, top : top + height, left : left + width]

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
        counts = self.schedule.counts[: len(tokens)]
        got = [tuple(t.shape) for t in tokens]
        if not tokens or len(tokens) > self.schedule.num_scales or [s[1:] for s in got] != [(c,) for c in counts]:
            raise ValueError(
                f"Expected one (B, h_k*w_k) tensor of tokens a scale, with {self.schedule.counts} tokens; "
                f"got shapes {got}."
            )
