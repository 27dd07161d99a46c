"""The scale schedule: which grids the token pyramid has, and which token may look at which.

VAR (arXiv 2404.02905, section 3.2) describes an image by K token maps r_1, ..., r_K that grow from a single token
to the full latent grid, and factorises p(r_1, ..., r_K) = prod_k p(r_k | r_1, ..., r_{k-1}). Everything that needs
to know how many tokens a scale has, or where it begins in the flat sequence of L tokens, asks this class.
Explained in ``notebooks/04_token_pyramid.ipynb``.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

LARGEST = 4096  # cells along a side: 64 K pixels, at 16 to a cell


@dataclass(frozen=True)
class ScaleSchedule:
    """Grids (h_k, w_k) of the K scales, coarse to fine; the last one is the tokenizer's latent grid.

    ``grids`` may be given as pairs or, for square grids, as sides: ``ScaleSchedule((1, 2, 3, 4))``.
    Raises ``ValueError`` unless there is a scale, every side is an integer in 1..4096, and each grid is larger than
    the one before it: no side shrinks and at least one grows.
    """

    grids: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        if not isinstance(self.grids, tuple | list):
            raise ValueError(f"A scale schedule is a tuple of grids; got {self.grids!r:.80}.")
        grids = tuple(tuple(g) if isinstance(g, tuple | list) else (g, g) for g in self.grids)
        if not grids:
            raise ValueError("A scale schedule needs at least one grid; got none.")
        for grid in grids:
            if len(grid) != 2 or not all(type(side) is int and 0 < side <= LARGEST for side in grid):
                raise ValueError(
                    f"Each grid of a scale schedule (at most {LARGEST} x {LARGEST}) is a pair of positive integers; "
                    f"got {grid!r:.80}."
                )
        for (h0, w0), (h1, w1) in zip(grids, grids[1:], strict=False):
            if h1 < h0 or w1 < w0 or (h1, w1) == (h0, w0):
                raise ValueError(
                    f"The grids of a scale schedule must increase; got {h1}x{w1} after {h0}x{w0} in {grids!r:.80}."
                )
        object.__setattr__(self, "grids", grids)

    @property
    def num_scales(self) -> int:
        """K."""
        return len(self.grids)

    @property
    def counts(self) -> tuple[int, ...]:
        """Tokens of each scale, h_k * w_k."""
        return tuple(h * w for h, w in self.grids)

    @property
    def num_tokens(self) -> int:
        """L, the tokens of all scales together."""
        return sum(self.counts)

    @property
    def bounds(self) -> tuple[tuple[int, int], ...]:
        """(begin, end) of each scale in the flat sequence of L tokens."""
        ends = [sum(self.counts[: k + 1]) for k in range(self.num_scales)]
        return tuple((end - count, end) for end, count in zip(ends, self.counts, strict=True))

    @property
    def final_grid(self) -> tuple[int, int]:
        """(h_K, w_K), the latent grid of the tokenizer."""
        return self.grids[-1]

    def level_ids(self, device: torch.device | str | None = None, prefix: int = 0) -> Tensor:
        """(L,) int64: the scale k that each token belongs to; ``prefix`` tokens before them belong to the first."""
        position_L = torch.arange(self.num_tokens, device=device)
        level_L = torch.zeros_like(position_L)
        for begin, _ in self.bounds[1:]:  # numbers, not a tensor of them, for which a GPU would be waited for
            level_L += position_L >= begin
        return F.pad(level_L, (prefix, 0)) if prefix else level_L

    def block_causal_mask(self, device: torch.device | str | None = None, prefix: int = 0) -> Tensor:
        """(L, L) bool, True where the token of the row may attend to the token of the column.

        A token sees its own scale and all coarser ones (paper, figure 4): unlike a causal mask it is blocky, since
        the tokens of one scale are predicted together. A caption's ``prefix`` tokens are part of the first scale.
        """
        level_L = self.level_ids(device, prefix)
        return level_L[:, None] >= level_L[None, :]

    def split(self, tokens_BL: Tensor) -> list[Tensor]:
        """(B, L, ...) -> K views (B, h_k * w_k, ...)."""
        if tokens_BL.dim() < 2 or tokens_BL.shape[1] != self.num_tokens:
            raise ValueError(f"Expected {self.num_tokens} tokens in dimension 1; got {tuple(tokens_BL.shape)}.")
        return list(tokens_BL.split(self.counts, dim=1))

    def __str__(self) -> str:
        return ", ".join(str(h) if h == w else f"{h}x{w}" for h, w in self.grids)


# The published schedules (VAR's code, ``utils/arg_util.py``). All end at image side / 16.
VAR_256 = ScaleSchedule((1, 2, 3, 4, 5, 6, 8, 10, 13, 16))
VAR_512 = ScaleSchedule((1, 2, 3, 4, 6, 9, 13, 18, 24, 32))
VAR_1024 = ScaleSchedule((1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64))
PUBLISHED = {s.num_tokens: s for s in (VAR_256, VAR_512, VAR_1024)}  # 680, 2240 and 9451 tokens
