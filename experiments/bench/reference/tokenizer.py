"""VAR's tokenizer, plainly: the VQGAN nets around the residual pyramid, and LlamaGen's single grid.

Sources: the VAR paper (arXiv 2404.02905), section 3.2, algorithms 1 and 2, and its code's ``models/quant.py``; nets:
VQGAN (arXiv 2012.09841), appendix A; single grid: LlamaGen (arXiv 2406.06525), section 2.1. Inference only.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.bench.reference.weights import Layers
from minivar.tokenizer import VQVAE


def nearest_ticks(scales: int, count: int) -> list[int]:
    """Which of ``count`` convolutions phi each scale uses: that whose tick is nearest to k / (K - 1).

    Where two ticks are equally near, as for k = 2 and 7 of ten scales, the rounding of numpy's float64 decides.
    """
    margin = 1 / 12 if count == 4 else 1 / (2 * count)
    ticks = np.linspace(margin, 1 - margin, count)
    return [int(np.abs(ticks - k / max(scales - 1, 1)).argmin()) for k in range(scales)]


class ReferenceTokenizer(Layers):
    """Images to tokens and back, on the weights of ``tokenizer``."""

    def __init__(self, tokenizer: VQVAE) -> None:
        super().__init__(tokenizer)
        self.levels = len(self.config.nets.multipliers)
        self.codebook_VC = self.weights["quantizer.codebook"]
        if self.config.quantizer == "single" and self.config.l2_norm_codes:
            self.codebook_VC = F.normalize(self.codebook_VC.detach(), dim=-1)
        stride = self.config.nets.stride
        height, width = self.config.image_size or (stride, stride)
        top, left = (-height % stride) // 2, (-width % stride) // 2
        self.padding = left, -width % stride - left, top, -height % stride - top
        if self.config.schedule is not None:
            self.phi_of_scale = nearest_ticks(self.config.schedule.num_scales, self.config.num_phi)

    # The nets -------------------------------------------------------------------------------------------------

    def norm(self, x: Tensor, name: str) -> Tensor:
        """GroupNorm, eps 1e-6."""
        scale, shift = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return F.group_norm(x, self.config.nets.groups, scale, shift, eps=1e-6)

    def res_block(self, x: Tensor, name: str) -> Tensor:
        """x + conv(silu(norm(conv(silu(norm(x)))))), with a 1x1 convolution on x where channels change."""
        h = self.conv(F.silu(self.norm(x, f"{name}.norm1"), inplace=True), f"{name}.conv1")
        h = self.conv(F.silu(self.norm(h, f"{name}.norm2"), inplace=True), f"{name}.conv2")
        return h + (self.conv(x, f"{name}.skip") if f"{name}.skip.weight" in self.weights else x)

    def attention(self, x: Tensor, name: str) -> Tensor:
        """One head over all positions; nothing where the tokenizer has no attention there."""
        if f"{name}.qkv.weight" not in self.weights:
            return x
        qkv = self.conv(self.norm(x, f"{name}.norm"), f"{name}.qkv")
        q, k, v = qkv.flatten(2).transpose(1, 2).chunk(3, dim=-1)  # (B, h w, channels) each
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).unflatten(2, x.shape[2:])
        return x + self.conv(out, f"{name}.proj")

    def middle(self, x: Tensor, name: str) -> Tensor:
        """Residual block, attention, residual block."""
        x = self.attention(self.res_block(x, f"{name}.block1"), f"{name}.attn")
        return self.res_block(x, f"{name}.block2")

    def level(self, x: Tensor, name: str, blocks: int) -> Tensor:
        """The residual blocks of one resolution."""
        for i in range(blocks):
            x = self.attention(self.res_block(x, f"{name}.blocks.{i}"), f"{name}.attns.{i}")
        return x

    def head(self, x: Tensor, net: str) -> Tensor:
        """Norm, SiLU, convolution."""
        return self.conv(F.silu(self.norm(x, f"{net}.norm_out"), inplace=True), f"{net}.conv_out")

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, C, h, w), before quantisation."""
        x = F.pad(images, self.padding, mode="replicate") if any(self.padding) else images
        x = self.conv(F.pixel_unshuffle(x, self.config.nets.patch), "encoder.conv_in")
        for i in range(self.levels):
            x = self.level(x, f"encoder.levels.{i}", self.config.nets.res_blocks)
            if i < self.levels - 1:
                padded = F.pad(x, (0, 1, 0, 1))  # on the right and below only, as in VQGAN
                x = self.conv(padded, f"encoder.levels.{i}.resample.conv", stride=2, padding=0)
        x = self.head(self.middle(x, "encoder.middle"), "encoder")
        return self.conv(x, "quant_conv")

    @torch.no_grad()
    def pixels(self, f_hat_BChw: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 3, H, W), clamped to [-1, 1]."""
        x = self.conv(self.conv(f_hat_BChw, "post_quant_conv"), "decoder.conv_in")
        x = self.middle(x, "decoder.middle")
        for i in range(self.levels):
            x = self.level(x, f"decoder.levels.{i}", self.config.nets.res_blocks + 1)
            if i < self.levels - 1:
                x = self.conv(F.interpolate(x, scale_factor=2.0), f"decoder.levels.{i}.resample.conv")
        x = F.pixel_shuffle(self.head(x, "decoder"), self.config.nets.patch)
        left, right, top, bottom = self.padding
        return x[:, :, top : x.shape[2] - bottom, left : x.shape[3] - right].clamp(-1, 1)

    # The pyramid ----------------------------------------------------------------------------------------------

    def nearest(self, z_NC: Tensor) -> Tensor:
        """(N, C) -> (N,): the closest code, by |z|^2 + |e|^2 - 2 z.e."""
        distance_NV = z_NC.square().sum(1, keepdim=True) + self.codebook_VC.square().sum(1)
        return distance_NV.addmm_(z_NC, self.codebook_VC.T, alpha=-2).argmin(1)

    def phi(self, h_BChw: Tensor, k: int) -> Tensor:
        """(1 - r) h + r conv(h), by the convolution of scale k."""
        ratio = self.config.phi_ratio
        return h_BChw * (1 - ratio) + self.conv(h_BChw, f"quantizer.phis.{self.phi_of_scale[k]}.conv") * ratio

    def contribution(self, tokens_Bl: Tensor, k: int) -> Tensor:
        """What the tokens of scale k add to f_hat: codes, upsampled bicubically, through phi."""
        grids = self.config.schedule.grids
        h_BChw = F.embedding(tokens_Bl, self.codebook_VC).transpose(1, 2).unflatten(2, grids[k])
        if k < len(grids) - 1:
            h_BChw = F.interpolate(h_BChw, size=grids[-1], mode="bicubic")
        return self.phi(h_BChw, k)

    def at_scale(self, f_BChw: Tensor, k: int) -> Tensor:
        """Averaged down to the grid of scale k: (B, h_k w_k, C)."""
        grids = self.config.schedule.grids
        if k < len(grids) - 1:
            f_BChw = F.interpolate(f_BChw, size=grids[k], mode="area")
        return f_BChw.flatten(2).transpose(1, 2)

    @torch.no_grad()
    def encode(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> K tensors (B, h_k w_k): algorithm 1, or the nearest code of every cell of one grid."""
        rest_BChw, tokens = self.features(images), []
        if self.config.quantizer == "single":
            if self.config.l2_norm_codes:
                rest_BChw = F.normalize(rest_BChw, dim=1)
            return [self.nearest(rest_BChw.permute(0, 2, 3, 1).flatten(0, 2)).view(len(images), -1)]
        for k in range(self.config.schedule.num_scales):
            z_BlC = self.at_scale(rest_BChw, k)
            tokens.append(self.nearest(z_BlC.flatten(0, 1)).view(z_BlC.shape[:2]))
            rest_BChw = rest_BChw - self.contribution(tokens[k], k)
        return tokens

    @torch.no_grad()
    def f_hats(self, tokens: list[Tensor]) -> list[Tensor]:
        """f_hat, (B, C, h, w), after each scale: algorithm 2."""
        if self.config.quantizer == "single":
            side = math.isqrt(tokens[0].shape[1])
            codes_BlC = F.embedding(tokens[0], self.codebook_VC)
            return [codes_BlC.transpose(1, 2).unflatten(2, self.config.latent_grid or (side, side))]
        f_hats = [self.contribution(tokens[0], 0)]
        for k in range(1, len(tokens)):
            f_hats.append(f_hats[-1] + self.contribution(tokens[k], k))
        return f_hats

    def decode(self, tokens: list[Tensor]) -> Tensor:
        """K tensors of tokens -> (B, 3, H, W) in [-1, 1]."""
        return self.pixels(self.f_hats(tokens)[-1])

    @torch.no_grad()
    def teacher_inputs(self, tokens: list[Tensor]) -> Tensor:
        """Tokens -> (B, L - h_1 w_1, C): f_hat before each scale but the first, averaged down to its grid."""
        return torch.cat([self.at_scale(f, k + 1) for k, f in enumerate(self.f_hats(tokens[:-1]))], dim=1)
