"""What changes from step to step: learning rate, weight decay, and which images a batch holds."""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from minivar.training.config import TrainConfig, TrainingError


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """Published schedule: linear warm-up, constant for ``hold`` of the rest, linear to ``final_lr_ratio``."""
    peak = config.base_lr * config.batch_size / 256
    warm = round(config.warmup * steps)
    if step < warm:
        return peak * (config.warmup_start + (1 - config.warmup_start) * step / warm)
    passed = (step - warm) / max(steps - 1 - warm, 1)
    if passed < config.hold:
        return peak
    rest = (1 - passed) / (1 - config.hold)
    return peak * (config.final_lr_ratio + (1 - config.final_lr_ratio) * rest)


def weight_decay(step: int, steps: int, config: TrainConfig) -> float:
    """Cosine from ``weight_decay`` to ``final_weight_decay``."""
    if config.final_weight_decay is None:
        return config.weight_decay
    fraction = 0.5 + 0.5 * math.cos(math.pi * step / max(steps - 1, 1))
    return config.final_weight_decay + (config.weight_decay - config.final_weight_decay) * fraction


NO_DECAY = ("start_1lD", "position_1LD", "level_embed", "ada_table", "log_scale")


def parameter_groups(model: nn.Module) -> list[dict]:
    """Two groups: with weight decay, and without (vectors, biases, position and level tables, attention scales)."""
    decay, plain = [], []
    for name, parameter in model.named_parameters():
        exempt = parameter.dim() <= 1 or any(part in name for part in NO_DECAY)
        (plain if exempt else decay).append(parameter)
    return [{"params": decay, "decays": True}, {"params": plain, "decays": False}]


@functools.lru_cache(maxsize=2)
def epoch_order(epoch: int, size: int, seed: int, order: Callable = torch.randperm) -> Tensor:
    """A permutation that depends on seed and epoch alone, so that any step can be found."""
    return order(size, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))


def batch_indices(step: int, size: int, config: TrainConfig, order: Callable = torch.randperm) -> Tensor:
    """The images of a step; ``order`` is the data's own where it cannot be read in any order, as from shards."""
    epoch, position = divmod(step, size // config.batch_size)
    images = epoch_order(epoch, size, config.seed, order)
    return images[position * config.batch_size : (position + 1) * config.batch_size]


def total_steps(size: int, config: TrainConfig) -> int:
    """Steps of the whole run; the last, incomplete batch of an epoch is dropped."""
    if size < config.batch_size:
        raise TrainingError(f"The dataset has {size} images, fewer than one batch of {config.batch_size}.")
    return max(1, round(config.epochs * (size // config.batch_size)))
