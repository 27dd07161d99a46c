"""Checks of the exercises of chapter 06."""

from collections.abc import Callable

import torch
from torch import Tensor

from minivar.book.exercises.verdict import verdict
from minivar.training import TrainConfig, learning_rate


def check_learning_rate(fn: Callable[[int, int, int, float, float], float]) -> bool:
    """fn(step, steps, warm, peak, final) against ``train.learning_rate``."""
    steps, warm, peak, final = 1000, 20, 3e-4, 0.1
    config = TrainConfig(base_lr=peak, batch_size=256, warmup=warm / steps, final_lr_ratio=final)
    cases = []
    for step in (0, 7, 19, 20, 60, 100, 500, 999):
        expected = learning_rate(step, steps, config)
        cases.append((f"step {step} of {steps}", lambda s=step: float(fn(s, steps, warm, peak, final)), expected))
    return verdict("learning rate", cases)


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
    return verdict("balanced loss", cases)
