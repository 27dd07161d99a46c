"""The held-out loss while a model trains: the curve that says when a model begins to know its images by heart."""

import torch
from torch import Tensor

from minivar.distributed import Ranks, mean_over_ranks
from minivar.training.config import TrainConfig
from minivar.training.task import Task


def heldout_parts(size: int, config: TrainConfig, ranks: Ranks) -> tuple[Tensor, ...]:
    """This rank's held-out images, of ``size`` in all, in the batches they are read in: int64 (images,) each."""
    count = min(size, config.validate_images) // ranks.count * ranks.count
    mine = (torch.arange(count) * size // count)[ranks.rank :: ranks.count]
    return mine.split(config.batch_size // (config.accumulate * ranks.count))


@torch.no_grad()
def heldout_statistics(task: Task, config: TrainConfig, ranks: Ranks) -> dict[str, float | list[float]]:
    """Means of ``task.heldout_loss`` over at most ``validate_images`` images, each name behind ``validation_``.

    The images are spread evenly over the validation set, and always the same. Every rank must call it with the model
    in eval mode, and sees as many of them as the others, which FSDP expects: a remainder is left out.
    """
    parts = heldout_parts(len(task.validation), config, ranks)
    count = sum(map(len, parts))
    sums: dict[str, Tensor] = {}
    for index in parts:
        for key, value in task.heldout_loss(index, ranks.device).items():
            sums[key] = sums.get(key, 0) + value.detach() * len(index)
    return {f"validation_{key}": mean_over_ranks(value / count).tolist() for key, value in sums.items()}
