"""Checks of the exercises of chapter 05."""

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from minivar.book.exercises.verdict import verdict
from minivar.models import VAR, VARConfig
from minivar.scales import VAR_512, ScaleSchedule


def check_teacher_inputs(fn: Callable[[list[Tensor], list[tuple[int, int]]], Tensor]) -> bool:
    """``fn(contributions, grids)``: K tensors (B, C, h_K, w_K) -> the transformer's inputs, (B, L - h_1 w_1, C)."""

    def case(grids: list[tuple[int, int]], last: float | None = None):
        draw = torch.Generator().manual_seed(len(grids))
        parts = [torch.randn(2, 3, *grids[-1], generator=draw) for _ in grids]
        sums = torch.stack(parts).cumsum(0)
        expected = [F.adaptive_avg_pool2d(f, g).flatten(2).mT for f, g in zip(sums[:-1], grids[1:], strict=True)]
        if last is not None:
            parts[-1] = torch.full_like(parts[-1], last)
        return lambda: fn([part.clone() for part in parts], grids), torch.cat(expected, dim=1)

    return verdict(
        "teacher_inputs",
        (
            ("two scales", *case([(1, 1), (2, 2)])),
            ("scales 1, 2, 4 (is f_hat the sum of all coarser scales?)", *case([(1, 1), (2, 2), (4, 4)])),
            ("grids that are not square", *case([(1, 1), (1, 2), (2, 4)])),
            ("sides that do not divide the final grid", *case([(1, 1), (2, 2), (3, 3), (5, 5)])),
            ("a last scale of NaN (nobody may read it)", *case([(1, 1), (2, 2), (4, 4)], torch.nan)),
        ),
    )


def check_guidance(fn: Callable[[Tensor, Tensor, int, int, float], Tensor]) -> bool:
    """``fn(cond, uncond, k, num_scales, cfg)`` -> guided logits, with the published ramp over the scales."""
    draw = torch.Generator().manual_seed(0)
    cond, uncond = torch.randn(2, 3, 4, 5, generator=draw)

    def case(k: int, num_scales: int, cfg: float):
        t = cfg * k / max(num_scales - 1, 1)
        return lambda: fn(cond.clone(), uncond.clone(), k, num_scales, cfg), cond + t * (cond - uncond)

    return verdict(
        "guided",
        (
            ("the first of 10 scales (no guidance yet)", *case(0, 10, 4.0)),
            ("the last of 10 scales (full strength)", *case(9, 10, 1.5)),
            ("the third of 5 scales", *case(2, 5, 3.0)),
            ("cfg = 0 on the last scale", *case(3, 4, 0.0)),
            ("a schedule of one scale", *case(0, 1, 2.0)),
        ),
    )


def check_parameter_count(fn: Callable[[VARConfig], int]) -> bool:
    """``fn(config)`` -> number of parameters of the transformer with this configuration."""
    grids = ScaleSchedule((2, 3, 5))
    small = VARConfig.from_depth(2, num_classes=7, codebook_size=50, code_dim=6, schedule=grids)

    def case(config: VARConfig):
        with torch.device("meta"):
            expected = sum(p.numel() for p in VAR(config).parameters())
        return lambda: fn(config), expected

    return verdict(
        "parameter_count",
        (
            ("a first scale of 2 x 2", *case(small)),
            ("four heads for width 128", *case(replace(small, heads=4))),
            ("plain attention, without temperatures", *case(replace(small, l2_norm_attention=False))),
            ("an MLP twice as wide as the model", *case(replace(small, mlp_ratio=2.0))),
            ("shared AdaLN", *case(replace(small, shared_adaln=True))),
            ("the published d16", *case(VARConfig.from_depth(16))),
            ("the published d36-s", *case(VARConfig.from_depth(36, schedule=VAR_512, shared_adaln=True))),
        ),
    )
