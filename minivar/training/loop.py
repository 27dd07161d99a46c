"""Training: one loop for every model, resumable at any moment.

A *task* (``training.task``) knows a model and its loss, the loop optimisers, schedules, logging and checkpoints.
A run that is killed, even with SIGKILL, and started again by the same command continues from its last checkpoint
and, on a CPU, reaches the same losses bit for bit: the state holds model, optimiser and random generators, the order
of the data depends on seed and epoch alone, and log entries that the restart will write again are dropped.
Explained in ``notebooks/06_training.ipynb``.
"""

import json
import math
import tempfile
from collections.abc import Sized
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import nn

from minivar import checkpoints
from minivar.data.pictures import write_unreadable
from minivar.distributed import Ranks, mean_over_ranks
from minivar.files import read_tensors, write_tensors
from minivar.precision import PRECISIONS
from minivar.training import parallel
from minivar.training.batches import Batches, total_steps
from minivar.training.config import TrainConfig, TrainingError, accumulation
from minivar.training.ema import AveragedWeights
from minivar.training.progress import Watch, rewind_log
from minivar.training.recompute import recompute
from minivar.training.schedules import apply_schedules, parameter_groups
from minivar.training.state import Parts, restore_state, save_state
from minivar.training.task import Stats, Task
from minivar.training.validation import heldout_statistics


def fit(
    task: Task,
    config: TrainConfig,
    out: Path,
    header: dict | None = None,
    progress: bool = True,
    ranks: Ranks | None = None,
) -> dict:
    """Train ``task.model`` and write ``out/NAME.safetensors``, the state of the run, and ``out/metrics.jsonl``.

    Resumes from the state if there is one, returns at once if the run is complete. ``header`` goes into the
    checkpoints. ``ranks`` are the processes of the run (``distributed.join_ranks``), each of which must call this; a
    batch is that of all of them together. Returns {"steps", "seconds" (of this call), "resumed_at"}. Raises
    ``TrainingError`` if the loss stops being finite, ``out`` cannot be written to, or holds a run with another
    configuration; the last good checkpoint is kept. Each checkpoint comes with pictures in ``out/NAME.png``, except
    where FSDP has spread the model, since every rank would be needed to draw them.
    """
    ranks = ranks or Ranks(next(task.model.parameters()).device)
    run = Run(task, config, Path(out), header or {}, ranks)
    first = run.start(progress)
    with closing(run.watch):  # a bar that is open would hide what an error says
        for step in range(first, run.steps):
            stats = run.forward_and_backward(step)
            stats |= run.discriminator_turn()
            stats = run.of_all_ranks(step, stats)
            run.update(step)
            run.log(step + 1, stats)
            run.checkpoint(step + 1)
    run.finish(first)
    return {"steps": run.steps, "seconds": run.watch.seconds, "resumed_at": first}


class Run:
    """One training of one model: what it consists of, and the steps of ``fit``, in their order."""

    def __init__(self, task: Task, config: TrainConfig, out: Path, header: dict, ranks: Ranks) -> None:
        check_config(config, ranks, len(task.data), task.validation)
        check_folder(out)
        self.identity = identity_of(task, config)  # as given: on other ranks the run may go on, in other parts
        config = replace(config, accumulate=accumulation(config, ranks.count))
        self.task, self.config, self.out, self.header, self.ranks = task, config, out, header, ranks
        self.batches = Batches(task.data, config, ranks)
        self.steps = self.batches.steps

        self.model = task.model
        if config.recompute:
            recompute(self.model)
        self.wrapped = parallel.wrap(self.model, ranks, task.unused_parameters)
        task.run = torch.compile(self.wrapped) if config.compile else self.wrapped
        self.optimizer = torch.optim.AdamW(parameter_groups(self.model), betas=config.betas)
        self.averaged = AveragedWeights(self.model, config.ema)
        self.parts = Parts({"model": (self.model, self.optimizer)}, self.averaged.weights)
        self.optimizers = [self.optimizer]
        if task.discriminator is not None:  # it learns beside the model, with an optimiser of its own
            self.discriminator = parallel.wrap(task.discriminator, ranks)
            self.optimizers.append(torch.optim.AdamW(parameter_groups(task.discriminator), betas=config.betas))
            self.parts.models["discriminator"] = (task.remembers, self.optimizers[1])

        on_gpu = ranks.device.type == "cuda"
        self.precision = PRECISIONS[config.precision] if on_gpu else None  # a CPU trains in float32
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=self.precision == torch.float16)

    def start(self, progress: bool) -> int:
        """Go on where an earlier call was stopped, if there was one; the step to begin with."""
        name, ranks, log_path = self.task.name, self.ranks, self.out / "metrics.jsonl"
        if ranks.count > 1:  # the same weights everywhere, other dropout on each rank
            torch.manual_seed(self.config.seed * 1_000_003 + ranks.rank)
        first = restore_state(self.state_path, self.parts, self.identity, ranks)
        self.best = self._best_so_far() if first else math.inf
        if ranks.leads:
            rewind_log(log_path, name, first)
            for stale in self.out.glob(f".{name}.*"):  # left by a kill in the middle of a write
                stale.unlink()
        ranks.wait()
        shown = progress and ranks.leads
        self.watch = Watch(name, log_path if ranks.leads else None, first, self.steps, self.config, shown)
        self.model.train()
        return first

    def forward_and_backward(self, step: int) -> Stats:
        """Clipped gradients of one batch, part by part; loss, gradient norm and what else the task logs."""
        task, config = self.task, self.config
        task.step, task.epoch = step, self.batches.epoch(step)
        apply_schedules(step, self.steps, config, *self.optimizers)
        self.batches.look_ahead(step)
        self.optimizer.zero_grad(set_to_none=True)
        parts: list[Stats] = []
        for i, index in enumerate(self.batches.parts(step)):
            with parallel.hold_gradients(self.wrapped, last=i == config.accumulate - 1):
                with self._autocast():
                    loss, stats = task.loss(index, self.ranks.device)
                self.scaler.scale(loss / config.accumulate).backward()
            parts.append({"loss": loss, **stats})
        self.scaler.unscale_(self.optimizer)
        grad_norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        stats = {key: torch.stack([part[key].detach() for part in parts]).mean(0) for key in parts[0]}
        return {**stats, "grad_norm": parallel.whole_tensor(grad_norm)}

    def discriminator_turn(self) -> Stats:
        """One step of the discriminator, if there is one, on the last part of the batch; none before its start."""
        if self.task.discriminator is None:
            return {}
        loss, stats = self.task.discriminator_loss(self.discriminator)
        if loss.requires_grad:
            optimizer = self.optimizers[1]
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.task.discriminator.parameters(), self.config.clip)
            optimizer.step()
        return stats

    def of_all_ranks(self, step: int, stats: Stats) -> Stats:
        """The means over all ranks; ``TrainingError`` if the loss or the gradients are not finite."""
        stats = {key: mean_over_ranks(value) for key, value in stats.items()}
        finite = all(math.isfinite(stats[key]) for key in ("loss", "grad_norm"))
        if not finite and not self.scaler.is_enabled():
            raise TrainingError(self._not_finite(step, stats))
        return stats

    def update(self, step: int) -> None:
        """Step the optimiser, mend what the task wants mended, and average the weights."""
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.task.after_step(step)
        self.averaged.update()

    def log(self, done: int, stats: Stats) -> None:
        """Bar, log and TensorBoard every ``log_every`` steps; the held-out loss when its turn comes."""
        learning_rate = torch.tensor(self.optimizer.param_groups[0]["lr"])
        entry = self.watch.step(done, {**stats, "lr": learning_rate})
        if entry is None:
            return
        entry |= self.task.statistics()
        if self._due(done, self.config.validate_every or self.config.checkpoint_every):
            entry |= self.validate(done)
        self.watch.write(done, entry)

    def validate(self, done: int) -> dict[str, float | list[float]]:
        """Loss and statistics of held-out images, by the averaged weights where there are any; the best are kept."""
        if self.task.validation is None:
            return {}
        self.model.eval()
        with self.averaged.in_use():
            with self._autocast():
                found = heldout_statistics(self.task, self.config, self.ranks)
            if self.config.keep_best and found["validation_loss"] <= self.best:
                self.best = found["validation_loss"]
                self._save_model(self.best_path, steps=done, validation_loss=self.best)
        self.model.train()
        return found

    def checkpoint(self, done: int) -> None:
        """What a restart needs, every ``checkpoint_every`` steps, and pictures of what has been learned."""
        if not self._due(done, self.config.checkpoint_every):
            return
        write_unreadable(self.task.data, self.out, self.ranks, say=self.watch.progress and done == self.steps)
        save_state(self.state_path, self.parts, self.identity, done, self.ranks)
        if self.ranks.leads and not self.parts.sharded:
            self.model.eval()
            self.watch.show(done, self.task.pictures(self.ranks.device))
            self.model.train()

    def finish(self, first: int) -> None:
        """Write the model, with its averaged weights where there are any."""
        self.model.eval()
        self.averaged.copy_to_model()
        path = self.out / f"{self.task.name}.safetensors"
        if first < self.steps or not path.is_file():
            averaged = {"ema": self.config.ema} if self.config.ema else {}
            self._save_model(path, steps=self.steps, images=len(self.task.data), **averaged)
        self.ranks.wait()

    # Helpers --------------------------------------------------------------------------------------------------

    @property
    def state_path(self) -> Path:
        """What a restart reads."""
        return self.out / f"{self.task.name}.state.safetensors"

    @property
    def best_path(self) -> Path:
        """The weights with the lowest held-out loss."""
        return self.out / f"{self.task.name}.best.safetensors"

    def _due(self, done: int, every: int) -> bool:
        return done % every == 0 or done == self.steps

    def _autocast(self):
        return torch.autocast(self.ranks.device.type, dtype=self.precision, enabled=self.precision is not None)

    def _best_so_far(self) -> float:
        """The lowest held-out loss of an interrupted run; where its checkpoint is younger, it is found again."""
        if not self.config.keep_best or not self.best_path.is_file():
            return math.inf
        return read_tensors(self.best_path)[1]["trained"]["validation_loss"]

    def _save_model(self, path: Path, **trained: object) -> None:
        state = parallel.whole_state(self.model)
        if self.ranks.leads:
            checkpoints.save(self.model, path, state, trained=trained, **self.header)

    def _not_finite(self, step: int, stats: Stats) -> str:
        """Save the numbers of the images in the batch that broke the run, and say so in a sentence."""
        name = self.task.name
        batch_path = self.out / f"{name}.not-finite.safetensors"
        if self.ranks.leads:
            what = {"phase": name, "step": step, "epoch": self.task.epoch}
            write_tensors(batch_path, {"index": self.batches.whole(step)}, what)
        self.ranks.wait()  # the first rank to end takes the others with it
        saved = self.state_path.is_file()
        kept = f"the last good checkpoint is {self.state_path}" if saved else "nothing was saved yet"
        return (
            f"The loss of {name} became {stats['loss'].item()} (gradient norm {stats['grad_norm'].item()}) at step "
            f"{step}, expected finite numbers; {kept}: lower base_lr (now {self.config.base_lr}) and start again. "
            f"The numbers of the images in that batch are in {batch_path}."
        )


# Before a run ---------------------------------------------------------------------------------------------------


def identity_of(task: Task, config: TrainConfig) -> dict:
    """What makes a run this run and no other, as JSON: only a run with the same identity goes on from its state."""
    what = {"images": len(task.data), "fingerprint": task.data.fingerprint}
    if task.validation is not None:
        what["validation"] = task.validation.fingerprint
    identity = {"train": asdict(config), "model": asdict(task.model.config), "data": what}
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
