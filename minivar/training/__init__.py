"""Training: the configuration, the schedules, the tasks, the loop, and what it needs on many GPUs."""

from minivar.training.batches import Batches, batch_indices, total_steps
from minivar.training.config import Preset, TrainConfig, TrainingError, accumulation
from minivar.training.loop import check_config, fit
from minivar.training.progress import read_log
from minivar.training.schedules import learning_rate, parameter_groups, weight_decay
from minivar.training.stages import check_run, take_tokenizer, train_model, train_tokenizer
from minivar.training.task import Task
from minivar.training.tasks import GPTTask, TokenizerTask, TokenTask, VARTask

__all__ = [
    "Batches",
    "GPTTask",
    "Preset",
    "Task",
    "TokenTask",
    "TokenizerTask",
    "TrainConfig",
    "TrainingError",
    "VARTask",
    "accumulation",
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
