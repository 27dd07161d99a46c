"""Training: the configuration, the schedules, the tasks, the loop, and what it needs on many GPUs."""

from minivar.training.batches import Batches, batch_indices, total_steps
from minivar.training.before import check_config
from minivar.training.config import Preset, TrainConfig, TrainingError, accumulation
from minivar.training.ema import AveragedWeights
from minivar.training.finetuning import adapted, starting_weights
from minivar.training.interruption import Interrupted
from minivar.training.loop import fit
from minivar.training.progress import read_log
from minivar.training.rivals import DiTTask, MaskGITTask
from minivar.training.schedules import learning_rate, parameter_groups, weight_decay
from minivar.training.stages import (
    check_run,
    draws_pixels,
    keep_text,
    keep_tokenizer,
    take_tokenizer,
    train_model,
    train_tokenizer,
)
from minivar.training.task import Task
from minivar.training.tasks import GeneratorTask, GPTTask, TextVARTask, TokenizerTask, TokenTask, VARTask

__all__ = [
    "AveragedWeights",
    "Batches",
    "DiTTask",
    "GPTTask",
    "GeneratorTask",
    "Interrupted",
    "MaskGITTask",
    "Preset",
    "Task",
    "TextVARTask",
    "TokenTask",
    "TokenizerTask",
    "TrainConfig",
    "TrainingError",
    "VARTask",
    "accumulation",
    "adapted",
    "batch_indices",
    "check_config",
    "check_run",
    "draws_pixels",
    "fit",
    "keep_text",
    "keep_tokenizer",
    "learning_rate",
    "parameter_groups",
    "read_log",
    "starting_weights",
    "take_tokenizer",
    "total_steps",
    "train_model",
    "train_tokenizer",
    "weight_decay",
]
