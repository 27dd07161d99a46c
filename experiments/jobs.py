"""Trainings that several processes share out among themselves, and that go on where they were stopped.

``OMP_NUM_THREADS=1 nohup python -m experiments.rivals train > rivals-1.log &``, as often as there are cores. SIGTERM
stops a process: it saves its training, and the same command goes on with it.
"""

import functools
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor

from minivar import evaluation, files, training
from minivar.tokenizer import VQVAE


class Job(Protocol):
    """One training with a name, and a folder of its own; ``result.json`` in there says that it is done."""

    @property
    def name(self) -> str: ...

    @property
    def folder(self) -> Path: ...

    @property
    def ready(self) -> bool:
        """Whether what it builds on is there."""

    def work(self) -> dict[str, object]:
        """Do it, and say what came out."""


class Kept:
    """What has a name has a folder of that name, below ``root``."""

    name: str
    root: Path

    @property
    def folder(self) -> Path:
        return self.root / self.name

    @property
    def is_here(self) -> bool:
        """Whether it has been done on this machine."""
        return (self.folder / "result.json").is_file()


def of_tokenizer(tokenizer: VQVAE, images: Tensor, folder: Path) -> dict[str, object]:
    """What is kept of every tokenizer: its minutes, and error and use of the codes on ``images``."""
    return {
        "minutes": minutes(folder, "tokenizer"),
        "mse": evaluation.reconstruction_error(tokenizer, images),
        "codes": evaluation.codebook_usage(tokenizer.encode(images), tokenizer.config.codebook_size),
    }


def work_off(waiting: Callable[[], Sequence[Job]]) -> None:
    """Do all jobs, of which ``waiting`` lists those that are left, but for those that another process does."""
    while jobs := waiting():
        job = next((job for job in jobs if job.ready and claim(job.folder)), None)
        if job is None:
            time.sleep(10)  # the others wait for what another process does
            continue
        result = job.work()
        write_json(job.folder / "result.json", result)
        shown = {key: value for key, value in result.items() if isinstance(value, int | float)}
        print(job.name, shown, flush=True)


def what_broke(error: training.TrainingError) -> str:
    """Of a training that is kept as infinitely bad; one that was asked to stop is no result, and is raised again."""
    if isinstance(error, training.Interrupted):
        raise error
    return str(error)


def claim(folder: Path) -> bool:
    """Whether no other process works on a run; a claim whose process is gone is void."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        mine = folder / f"claim-{os.getpid()}"
        mine.write_text(str(os.getpid()))
        os.link(mine, folder / "claim")  # all at once: nobody sees an empty one
        mine.unlink()
        return True
    except FileExistsError:
        mine.unlink()
        owner = (folder / "claim").read_text()
        if owner and Path(f"/proc/{owner}").exists():
            return False
        (folder / "claim").unlink(missing_ok=True)
        return claim(folder)


def finished(folder: Path) -> dict[str, dict]:
    """The results of the jobs in a folder, by name."""
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(folder.glob("*/result.json"))}


def all_results(collected: Path, folder: Path) -> dict[str, dict]:
    """Of all finished runs by name: those in the file of results, and those that are in the folder of runs."""
    return (json.loads(collected.read_text())["runs"] if collected.is_file() else {}) | finished(folder)


def write_json(path: Path, content: object) -> None:
    """All of it or nothing."""
    files.write_atomically(path, functools.partial(Path.write_text, data=json.dumps(content, indent=1) + "\n"))


def minutes(folder: Path, phase: str) -> float:
    """Processor time of a finished training, from its log; sums the calls of an interrupted run.

    With one thread this is the time that the training takes on a core of its own.
    """
    total, last = 0.0, 0.0
    for entry in training.read_log(folder / "metrics.jsonl"):
        if entry["phase"] == phase:
            total += last if entry.get("cpu_seconds", entry["seconds"]) < last else 0.0
            last = entry.get("cpu_seconds", entry["seconds"])
    return (total + last) / 60
