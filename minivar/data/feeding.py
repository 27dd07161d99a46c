"""Reading ahead: worker processes decode the next batches while this one trains, by torch's ``DataLoader``.

Which images a batch holds, and at which views, is known beforehand, so the workers can be told. They are processes
and not threads, for decoding holds Python's lock often enough to starve the thread that launches a GPU's work. Images
travel as bytes in 0..255, a quarter of their size in floats, through pinned memory where there is a GPU, and become
floats there. Neither the number of workers nor their timing changes a pixel: an image depends on (seed, number, view)
alone, and batches come in the order in which they were asked for.
Explained in ``notebooks/13_imagenet.ipynb``.
"""

import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils import data as torch_data

from minivar.data.base import DataError, Dataset, to_float
from minivar.distributed import cores_per_rank

AHEAD = 2  # batches that each worker is given beforehand, torch's default
GRACE = 30  # seconds that a worker goes on after a SIGTERM, as many as SLURM waits before it kills (its KillWait)
CPU = torch.device("cpu")
# How torch says that a worker has died, unless the worker was about to hand something over: it has no type for it.
DEATHS = ("DataLoader worker (pid", "Pin memory thread exited")


def default_workers(dataset: Dataset, device: torch.device) -> int:
    """How many processes should read ahead for this rank, unless somebody says otherwise.

    For a GPU one for each core of the rank but one, which launches the GPU's work, and ``dataset.most_workers`` at
    most. None on a CPU, where training needs the cores itself, nor for what lies in memory.
    """
    return 0 if device.type == "cpu" else min(dataset.most_workers, cores_per_rank() - 1)


class Requests:
    """What is asked of the workers, as arrays: a tensor would need shared memory and a file descriptor to travel."""

    def __init__(self, asked: Iterable[tuple[Tensor, Tensor]]) -> None:
        self.asked = asked

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for index, view in self.asked:
            yield index.numpy(), view.numpy()


class Answer(NamedTuple):
    """What a worker read."""

    index: Tensor  # int64 (B,)
    images: Tensor  # uint8 (B, C, H, W)
    labels: Tensor  # int64 (B,)
    unreadable: dict[str, str]  # what this worker could not read and had not met before


class Reader(torch_data.Dataset):
    """What a worker process does: ``reader[index, view]`` is one batch."""

    def __init__(self, dataset) -> None:
        self.dataset = dataset

    def __getitem__(self, asked: tuple[np.ndarray, np.ndarray]) -> Answer | DataError:
        index, view = map(torch.from_numpy, asked)
        known = set(self.dataset.unreadable)
        try:
            images, labels = self.dataset.pixels(index, view)
        except DataError as error:  # a value: if it were raised, torch would make a page of its one sentence
            return error
        new = {name: why for name, why in self.dataset.unreadable.items() if name not in known}
        return Answer(index, images, labels, new)


class Feed:
    """The batches of a dataset that are ``asked`` for, in that order, read ahead by ``workers`` processes.

    ``asked`` are pairs (index, view), int64 (B,) each, and may be without an end. Without workers the batches are
    read here, when their turn comes. The workers start with the first batch and end with ``close``.

    Raises ``DataError`` for what ``dataset`` cannot read, for a worker that dies, and for a negative number of them.
    """

    def __init__(
        self,
        dataset,
        asked: Iterable[tuple[Tensor, Tensor]],
        workers: int = 0,
        device: torch.device = CPU,
    ) -> None:
        if workers < 0:
            raise DataError(f"Expected a number of workers of at least 0; got {workers}.")
        self.dataset, self.requests, self.device = dataset, Requests(asked), device
        self._loader = loader(dataset, self.requests, workers, device) if workers else None
        self._coming: Iterator | None = None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Index (B,), float32 images (B, C, H, W) in [-1, 1] and labels (B,) of each; the last two on the device."""
        reader = Reader(self.dataset)
        answers = map(reader.__getitem__, self.requests) if self._loader is None else self._loader
        try:
            for answer in answers:
                yield self._received(answer)
            return
        except (RuntimeError, EOFError, ConnectionError) as error:
            said = str(error) if isinstance(error, RuntimeError) else "it answers no more"
            if isinstance(error, RuntimeError) and not said.startswith(DEATHS):
                raise
        finally:
            del answers  # a traceback would hold the loader, and its workers would outlive ``close``
        raise DataError(
            f"A process that reads images ahead has died ({said}): expected it to last as long as the run. "
            "The system kills processes when memory is short, shared memory (/dev/shm) too: try fewer --workers."
        )

    def batch(self, index: Tensor, epoch: int = 0) -> tuple[Tensor, Tensor]:
        """As ``ImageSet.batch``, of what comes next in ``asked``, which begins anew after its end.

        Raises ``DataError`` if ``index`` is not what comes next.
        """
        if self._loader is None:
            return self.dataset.batch(index, epoch)
        if self._coming is None:
            self._coming = itertools.chain.from_iterable(itertools.repeat(self))
        found, images, labels = next(self._coming)
        if not torch.equal(found, index):
            raise DataError(f"The images {found.tolist()} were read ahead; got a request for {index.tolist()}.")
        return images, labels

    def close(self) -> None:
        """End the workers; from here on ``batch`` asks the dataset itself."""
        self._loader = self._coming = None

    def _received(self, answer: Answer | DataError) -> tuple[Tensor, Tensor, Tensor]:
        if isinstance(answer, DataError):
            raise answer
        if answer.unreadable:
            self.dataset.report_unreadable(answer.unreadable)
        images, labels = (part.to(self.device, non_blocking=True) for part in (answer.images, answer.labels))
        return answer.index, to_float(images), labels


def loader(dataset, requests: Requests, workers: int, device: torch.device) -> torch_data.DataLoader:
    """Torch's loader of whole batches, each by one worker.

    Workers are forked from a server that has imported this module and done nothing else: not from this process, whose
    threads (CUDA's, NCCL's, a progress bar's) may hold locks that nobody in the copy would ever release. Where there
    is no such server they are started afresh. Either way a script that trains needs ``if __name__ == "__main__":``.
    Torch gives each worker one thread to compute with.
    """
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    context.set_forkserver_preload([__name__, "torchvision"])  # once, and not in every worker
    return torch_data.DataLoader(
        Reader(dataset),
        sampler=requests,
        batch_size=None,  # what the sampler yields is a batch already
        num_workers=workers,
        prefetch_factor=AHEAD,
        persistent_workers=True,
        pin_memory=device.type == "cuda",
        multiprocessing_context=context,
        worker_init_fn=begin,
        generator=torch.Generator(),  # torch draws a seed for the workers, otherwise from training's random numbers
    )


def begin(worker: int) -> None:
    """Leave it to the process that a worker reads for when to end; torch calls this in the worker.

    A scheduler that stops a job signals all of its processes, and a training that saves its state then needs batches
    a little longer. When it has ended, or was killed, its workers end too: torch's watch the process that they were
    forked from, which here is the server, and that lives as long as they do.
    """

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    if os.name == "posix":
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE))
