"""Training: one loop for every model, resumable at any moment.

A *task* (``training.tasks``) knows a model and its loss; ``fit`` knows optimiser, schedules, logging and checkpoints.
A run that is killed, even with SIGKILL, and started again by the same command continues from its last checkpoint
and, on a CPU, reaches the same losses bit for bit: the state holds model, optimiser and random generators, the order
of the data depends on seed and epoch alone, and log entries that the restart will write again are dropped.
Explained in ``notebooks/06_training.ipynb``.
"""

import json
import math
import tempfile
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from minivar import checkpoints
from minivar.data.pictures import write_unreadable
from minivar.distributed import Ranks, mean_over_ranks
from minivar.files import write_tensors
from minivar.training import parallel
from minivar.training.config import TrainConfig, TrainingError
from minivar.training.progress import Watch, rewind_log
from minivar.training.recompute import recompute
from minivar.training.schedules import batch_indices, learning_rate, parameter_groups, total_steps, weight_decay
from minivar.training.state import Parts, restore_state, save_state


def fit(
    task,
    config: TrainConfig,
    out: Path,
    header: dict | None = None,
    progress: bool = True,
    ranks: Ranks | None = None,
) -> dict:
    """Train ``task.model`` and write ``out/NAME.safetensors``, the state of the run, and ``out/metrics.jsonl``.

    Resumes from the state if there is one, returns at once if the run is complete. ``header`` goes into the final
    checkpoint. ``ranks`` are the processes of the run (``parallel.workers``), each of which must call this; a batch
    is that of all of them together. Returns {"steps", "seconds" (of this call), "resumed_at"}. Raises
    ``TrainingError`` if the loss stops being finite, ``out`` cannot be written to, or holds a run with another
    configuration; the last good checkpoint is kept. Each checkpoint comes with pictures in ``out/NAME.png``, except
    where FSDP has spread the model, since every rank would be needed to draw them.
    """
    out, model, size = Path(out), task.model, len(task.data)
    ranks = ranks or Ranks(next(model.parameters()).device)
    check_config(config, ranks, size)
    steps = total_steps(size, config)
    what = {"images": size, "fingerprint": task.data.fingerprint}
    run = {"train": asdict(config), "model": asdict(model.config), "data": what}
    if hasattr(task, "objective"):
        run["loss"] = asdict(task.objective.config)
    run = json.loads(json.dumps(run))
    state_path, log_path = out / f"{task.name}.state.safetensors", out / "metrics.jsonl"

    check_folder(out)
    if config.recompute:
        recompute(model)
    wrapped = parallel.wrap(model, ranks)
    task.run = torch.compile(wrapped) if config.compile else wrapped
    optimizer = torch.optim.AdamW(parameter_groups(model), betas=config.betas)
    parts = Parts({"model": (model, optimizer)}, average_of(model) if config.ema else {})
    opponent, optimizers = getattr(task, "opponent", None), [optimizer]
    if opponent is not None:  # a discriminator, which learns beside the model, with an optimiser of its own
        judge = parallel.wrap(opponent, ranks)
        optimizers.append(torch.optim.AdamW(parameter_groups(opponent), betas=config.betas))
        parts.models["opponent"] = (task.objective, optimizers[1])
    precision = {"bf16": torch.bfloat16, "fp16": torch.float16, "float32": None}[config.precision]
    precision = precision if ranks.device.type == "cuda" else None
    scaler = torch.amp.GradScaler(ranks.device.type, enabled=precision == torch.float16)

    if ranks.count > 1:  # the same weights everywhere, other dropout on each rank
        torch.manual_seed(config.seed * 1_000_003 + ranks.rank)
    first = restore_state(state_path, parts, run, ranks)
    if ranks.leads:
        rewind_log(log_path, task.name, first)
        for stale in out.glob(f".{task.name}.*"):  # left by a kill in the middle of a write
            stale.unlink()
    ranks.wait()
    watch = Watch(task.name, log_path if ranks.leads else None, first, steps, config, progress and ranks.leads)
    order, prepare = getattr(task.data, "order", torch.randperm), getattr(task.data, "prepare", None)

    def rows(step: int) -> Tensor:
        """(accumulate, images): every rank takes its own row of each part of a batch."""
        return batch_indices(step, size, config, order).view(config.accumulate, ranks.count, -1)[:, ranks.rank]

    model.train()
    with closing(watch):  # a bar that is open would hide what an error says
        for step in range(first, steps):
            for group in [group for each in optimizers for group in each.param_groups]:
                group["lr"] = learning_rate(step, steps, config)
                group["weight_decay"] = weight_decay(step, steps, config) if group["decays"] else 0.0
            optimizer.zero_grad(set_to_none=True)
            task.step, task.epoch = step, step // (size // config.batch_size)
            for ahead in range(step, min(step + 2, steps)) if prepare else ():
                prepare(rows(ahead).flatten(), ahead // (size // config.batch_size))
            shares: list[dict[str, Tensor]] = []
            for i, part in enumerate(rows(step)):
                with parallel.hold_gradients(wrapped, last=i == config.accumulate - 1):
                    with torch.autocast(ranks.device.type, dtype=precision, enabled=precision is not None):
                        loss, stats = task.loss(part, ranks.device)
                    scaler.scale(loss / config.accumulate).backward()
                shares.append({"loss": loss.detach(), **stats})
            scaler.unscale_(optimizer)
            grad_norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            if hasattr(grad_norm, "full_tensor"):
                grad_norm = grad_norm.full_tensor()
            stats = {key: torch.stack([share[key].detach() for share in shares]).mean(0) for key in shares[0]}
            if opponent is not None:
                stats |= opponents_turn(task, judge, optimizers[1], config.clip)
            stats = {key: mean_over_ranks(value) for key, value in {**stats, "grad_norm": grad_norm}.items()}
            if not all(math.isfinite(stats[key]) for key in ("loss", "grad_norm")) and not scaler.is_enabled():
                batch = batch_indices(step, size, config, order)
                raise TrainingError(not_finite(task, config, stats, step, batch, state_path, ranks))
            scaler.step(optimizer)
            scaler.update()
            task.after_step(step)
            for key, parameter in model.named_parameters() if config.ema else ():
                parts.ema[key].lerp_(parameter.detach(), 1 - config.ema)
            done = step + 1
            entry = watch.step(done, {**stats, "lr": torch.tensor(optimizer.param_groups[0]["lr"])})
            if entry is not None:
                watch.write(done, entry | task.evaluate(ranks.device))
            if done % config.checkpoint_every == 0 or done == steps:
                write_unreadable(task.data, out, ranks, say=progress and done == steps)
                save_state(state_path, parts, run, done, ranks)
                if ranks.leads and not parts.sharded:
                    model.eval()
                    watch.show(done, task.pictures(ranks.device))
                    model.train()
    model.eval()
    with torch.no_grad():
        for key, average in parts.ema.items():
            model.get_parameter(key).copy_(average)
    final_path = out / f"{task.name}.safetensors"
    if first < steps or not final_path.is_file():
        state = parallel.whole_state(model)
        if ranks.leads:
            trained = {"steps": steps, "images": size} | ({"ema": config.ema} if config.ema else {})
            checkpoints.save(model, final_path, state, trained=trained, **(header or {}))
    ranks.wait()
    return {"steps": steps, "seconds": watch.seconds, "resumed_at": first}


def opponents_turn(task, judge: nn.Module, optimizer: torch.optim.Optimizer, clip: float) -> dict[str, Tensor]:
    """One step of the discriminator, on the last part of the batch, and what to log of it; none before its start."""
    loss, stats = task.opponent_loss(judge)
    if loss.requires_grad:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(task.opponent.parameters(), clip)
        optimizer.step()
    return stats


def check_config(config: TrainConfig, ranks: Ranks, size: int) -> None:
    """Raise ``TrainingError`` for numbers that do not go together, or do not suit ``size`` images."""
    total_steps(size, config)
    if config.checkpoint_every % config.log_every:
        raise TrainingError(
            f"checkpoint_every must be a multiple of log_every ({config.log_every}); got {config.checkpoint_every}."
        )
    if config.precision not in ("bf16", "fp16", "float32"):
        raise TrainingError(f"The precision is bf16, fp16 or float32; got {config.precision!r}.")
    if config.accumulate < 1 or config.batch_size % (config.accumulate * ranks.count):
        raise TrainingError(
            f"A batch of {config.batch_size} images must be a multiple of ranks x accumulate; got {ranks.count} "
            f"ranks and accumulate {config.accumulate}."
        )
    if not 0 <= config.ema < 1:
        raise TrainingError(f"The decay of averaged weights must be in [0, 1), 0 for none; got {config.ema}.")


def check_folder(out: Path) -> None:
    """Make the folder of a run; ``TrainingError`` if nothing can be written there."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise TrainingError(f"A run needs a folder that can be written to; got {out} ({error}).") from error


def average_of(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the parameters, to be averaged over the steps."""
    return {key: parameter.detach().clone() for key, parameter in model.named_parameters()}


def not_finite(
    task, config: TrainConfig, stats: dict, step: int, batch: Tensor, state_path: Path, ranks: Ranks
) -> str:
    """Save the numbers of the images in the batch that broke the run, and say so in a sentence."""
    batch_path = state_path.with_name(f"{task.name}.not-finite.safetensors")
    if ranks.leads:
        what = {"phase": task.name, "step": step, "epoch": task.epoch}
        write_tensors(batch_path, {"index": batch}, what)
    ranks.wait()  # the first rank to end takes the others with it
    kept = f"the last good checkpoint is {state_path}" if state_path.is_file() else "nothing was saved yet"
    return (
        f"The loss of {task.name} became {stats['loss'].item()} (gradient norm {stats['grad_norm'].item()}) at step "
        f"{step}, expected finite numbers; {kept}: lower base_lr (now {config.base_lr}) and start again. The numbers "
        f"of the images in that batch are in {batch_path}."
    )
