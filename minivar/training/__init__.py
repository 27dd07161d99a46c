"""Training: the configuration, the schedules, the tasks, the loop, and what it needs on many GPUs."""

from minivar.training.config import Preset, TrainConfig, TrainingError
from minivar.training.loop import check_config, fit
from minivar.training.progress import read_log
from minivar.training.schedules import (
    batch_indices,
    learning_rate,
    parameter_groups,
    total_steps,
    weight_decay,
)
from minivar.training.stages import check_run, take_tokenizer, train_model, train_tokenizer
from minivar.training.tasks import GPTTask, TokenizerTask, TokenTask, VARTask

__all__ = [
    "GPTTask",
    "Preset",
    "TokenTask",
    "TokenizerTask",
    "TrainConfig",
    "TrainingError",
    "VARTask",
    "batch_indices",
    "check_config",
    "check_run",
    "fit",
    "learning_rate",
    "parameter_groups",
    "read_log",
    "take_tokenizer",
    "total_steps",
    "train_model",
    "train_tokenizer",
    "weight_decay",
]
