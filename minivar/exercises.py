"""The checks that the chapters' exercises call.

Each ``check_...`` takes the reader's function, tries it on a few cases, prints one line, and returns whether all
passed. A failing case is named with what came out and what was expected; nothing is raised, so that a notebook with
unsolved exercises still runs from top to bottom.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from minivar.scales import VAR_256, VAR_512, ScaleSchedule
from minivar.train import TrainConfig, learning_rate
from minivar.transformer import VAR, VARConfig


def _same(got: object, expected: object) -> bool:
    if isinstance(expected, Tensor):
        if not isinstance(got, Tensor) or got.shape != expected.shape:
            return False
        return torch.allclose(got.to(expected.dtype), expected, atol=1e-5, rtol=1e-4)
    if isinstance(expected, float):
        return isinstance(got, int | float) and abs(got - expected) <= 1e-6 * max(1.0, abs(expected))
    return type(got) is type(expected) and got == expected


def _show(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 160 else text[:157] + "..."


def _verdict(name: str, cases: Iterable[tuple[str, Callable[[], object], object]]) -> bool:
    """Run (description, call, expected) cases in order and report the first that fails."""
    count = 0
    for description, call, expected in cases:
        try:
            got = call()
        except Exception as error:  # the reader's code may raise anything
            print(f"{name}, {description}: not yet, it raised {type(error).__name__}: {_show(error)}")
            return False
        if not _same(got, expected):
            print(f"{name}, {description}: not yet, got {_show(got)}, expected {_show(expected)}")
            return False
        count += 1
    print(f"{name}: all {count} cases pass.")
    return True


# Chapter 06 ---------------------------------------------------------------------------------------------------------


def check_learning_rate(fn: Callable[[int, int, int, float, float], float]) -> bool:
    """fn(step, steps, warm, peak, final) against ``train.learning_rate``."""
    steps, warm, peak, final = 1000, 20, 3e-4, 0.1
    config = TrainConfig(base_lr=peak, batch_size=256, warmup=warm / steps, final_lr_ratio=final)
    cases = []
    for step in (0, 7, 19, 20, 60, 100, 500, 999):
        expected = learning_rate(step, steps, config)
        cases.append((f"step {step} of {steps}", lambda s=step: float(fn(s, steps, warm, peak, final)), expected))
    return _verdict("learning rate", cases)


def check_balanced_loss(fn: Callable[[Tensor, Tensor, tuple[int, ...]], Tensor]) -> bool:
    """fn(logits, tokens, counts): cross-entropy in which every scale, not every token, has the same weight."""

    def reference(logits_BLV: Tensor, tokens_BL: Tensor, counts: tuple[int, ...]) -> Tensor:
        per_token = -logits_BLV.log_softmax(-1).gather(-1, tokens_BL[..., None])[..., 0]
        return sum(part.mean() for part in per_token.split(counts, 1)) / len(counts)

    cases = []
    for counts in ((1, 4), (1, 4, 9), (1, 2, 6, 12)):
        generator = torch.Generator().manual_seed(len(counts))
        logits = torch.randn(3, sum(counts), 7, generator=generator)
        tokens = torch.randint(7, (3, sum(counts)), generator=generator)
        expected = reference(logits, tokens, counts)
        cases.append((f"counts {counts}", lambda x=(logits, tokens, counts): fn(*x), expected))
    return _verdict("balanced loss", cases)


# Chapter 00 ---------------------------------------------------------------------------------------------------------


def check_count_steps(fn: Callable[[tuple[int, ...]], tuple[int, int, int]]) -> bool:
    """fn(sides) -> (steps of next-scale prediction, its tokens, steps of raster order on the last grid)."""
    return _verdict(
        "steps and tokens",
        [
            ("sides 1, 2", lambda: tuple(fn((1, 2))), (2, 5, 4)),
            ("sides 1, 2, 3, 4", lambda: tuple(fn((1, 2, 3, 4))), (4, 30, 16)),
            (
                "ImageNet at 256 pixels",
                lambda: tuple(fn((1, 2, 3, 4, 5, 6, 8, 10, 13, 16))),
                (10, VAR_256.num_tokens, 256),
            ),
        ],
    )


# Chapter 05: the next-scale transformer -----------------------------------------------------------------------------


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

    return _verdict(
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

    return _verdict(
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

    return _verdict(
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


# Chapter 04 ---------------------------------------------------------------------------------------------------------


def check_toy_decode(fn: Callable[[list[Tensor], Tensor, int], Tensor]) -> bool:
    """``fn(tokens, codebook, size)`` -> f_hat (size, size): the sum of the codes, spread by repeating cells."""

    def case(sides: tuple[int, ...], codebook: list[float]):
        draw = torch.Generator().manual_seed(len(sides))
        tokens = [torch.randint(len(codebook), (side, side), generator=draw) for side in sides]
        codes = [torch.tensor(codebook)[t] for t in tokens]
        size = sides[-1]
        expected = sum(c.repeat_interleave(size // len(c), 0).repeat_interleave(size // len(c), 1) for c in codes)
        return lambda: fn([t.clone() for t in tokens], torch.tensor(codebook), size), expected

    toy = [-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0, 8.0]
    return _verdict(
        "toy decode",
        (
            ("a single 1 x 1 scale", *case((1,), toy)),
            ("scales 1, 2 (does every coarse code cover its whole block?)", *case((1, 2), toy)),
            ("scales 1, 2, 4 with the codebook of section 2", *case((1, 2, 4), toy)),
            ("scales 1, 2, 3, 6 with three codes", *case((1, 2, 3, 6), [-1.0, 0.5, 3.0])),
        ),
    )


def check_straight_through(fn: Callable[[Tensor, Tensor], Tensor]) -> bool:
    """``fn(features, f_hat)``: the value of f_hat, the gradient of the identity with respect to the features."""
    draw = torch.Generator().manual_seed(0)
    features, f_hat, upstream = torch.randn(3, 2, 4, 3, 3, generator=draw)

    def run(part: str) -> Tensor:
        f, q = features.clone().requires_grad_(), f_hat.clone().requires_grad_()
        out = fn(f, q)
        if part == "value":
            return out.detach()
        out.backward(upstream)
        gradient = f.grad if part == "features" else q.grad
        return torch.zeros_like(upstream) if gradient is None else gradient

    return _verdict(
        "straight through",
        (
            ("the value (it must be f_hat)", lambda: run("value"), f_hat),
            ("the gradient that reaches the features", lambda: run("features"), upstream),
            ("the gradient that reaches f_hat (none may)", lambda: run("f_hat"), torch.zeros_like(upstream)),
        ),
    )


def check_usage(fn: Callable[[Tensor, int], tuple[float, float]]) -> bool:
    """``fn(tokens, codebook_size)`` -> (share of the codebook that occurs, perplexity of the codes)."""

    def case(tokens: list[int], size: int, used: float, perplexity: float):
        return lambda: torch.tensor(fn(torch.tensor(tokens), size)), torch.tensor([used, perplexity])

    return _verdict(
        "usage",
        (
            ("one code only", *case([3] * 10, 8, 1 / 8, 1.0)),
            ("four codes, equally often, of a codebook of eight", *case([0, 2, 4, 6] * 5, 8, 0.5, 4.0)),
            ("every code once", *case(list(range(16)), 16, 1.0, 16.0)),
            ("two codes, one of them three times in four", *case([1, 1, 1, 5], 10, 0.2, 4 / 3**0.75)),
        ),
    )
