"""Before a run: what makes it this run and no other, and numbers and folders with which it could not end well."""

import json
import tempfile
from collections.abc import Sized
from dataclasses import asdict
from pathlib import Path

from minivar.distributed import Ranks
from minivar.training.batches import total_steps
from minivar.training.config import FREE_TO_CHANGE, TrainConfig, TrainingError, accumulation
from minivar.training.task import Task


def identity_of(task: Task, config: TrainConfig) -> dict:
    """What makes a run this run and no other, as JSON: only a run with the same identity goes on from its state."""
    what = {"images": len(task.data), "fingerprint": task.data.fingerprint}
    if task.validation is not None:
        what["validation"] = task.validation.fingerprint
    train = {key: value for key, value in asdict(config).items() if key not in FREE_TO_CHANGE}
    identity = {"train": train, "model": asdict(task.model.config), "data": what}
    if task.settings:
        identity["loss"] = task.settings
    return json.loads(json.dumps(identity))


def check_config(config: TrainConfig, ranks: Ranks, size: int, validation: Sized | None) -> None:
    """Raise ``TrainingError`` for numbers that do not suit the ranks, ``size`` images, or the held-out ones."""
    total_steps(size, config)
    accumulation(config, ranks.count)
    if config.keep_best and validation is None:
        raise TrainingError("keep_best needs held-out images to compare; got none.")
    shown = config.validate_images if validation is None else min(len(validation), config.validate_images)
    if shown < ranks.count and validation is not None:
        raise TrainingError(
            f"Each of {ranks.count} ranks needs a held-out image; got {len(validation)}, of which validate_images "
            f"takes at most {config.validate_images}: expected {shown} ranks at most."
        )


def check_folder(out: Path) -> None:
    """Make the folder of a run; ``TrainingError`` if nothing can be written there."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise TrainingError(f"A run needs a folder that can be written to; got {out} ({error}).") from error
