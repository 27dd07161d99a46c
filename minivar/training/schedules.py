"""What changes from step to step: learning rate and weight decay."""

import math

import torch
from torch import nn

from minivar.training.config import TrainConfig


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


NO_DECAY = ("start_1lD", "position_1", "level_embed", "ada_table", "log_scale")


def parameter_groups(model: nn.Module) -> list[dict]:
    """Two groups: with weight decay, and without (vectors, biases, position and level tables, attention scales)."""
    decay, plain = [], []
    for name, parameter in model.named_parameters():
        exempt = parameter.dim() <= 1 or any(part in name for part in NO_DECAY)
        (plain if exempt else decay).append(parameter)
    return [{"params": decay, "decays": True}, {"params": plain, "decays": False}]


def apply_schedules(step: int, steps: int, config: TrainConfig, *optimizers: torch.optim.Optimizer) -> None:
    """Set learning rate and weight decay of all ``parameter_groups`` for a step."""
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["lr"] = learning_rate(step, steps, config)
        group["weight_decay"] = weight_decay(step, steps, config) if group["decays"] else 0.0
