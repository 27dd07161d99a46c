"""Training: one loop for every model, resumable at any moment.

A *task* (``training.task``) knows a model and its loss, the loop optimisers, schedules, logging and checkpoints.
A run that is killed, even with SIGKILL, and started again by the same command continues from its last checkpoint
and, on a CPU, reaches the same losses bit for bit: the state holds model, optimiser and random generators, the order
of the data depends on seed and epoch alone, and log entries that the restart will write again are dropped.
Explained in ``notebooks/06_training.ipynb``.
"""

import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch
import torch._functorch.config

from minivar import checkpoints
from minivar.data import Feed, default_workers, view_of
from minivar.data.pictures import write_unreadable
from minivar.distributed import Ranks, mean_over_ranks
from minivar.files import read_tensors, write_tensors
from minivar.precision import PRECISIONS, tf32
from minivar.training import parallel
from minivar.training.batches import Batches
from minivar.training.before import check_config, check_folder, identity_of
from minivar.training.config import TrainConfig, TrainingError, accumulation
from minivar.training.ema import AveragedWeights
from minivar.training.interruption import Interrupted, Interruption
from minivar.training.players import Players
from minivar.training.progress import Watch, rewind_log
from minivar.training.recompute import recompute
from minivar.training.state import Parts, differences, restore_state, save_state
from minivar.training.task import Stats, Task
from minivar.training.validation import heldout_parts, heldout_statistics


def fit(
    task: Task,
    config: TrainConfig,
    out: Path,
    header: dict | None = None,
    progress: bool = True,
    ranks: Ranks | None = None,
    workers: int | None = None,
) -> dict:
    """Train ``task.model`` and write ``out/NAME.safetensors``, the state of the run, and ``out/metrics.jsonl``.

    Resumes from the state if there is one, returns at once if the run is complete. ``header`` goes into the
    checkpoints. ``ranks`` are the processes of the run (``distributed.join_ranks``), each of which must call this; a
    batch is that of all of them together. ``workers`` processes read a rank's images ahead, which changes nothing but
    the time (None: ``data.default_workers``). Returns {"steps", "seconds" (of this call), "resumed_at"}. Raises
    ``TrainingError`` if the loss stops being finite, ``out`` cannot be written to, or holds a run with another
    configuration; the last good checkpoint is kept. On SIGTERM or SIGUSR1 the state is saved at the next entry of the
    log, and ``Interrupted`` raised. Each checkpoint comes with pictures in ``out/NAME.png``, except where FSDP has
    spread the model, since every rank would be needed to draw them.
    """
    ranks = ranks or Ranks(next(task.model.parameters()).device)
    run = Run(task, config, Path(out), header or {}, ranks)
    first = run.start(progress)
    computing = tf32(ranks.device, config.precision)
    with closing(run), closing(run.watch), run.interruption, computing:  # an open bar would hide what an error says
        run.read_ahead(first, workers)
        for step in range(first, run.steps):
            stats = run.forward_and_backward(step)
            stats = run.check_finite(step, stats)
            run.update(step)
            run.log(step + 1, stats)
            run.checkpoint(step + 1)
            run.stop_if_asked(step + 1)
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
        self.feeds: list[Feed] = []
        self.saving: Callable[[], None] | None = None  # a state that is being written
        self.interruption = Interruption(ranks)

        self.model = task.model
        if config.recompute:
            recompute(self.model)
        on_gpu = ranks.device.type == "cuda"
        self.precision = PRECISIONS[config.precision] if on_gpu else None  # a CPU trains in float32
        self.wrapped = parallel.wrap(self.model, ranks, task.unused_parameters, self.precision)
        networks = {"model": self.model}
        if task.discriminator is not None:
            self.discriminator = parallel.wrap(task.discriminator, ranks)
            networks["discriminator"] = task.discriminator
            # The adaptive GAN weight runs a backward pass twice: the first one may not reuse its buffers.
            torch._functorch.config.donated_buffer = False
        task.run = torch.compile(self.wrapped) if config.compile else self.wrapped
        self.players = Players(networks, config, ranks.device, fp16=self.precision == torch.float16)
        optimizers, scaler = self.players.optimizers, self.players.scaler
        self.averaged = AveragedWeights(self.model, config.ema)
        self.parts = Parts({"model": (self.model, optimizers["model"])}, self.averaged.weights, scaler)
        if task.discriminator is not None:
            self.parts.models["discriminator"] = (task.remembers, optimizers["discriminator"])

    def start(self, progress: bool) -> int:
        """Go on where an earlier call was stopped, if there was one; the step to begin with."""
        name, ranks, log_path = self.task.name, self.ranks, self.out / "metrics.jsonl"
        if ranks.count > 1:  # the same weights everywhere, other dropout on each rank
            torch.manual_seed(self.config.seed * 1_000_003 + ranks.rank)
        first = restore_state(self.state_path, self.parts, self.identity, ranks) or self._finished()
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

    def read_ahead(self, first: int, workers: int | None) -> None:
        """Have ``workers`` read for the task: what it trains on from step ``first``, and its held-out images."""
        task, ranks = self.task, self.ranks
        self.batches.first = first
        asked = [(task.data, self.batches)]
        if task.validation is not None:
            parts = heldout_parts(len(task.validation), self.config, ranks)
            asked.append((task.validation, [(index, view_of(index, 0, task.validation.views)) for index in parts]))
        for data, what in asked:
            count = default_workers(data, ranks.device) if workers is None else workers
            self.feeds.append(Feed(data, what, count, ranks.device))
        task.read_from(*self.feeds, *[None] * (2 - len(self.feeds)))

    def forward_and_backward(self, step: int) -> Stats:
        """Clipped gradients of one batch, part by part, for every player; their norms, and what the task logs."""
        task, config = self.task, self.config
        task.step, task.epoch = step, self.batches.epoch(step)
        self.players.begin(step, self.steps)
        parts: list[Stats] = []
        for i, index in enumerate(self.batches.parts(step)):
            last = i == config.accumulate - 1
            with parallel.hold_gradients(self.wrapped, last):
                with self._autocast():
                    loss, stats = task.loss(index, self.ranks.device)
                self.players.backward(loss)
            parts.append({"loss": loss, **stats, **self.discriminator_turn(last)})
        means = {key: torch.stack([part[key].detach() for part in parts]).mean(0) for key in parts[0]}
        return {**means, **self.players.clip()}

    def discriminator_turn(self, last: bool) -> Stats:
        """Gradients of the discriminator, if there is one, on what ``task.loss`` saw; none before its start."""
        if self.task.discriminator is None:
            return {}
        with parallel.hold_gradients(self.discriminator, last):
            with self._autocast():
                loss, stats = self.task.discriminator_loss(self.discriminator)
            if loss.requires_grad:
                self.players.backward(loss)
        return stats

    def check_finite(self, step: int, stats: Stats) -> Stats:
        """``TrainingError`` on every rank if a number of any player is not finite; ``stats`` as they may be logged.

        Looking at a number makes the CPU wait for a GPU, which therefore is asked only where an entry of the log is
        due: still before anything is saved.
        """
        stats = self.players.watch(step, stats)
        if self.ranks.device.type != "cuda" or self._due(step + 1, self.config.log_every):
            bad = self.players.broke_at(step)
            if bad is not None:
                self.finish_saving()
                both = {key: mean_over_ranks(stats[key]) for key in ("loss", "grad_norm")}
                raise TrainingError(self._not_finite(bad, both))
        return stats

    def update(self, step: int) -> None:
        """Step the optimisers, mend what the task wants mended, and average the weights."""
        self.players.step()
        self.task.after_step(step)
        self.averaged.update(step)

    def log(self, done: int, stats: Stats) -> None:
        """Bar, log and TensorBoard every ``log_every`` steps; the held-out loss when its turn comes."""
        entry = self.watch.step(done, stats)
        if entry is None:
            return
        self.finish_saving()
        entry |= {"lr": self.players.optimizers["model"].param_groups[0]["lr"], **self.players.limit_scale()}
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
            parallel.reshard(self.model)
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
        self.save(done)
        if self.ranks.leads and not self.parts.sharded:
            self.model.eval()
            with self._autocast():
                pictures = self.task.pictures(self.ranks.device)
            self.watch.show(done, pictures)
            self.model.train()

    def save(self, done: int) -> None:
        """Begin to write the state, beside which training goes on."""
        self.finish_saving()
        self.saving = save_state(self.state_path, self.parts, self.identity, done, self.ranks)

    def finish_saving(self) -> None:
        """Wait for the state that is being written, if there is one: at the next entry of the log, or at the end."""
        saving, self.saving = self.saving, None
        if saving is not None:
            saving()

    def stop_if_asked(self, done: int) -> None:
        """Save the state and raise ``Interrupted`` where a signal has asked for it, at entries of the log."""
        if done < self.steps and self._due(done, self.config.log_every) and self.interruption.asked():
            self.save(done)
            self.finish_saving()
            raise Interrupted(f"{self.task.name} was asked to stop, and was saved at step {done} of {self.steps}.")

    def finish(self, first: int) -> None:
        """Write the model, with its averaged weights where there are any."""
        self.finish_saving()
        self.model.eval()
        self.averaged.copy_to_model()
        path = self.out / f"{self.task.name}.safetensors"
        if first < self.steps or not path.is_file():
            averaged = {"ema": self.config.ema} if self.config.ema else {}
            self._save_model(path, steps=self.steps, images=len(self.task.data), **averaged)
        self.ranks.wait()

    def close(self) -> None:
        """End the processes that read ahead, and what a process on its own was still writing."""
        for feed in self.feeds:
            feed.close()
        if self.ranks.count == 1:
            self.finish_saving()

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
            checkpoints.save(self.model, path, state, trained=trained, run=self.identity, **self.header)

    def _finished(self) -> int:
        """All steps, with the weights loaded, where the run is complete and only its state is gone; else 0.

        ``TrainingError`` if what is there is the result of another run: it is not overwritten.
        """
        path = self.out / f"{self.task.name}.safetensors"
        if not path.is_file():
            return 0
        model, header = checkpoints.load(path)
        if differing := differences(header.get("run", {}), self.identity):
            raise TrainingError(
                f"{path} is finished, its state is gone, and it is not of this run ({differing}): choose another "
                "output folder, or delete the file to train anew."
            )
        parallel.load_whole(self.model, model.state_dict())
        self.averaged.start_from_model()
        return self.steps

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
