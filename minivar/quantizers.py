"""Quantisers: continuous features to codebook indices and back.

``MultiScaleQuantizer`` is VAR's residual pyramid (arXiv 2404.02905, section 3.3, algorithms 1 and 2). One codebook
serves all scales. Scale k quantises what the coarser scales have left over, at its own resolution; the quantised
codes are upsampled to the full grid, passed through a small convolution phi, and added to the running sum f_hat.
Explained in ``notebooks/04_token_pyramid.ipynb``.
"""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minivar.scales import ScaleSchedule


class QuantizerOutput(NamedTuple):
    """What the training forward of a quantiser returns."""

    quantized: Tensor  # (B, C, h_K, w_K), equal to f_hat; gradients pass straight through to the features
    loss: Tensor  # scalar: codebook and commitment loss
    tokens: list[Tensor]  # K x (B, h_k * w_k) int64
    residuals: list[Tensor]  # K x (B * h_k * w_k, C) float32, detached: the vectors that were quantised
    scale_errors: Tensor  # (K,) float32, detached: mean squared error of f_hat after each scale


class Step(NamedTuple):
    """One scale of the residual quantisation."""

    k: int
    residual_NC: Tensor
    tokens_N: Tensor
    f_hat_BChw: Tensor


class Phi(nn.Module):
    """phi(h) = (1 - r) h + r conv3x3(h): repairs what upsampling blurred (paper, section 3.3; r = 0.5)."""

    def __init__(self, channels: int, ratio: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.ratio = ratio

    def forward(self, h_BChw: Tensor) -> Tensor:
        return h_BChw * (1 - self.ratio) + self.conv(h_BChw) * self.ratio


def full_precision(tensor: Tensor):
    """Context without autocast: distances between codes and sums of residuals do not survive bfloat16."""
    device = tensor.device.type  # autocast is unknown to "meta", where only shapes are computed
    return nullcontext() if device == "meta" else torch.autocast(device, enabled=False)


def phi_indices(num_scales: int, num_phi: int) -> tuple[int, ...]:
    """Which of the ``num_phi`` shared convolutions each scale uses: the nearest tick to k / (K - 1).

    With four, the ticks are 1/12, 13/36, 23/36, 11/12, as published. For K = 10, k = 2 and k = 7 lie exactly between
    two ticks, and float64 rounding decides; computing this with ``np.linspace``, as the authors did, decides alike.
    """
    margin = 1 / (3 * num_phi) if num_phi == 4 else 1 / (2 * num_phi)
    ticks = np.linspace(margin, 1 - margin, num_phi)
    return tuple(int(np.argmin(np.abs(ticks - k / max(num_scales - 1, 1)))) for k in range(num_scales))


class MultiScaleQuantizer(nn.Module):
    """Residual quantisation over a schedule of scales with one shared codebook.

    ``beta`` weighs the commitment loss, ``num_phi`` and ``phi_ratio`` describe the partially shared convolutions.
    The buffer ``usage_KV`` is a moving average, updated by training forwards, of how often each scale picked each
    code in a batch.
    """

    def __init__(
        self,
        schedule: ScaleSchedule,
        codebook_size: int,
        code_dim: int,
        beta: float = 0.25,
        num_phi: int = 4,
        phi_ratio: float = 0.5,
    ) -> None:
        super().__init__()
        self.schedule = schedule
        self.beta = beta
        self.codebook = nn.Parameter(torch.empty(codebook_size, code_dim))
        nn.init.uniform_(self.codebook, -1 / codebook_size, 1 / codebook_size)
        self.phis = nn.ModuleList(Phi(code_dim, phi_ratio) for _ in range(num_phi))
        self.phi_of_scale = phi_indices(schedule.num_scales, num_phi) if num_phi else ()
        self.register_buffer("usage_KV", torch.zeros(schedule.num_scales, codebook_size))

    @property
    def codes(self) -> Tensor:
        """(V, C): the codebook as it is compared and looked up."""
        return self.codebook

    # The three elementary operations --------------------------------------------------------------------------

    def nearest(self, z_NC: Tensor) -> Tensor:
        """(N, C) -> (N,) int64: index of the closest code, by squared Euclidean distance."""
        # |z - e|^2 = |z|^2 + |e|^2 - 2 z.e
        with full_precision(z_NC):
            codes_VC = self.codes
            distance_NV = z_NC.square().sum(1, keepdim=True) + codes_VC.square().sum(1)
            return distance_NV.addmm(z_NC, codes_VC.T, alpha=-2).argmin(1)

    def contribution(self, codes_Bhwc: Tensor, k: int) -> Tensor:
        """Codes of scale k, (B, h_k * w_k, C) -> what they add to f_hat, (B, C, h_K, w_K)."""
        h_BChw = codes_Bhwc.transpose(1, 2).unflatten(2, self.schedule.grids[k])
        if k < self.schedule.num_scales - 1:
            h_BChw = F.interpolate(h_BChw, size=self.schedule.final_grid, mode="bicubic")
        with full_precision(h_BChw):
            return self.phis[self.phi_of_scale[k]](h_BChw)

    def at_scale(self, f_BChw: Tensor, k: int) -> Tensor:
        """Full-grid features averaged down to scale k: (B, C, h_K, w_K) -> (B, h_k * w_k, C)."""
        if k < self.schedule.num_scales - 1:
            f_BChw = F.interpolate(f_BChw, size=self.schedule.grids[k], mode="area")
        return f_BChw.flatten(2).transpose(1, 2)

    # Features -> tokens ---------------------------------------------------------------------------------------

    def _steps(self, features_BChw: Tensor) -> Iterator[Step]:
        """Algorithm 1: at each scale quantise the residual, upsample, add. Gradients reach codebook and phis."""
        residual_BChw = features_BChw.detach()
        f_hat_BChw = torch.zeros_like(residual_BChw)
        for k in range(self.schedule.num_scales):
            z_BlC = self.at_scale(residual_BChw, k)
            z_NC = z_BlC.reshape(-1, z_BlC.shape[-1])
            with torch.no_grad():
                tokens_N = self.nearest(z_NC)
            codes_BlC = self.lookup(tokens_N).view_as(z_BlC)
            h_BChw = self.contribution(codes_BlC, k)
            f_hat_BChw = f_hat_BChw + h_BChw
            residual_BChw = residual_BChw - h_BChw.detach()
            yield Step(k, z_NC, tokens_N, f_hat_BChw)

    @torch.no_grad()
    def encode(self, features_BChw: Tensor) -> list[Tensor]:
        """(B, C, h_K, w_K) float -> K LongTensors (B, h_k * w_k)."""
        batch = features_BChw.shape[0]
        return [step.tokens_N.view(batch, -1) for step in self._steps(features_BChw.float())]

    def forward(self, features_BChw: Tensor) -> QuantizerOutput:
        """Training forward: the straight-through quantised features and the loss, averaged over the scales."""
        features_BChw = features_BChw.float()  # distances and sums of residuals need full precision
        steps = list(self._steps(features_BChw))
        fixed_BChw = features_BChw.detach()
        # L = 1/K sum_k  beta |sg[f_hat_k] - f|^2 + |f_hat_k - sg[f]|^2
        # (paper, equation 5, states one |f - f_hat|^2; the split in two and the mean over scales are the code's)
        commitment_K = torch.stack([F.mse_loss(s.f_hat_BChw.detach(), features_BChw) for s in steps])
        codebook_K = torch.stack([F.mse_loss(s.f_hat_BChw, fixed_BChw) for s in steps])
        loss = (self.beta * commitment_K + codebook_K).mean()
        if self.training:
            self._record_usage(steps)
        # Straight through: the value is f_hat, the gradient with respect to the features is the identity.
        quantized_BChw = features_BChw + (steps[-1].f_hat_BChw.detach() - fixed_BChw)
        batch = features_BChw.shape[0]
        return QuantizerOutput(
            quantized_BChw,
            loss,
            [s.tokens_N.view(batch, -1) for s in steps],
            [s.residual_NC for s in steps],
            codebook_K.detach(),
        )

    # Tokens -> features ---------------------------------------------------------------------------------------

    def lookup(self, tokens_Bl: Tensor) -> Tensor:
        """(B, l) int64 -> (B, l, C) codes."""
        return F.embedding(tokens_Bl, self.codes)

    def accumulate(self, tokens: list[Tensor]) -> Iterator[Tensor]:
        """Algorithm 2: yields f_hat, (B, C, h_K, w_K), after each scale of ``tokens``; a prefix of scales will do."""
        f_hat_BChw: Tensor | float = 0.0
        for k, tokens_Bl in enumerate(tokens):
            f_hat_BChw = f_hat_BChw + self.contribution(self.lookup(tokens_Bl), k)
            yield f_hat_BChw

    def teacher_inputs(self, tokens: list[Tensor]) -> Tensor:
        """Transformer inputs for scales 2..K: f_hat so far, averaged down to each next grid. (B, L - h_1 w_1, C)."""
        return torch.cat([self.at_scale(f, k + 1) for k, f in enumerate(self.accumulate(tokens[:-1]))], dim=1)

    # Codebook health ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _record_usage(self, steps: list[Step]) -> None:
        hits_KV = torch.stack([torch.bincount(s.tokens_N, minlength=len(self.codebook)) for s in steps]).float()
        first = not bool(self.usage_KV.any())
        self.usage_KV.copy_(hits_KV if first else self.usage_KV.lerp(hits_KV, 0.01))

    @torch.no_grad()
    def revive_dead_codes(self, residuals: list[Tensor], threshold: float = 0.05) -> int:
        """Move codes that hardly any scale uses onto recent residuals; returns how many were moved.

        A code is dead when its share of all uses is below ``threshold`` / V. Without this a multi-scale codebook
        collapses: coarse scales have few tokens a batch, so most codes never receive a gradient from them. Each
        dead code is set to the residual of a random token of a random scale, so coarse scales get as many new codes
        as fine ones, and starts again with average usage: it has about 300 training forwards to prove itself before
        the moving average can call it dead again. A less patient average was tried and was as bad as no revival.
        """
        usage_V = self.usage_KV.sum(0)
        dead = (usage_V < threshold * usage_V.mean()).nonzero()[:, 0]
        scales = torch.randint(len(residuals), (len(dead),)).tolist()
        for code, k in zip(dead.tolist(), scales, strict=True):
            row = int(torch.randint(len(residuals[k]), ()))
            self.codebook[code] = residuals[k][row].to(self.codebook.dtype)
        self.usage_KV[:, dead] = self.usage_KV.mean(1, keepdim=True)
        return len(dead)


class VectorQuantizer(MultiScaleQuantizer):
    """One grid, one token a cell: a pyramid of a single scale, without phi (VQ-VAE, arXiv 1711.00937).

    With ``l2_norm``, as in LlamaGen, features and codes are projected onto the unit sphere first, so that the nearest
    code is the one with the most similar direction: no code can fall out of use for its length alone
    (arXiv 2110.04627, section 3.2). Any grid will do; where only tokens are known, it is taken to be square.
    """

    def __init__(self, codebook_size: int, code_dim: int, beta: float = 0.25, l2_norm: bool = True) -> None:
        super().__init__(ScaleSchedule((1,)), codebook_size, code_dim, beta, num_phi=0)
        self.l2_norm = l2_norm

    @property
    def codes(self) -> Tensor:
        """(V, C): the codebook, of unit length with ``l2_norm``."""
        return F.normalize(self.codebook, dim=-1) if self.l2_norm else self.codebook

    def _steps(self, features_BChw: Tensor) -> Iterator[Step]:
        if self.l2_norm:
            features_BChw = F.normalize(features_BChw, dim=1)
        z_NC = features_BChw.detach().permute(0, 2, 3, 1).flatten(0, 2)
        with torch.no_grad():
            tokens_N = self.nearest(z_NC)
        batch, _, height, width = features_BChw.shape
        codes_BhwC = self.lookup(tokens_N).view(batch, height, width, -1)
        yield Step(0, z_NC, tokens_N, codes_BhwC.permute(0, 3, 1, 2))

    def forward(self, features_BChw: Tensor) -> QuantizerOutput:
        """As ``MultiScaleQuantizer.forward``: codebook loss plus beta times commitment, on projected features."""
        return super().forward(F.normalize(features_BChw.float(), dim=1) if self.l2_norm else features_BChw)

    def accumulate(self, tokens: list[Tensor]) -> Iterator[Tensor]:
        """Yields the codes of the one token map as features (B, C, side, side)."""
        side = math.isqrt(tokens[0].shape[1])
        yield self.lookup(tokens[0]).transpose(1, 2).unflatten(2, (side, side))
