"""The multi-scale quantiser: VAR's residual pyramid (arXiv 2404.02905, section 3.2, algorithms 1 and 2).

One codebook serves all scales. Scale k quantises what the coarser scales have left over, at its own resolution; the
quantised codes are upsampled to the full grid, passed through a small convolution phi, and added to the running sum
f_hat. Explained in ``notebooks/04_token_pyramid.ipynb``.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from minivar.precision import full_precision
from minivar.scales import ScaleSchedule
from minivar.tokenizer.quantizer import Quantizer, Step
from minivar.tokenizer.resizing import averaged, enlarged


class Phi(nn.Module):
    """phi(h) = (1 - r) h + r conv3x3(h): repairs what upsampling blurred (paper, section 3.2; r = 0.5)."""

    def __init__(self, channels: int, ratio: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.ratio = ratio

    def forward(self, h_BChw: Tensor) -> Tensor:
        return h_BChw * (1 - self.ratio) + self.conv(h_BChw) * self.ratio


def phi_indices(num_scales: int, num_phi: int) -> tuple[int, ...]:
    """Which of the ``num_phi`` shared convolutions each scale uses: the nearest tick to k / (K - 1).

    With four, the ticks are 1/12, 13/36, 23/36, 11/12, as published. For K = 10, k = 2 and k = 7 lie exactly between
    two ticks, and float64 rounding decides; computing this with ``np.linspace``, as the authors did, decides alike.
    """
    margin = 1 / (3 * num_phi) if num_phi == 4 else 1 / (2 * num_phi)
    ticks = np.linspace(margin, 1 - margin, num_phi)
    return tuple(int(np.argmin(np.abs(ticks - k / max(num_scales - 1, 1)))) for k in range(num_scales))


class MultiScaleQuantizer(Quantizer):
    """Residual quantisation over a schedule of scales with one shared codebook.

    ``num_phi`` and ``phi_ratio`` describe the partially shared convolutions. ``own_codes``: each scale
    has an equal part of the codebook to itself, coarse to fine.
    """

    def __init__(
        self,
        schedule: ScaleSchedule,
        codebook_size: int,
        code_dim: int,
        beta: float = 0.25,
        num_phi: int = 4,
        phi_ratio: float = 0.5,
        own_codes: bool = False,
    ) -> None:
        super().__init__(codebook_size, code_dim, beta, num_maps=schedule.num_scales)
        self.own_codes = own_codes
        self.schedule = schedule
        self.phis = nn.ModuleList(Phi(code_dim, phi_ratio) for _ in range(num_phi))
        self.phi_of_scale = phi_indices(schedule.num_scales, num_phi)

    def part(self, k: int) -> range:
        """The codes that scale ``k`` may use."""
        size = len(self.codebook)
        if not self.own_codes:
            return range(size)
        count = self.schedule.num_scales
        return range(k * size // count, (k + 1) * size // count)

    def contribution(self, codes_Bhwc: Tensor, k: int) -> Tensor:
        """Codes of scale k, (B, h_k * w_k, C) -> what they add to f_hat, (B, C, h_K, w_K)."""
        h_BChw = codes_Bhwc.transpose(1, 2).unflatten(2, self.schedule.grids[k])
        if k < self.schedule.num_scales - 1:
            h_BChw = enlarged(h_BChw, self.schedule.final_grid)
        with full_precision(h_BChw):
            return self.phis[self.phi_of_scale[k]](h_BChw)

    def at_scale(self, f_BChw: Tensor, k: int) -> Tensor:
        """Full-grid features averaged down to scale k: (B, C, h_K, w_K) -> (B, h_k * w_k, C)."""
        if k < self.schedule.num_scales - 1:
            f_BChw = averaged(f_BChw, self.schedule.grids[k])
        return f_BChw.flatten(2).transpose(1, 2)

    def steps(self, features_BChw: Tensor, counted: Callable[[Tensor, int], Tensor] | None = None) -> Iterator[Step]:
        """Algorithm 1: at each scale quantise the residual, upsample, add.

        Gradients of f_hat reach codebook and phis, those of the residuals the features. ``counted`` gives the tokens
        whose codes are added in place of those of a scale, (N,).
        """
        residual_BChw = features_BChw
        f_hat_BChw = torch.zeros_like(residual_BChw)
        for k in range(self.schedule.num_scales):
            z_BlC = self.at_scale(residual_BChw, k)
            z_NC = z_BlC.reshape(-1, z_BlC.shape[-1])
            with torch.no_grad():
                tokens_N = self.nearest(z_NC, k)
            codes_BlC = self.lookup(counted(tokens_N, k) if counted else tokens_N).view_as(z_BlC)
            h_BChw = self.contribution(codes_BlC, k)
            f_hat_BChw = f_hat_BChw + h_BChw
            residual_BChw = residual_BChw - h_BChw.detach()
            yield Step(z_NC, tokens_N, f_hat_BChw)

    @torch.no_grad()
    def encode_with_mistakes(self, features_BChw: Tensor, share: float) -> tuple[list[Tensor], Tensor]:
        """Algorithm 1 with a ``share`` in [0, 1) of the tokens replaced by random ones before their codes count.

        Self-correction (Infinity, arXiv 2412.04431, which flips bits): what is left after a mistake holds it, so that
        the tokens of later scales undo it. Features (B, C, h_K, w_K) -> the nearest codes, K LongTensors (B,
        h_k * w_k), which are to be predicted, and the transformer's inputs, which see the mistakes, (B, L - h_1 w_1,
        C). Without mistakes these are ``encode`` and ``teacher_inputs``.
        """

        def with_mistakes(tokens_N: Tensor, k: int) -> Tensor:
            random_N = torch.randint_like(tokens_N, self.part(k).start, self.part(k).stop)
            return torch.where(torch.rand(tokens_N.shape, device=tokens_N.device) < share, random_N, tokens_N)

        steps = list(self.steps(self.prepare(features_BChw), with_mistakes))
        tokens = [step.tokens_N.view(len(features_BChw), -1) for step in steps]
        inputs = [self.at_scale(step.f_hat_BChw, k + 1) for k, step in enumerate(steps[:-1])]
        return tokens, torch.cat(inputs, dim=1)

    def accumulate(self, tokens: list[Tensor]) -> Iterator[Tensor]:
        """Algorithm 2: yields f_hat, (B, C, h_K, w_K), after each scale of ``tokens``; a prefix of scales will do."""
        f_hat_BChw: Tensor | float = 0.0
        for k, tokens_Bl in enumerate(tokens):
            f_hat_BChw = f_hat_BChw + self.contribution(self.lookup(tokens_Bl), k)
            yield f_hat_BChw

    def last_scale_so_far(self, tokens_Bl: Tensor, known_Bl: Tensor) -> Tensor:
        """What the known ones among the last scale's tokens add to that scale's inputs: (B, h_K * w_K, C)."""
        codes_BlC = self.lookup(tokens_Bl) * known_Bl[..., None]
        return self.contribution(codes_BlC, self.schedule.num_scales - 1).flatten(2).transpose(1, 2)

    def teacher_inputs(self, tokens: list[Tensor]) -> Tensor:
        """Transformer inputs for scales 2..K: f_hat so far, averaged down to each next grid. (B, L - h_1 w_1, C)."""
        return torch.cat([self.at_scale(f, k + 1) for k, f in enumerate(self.accumulate(tokens[:-1]))], dim=1)
