"""Which images a batch holds: an order that depends on seed and epoch alone, so that any step can be found again."""

import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from minivar.data import Dataset, view_of
from minivar.distributed import Ranks
from minivar.training.config import TrainConfig, TrainingError


@functools.lru_cache(maxsize=2)
def epoch_order(epoch: int, size: int, seed: int, order: Callable = torch.randperm) -> Tensor:
    """A permutation int64 (size,) of the images for an epoch."""
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


class Batches:
    """The batches of a run, seen from one of its ranks, and the sampler of what it reads from step ``first`` on."""

    def __init__(self, data: Dataset, config: TrainConfig, ranks: Ranks) -> None:
        self.data, self.config, self.ranks = data, config, ranks
        self.steps, self.first = total_steps(len(data), config), 0

    def epoch(self, step: int) -> int:
        """The pass over the data that a step belongs to, from 0."""
        return step // (len(self.data) // self.config.batch_size)

    def whole(self, step: int) -> Tensor:
        """The images of a step, of all ranks together: int64 (batch_size,)."""
        return batch_indices(step, len(self.data), self.config, self.data.order)

    def parts(self, step: int) -> Tensor:
        """This rank's images of a step, in the parts that are accumulated: int64 (accumulate, images)."""
        return self.whole(step).view(self.config.accumulate, self.ranks.count, -1)[:, self.ranks.rank]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """(index, view) of each part, int64 (images,) both: the image numbers, and what their epoch shows of them."""
        for step in range(self.first, self.steps):
            for index in self.parts(step):
                yield index, view_of(index, self.epoch(step), self.data.views)
