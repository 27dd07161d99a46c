"""Vector quantisation: continuous features to codebook indices and back (VQ-VAE, arXiv 1711.00937).

``Quantizer`` is what both quantisers share: a codebook, the search for the nearest code, the straight-through
training forward, and the care for codes that nothing uses. How features become token maps is theirs to say:
``single_scale.VectorQuantizer`` has one map, ``multi_scale.MultiScaleQuantizer`` a pyramid of them.
Explained in ``notebooks/01_images_as_tokens.ipynb``.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minivar.precision import full_precision


class QuantizerOutput(NamedTuple):
    """What the training forward of a quantiser returns."""

    quantized: Tensor  # (B, C, h_K, w_K), equal to f_hat; gradients pass straight through to the features
    loss: Tensor  # scalar: codebook and commitment loss
    tokens: list[Tensor]  # K x (B, h_k * w_k) int64
    residuals: list[Tensor]  # K x (B * h_k * w_k, C) float32: the vectors that were quantised, with gradients
    scale_errors: Tensor  # (K,) float32, detached: mean squared error of f_hat after each scale


class Step(NamedTuple):
    """One token map on the way: what was quantised, by which codes, and the features so far."""

    residual_NC: Tensor
    tokens_N: Tensor
    f_hat_BChw: Tensor


class Quantizer(nn.Module, ABC):
    """A codebook of ``codebook_size`` codes, and K = ``num_maps`` token maps for every image.

    ``beta`` weighs the commitment loss. The buffer ``usage_KV`` is a moving average, updated by training forwards, of
    how often each map picked each code in a batch.
    """

    def __init__(self, codebook_size: int, code_dim: int, beta: float, num_maps: int) -> None:
        super().__init__()
        self.beta = beta
        self.codebook = nn.Parameter(torch.empty(codebook_size, code_dim))
        nn.init.uniform_(self.codebook, -1 / codebook_size, 1 / codebook_size)
        self.register_buffer("usage_KV", torch.zeros(num_maps, codebook_size))

    # What a quantiser has to say for itself -------------------------------------------------------------------

    @abstractmethod
    def steps(self, features_BChw: Tensor) -> Iterator[Step]:
        """The token maps of prepared features, one after the other; gradients reach codebook and phis."""

    @abstractmethod
    def accumulate(self, tokens: list[Tensor]) -> Iterator[Tensor]:
        """Yields the features (B, C, h_K, w_K) that the token maps so far stand for."""

    @property
    def codes(self) -> Tensor:
        """(V, C): the codebook as it is compared and looked up."""
        return self.codebook

    def prepare(self, features_BChw: Tensor) -> Tensor:
        """The features as they are compared with the codes: distances and sums of residuals need float32."""
        return features_BChw.float()

    # Features -> tokens ---------------------------------------------------------------------------------------

    def part(self, k: int) -> range:
        """The codes that token map ``k`` may use: all."""
        return range(len(self.codebook))

    def nearest(self, z_NC: Tensor, k: int = 0) -> Tensor:
        """(N, C) -> (N,) int64: index of the closest code of map ``k``'s, by squared Euclidean distance."""
        # |z - e|^2 = |z|^2 + |e|^2 - 2 z.e
        mine = self.part(k)
        with full_precision(z_NC):
            codes_VC = self.codes[mine.start : mine.stop]
            distance_NV = z_NC.square().sum(1, keepdim=True) + codes_VC.square().sum(1)
            return distance_NV.addmm(z_NC, codes_VC.T, alpha=-2).argmin(1) + mine.start

    @torch.no_grad()
    def encode(self, features_BChw: Tensor) -> list[Tensor]:
        """(B, C, h_K, w_K) float -> K LongTensors (B, h_k * w_k)."""
        batch = features_BChw.shape[0]
        return [step.tokens_N.view(batch, -1) for step in self.steps(self.prepare(features_BChw))]

    def forward(self, features_BChw: Tensor) -> QuantizerOutput:
        """Training forward: the straight-through quantised features and the loss, averaged over the token maps."""
        features_BChw = self.prepare(features_BChw)
        steps = list(self.steps(features_BChw))
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

    # Codebook health ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _record_usage(self, steps: list[Step]) -> None:
        # Neither torch.bincount nor a Python condition: on a GPU each of them would wait for the result.
        hits_KV = torch.zeros_like(self.usage_KV)
        for hits_V, step in zip(hits_KV, steps, strict=True):
            hits_V.scatter_add_(0, step.tokens_N, torch.ones_like(step.tokens_N, dtype=hits_V.dtype))
        self.usage_KV.copy_(torch.where(self.usage_KV.any(), self.usage_KV.lerp(hits_KV, 0.01), hits_KV))

    @torch.no_grad()
    def revive_dead_codes(
        self, residuals: list[Tensor], threshold: float = 0.05, scales_alike: bool = False
    ) -> Tensor:
        """Move codes that hardly any scale uses onto recent residuals; how many were moved, int64 ().

        Without this a multi-scale codebook collapses: coarse scales have few tokens a batch, so most codes never
        receive a gradient from them. A code is dead when its share of all uses is below ``threshold`` / V; with
        ``scales_alike`` each scale's uses are shared out first, so that a code of the first scale, which has one
        token an image, is as busy as one of the last: then a higher threshold makes room for coarse scales.

        Each dead code is set to the residual of a random token of a random scale, so coarse scales get as many new
        codes as fine ones, and starts again with average usage: it has about 300 training forwards to prove itself
        before the moving average can call it dead again. A less patient average was tried and was as bad as no
        revival.
        """
        usage_KV = self.usage_KV / self.usage_KV.sum(1, keepdim=True) if scales_alike else self.usage_KV
        usage_V = usage_KV.sum(0)
        dead_V1 = (usage_V < threshold * usage_V.mean())[:, None]

        # A candidate for every code: whether it is needed is not known before a GPU has caught up.
        def draw_V(below: int) -> Tensor:
            return torch.randint(below, usage_V.shape, device=usage_V.device)

        candidates_KVC = torch.stack([residual[draw_V(len(residual))] for residual in residuals])
        own_K = [self.part(k) for k in range(len(residuals))]
        if any(len(own) < len(usage_V) for own in own_K):
            scale_V = torch.cat([torch.full((len(own),), k, device=usage_V.device) for k, own in enumerate(own_K)])
        else:
            scale_V = draw_V(len(residuals))
        candidates_VC = candidates_KVC[scale_V, torch.arange(len(usage_V), device=usage_V.device)]
        self.codebook.copy_(torch.where(dead_V1, candidates_VC.to(self.codebook.dtype), self.codebook))
        self.usage_KV.copy_(torch.where(dead_V1[:, 0], self.usage_KV.mean(1, keepdim=True), self.usage_KV))
        return dead_V1.sum()
