"""Training: one loop for every model, resumable at any moment.

A *task* (``minivar.tasks``) knows a model and its loss; ``fit`` knows optimiser, schedules, logging and checkpoints.
A run that is killed, even with SIGKILL, and started again by the same command continues from its last checkpoint
and, on a CPU, reaches the same losses bit for bit: the state holds model, optimiser and random generators, the order
of the data depends on seed and epoch alone, and log entries that the restart will write again are dropped.
Explained in ``notebooks/06_training.ipynb``.
"""

import functools
import json
import math
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from minivar import checkpoints, parallel
from minivar.folders import write_unreadable
from minivar.parallel import Workers
from minivar.progress import Watch, read_log, rewind_log  # noqa: F401 (callers know train.read_log)
from minivar.raster import GPT, GPTConfig
from minivar.state import Parts, TrainingError, restore_state, save_state
from minivar.tasks import GPTTask, TokenizerTask, VARTask
from minivar.tokenizer import VQVAE
from minivar.transformer import VAR


@dataclass(frozen=True)
class TrainConfig:
    """Optimisation of one model. Defaults: VAR's published transformer recipe (REFERENCE section 2)."""

    epochs: float = 200
    batch_size: int = 768
    base_lr: float = 1e-4  # per 256 images of batch
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.05
    final_weight_decay: float | None = None  # reached along a cosine; None: constant
    warmup: float = 1 / 50  # share of the run
    warmup_start: float = 0.005  # of the learning rate
    hold: float = 0.05  # share of the run after warm-up at full learning rate, before the linear decay
    final_lr_ratio: float = 0.1
    clip: float = 2.0  # gradient norm
    ema: float = 0.0  # decay of averaged weights, which then are the result; 0: none
    accumulate: int = 1  # parts that each rank's share of a batch is cut into, one backward pass each
    precision: str = "bf16"  # of autocast: bf16, fp16 or float32; a CPU trains in float32
    recompute: bool = False  # activations of the blocks in the backward pass: less memory, a third more time
    compile: bool = False  # torch.compile
    seed: int = 0
    log_every: int = 50  # steps
    checkpoint_every: int = 500  # steps, a multiple of log_every


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """Published schedule: linear warm-up, constant for ``hold`` of the rest, linear to ``final_lr_ratio``."""
    peak = config.base_lr * config.batch_size / 256
    warm = round(config.warmup * steps)
    if step < warm:
        return peak * (config.warmup_start + (1 - config.warmup_start) * step / warm)
    passed = (step - warm) / max(steps - 1 - warm, 1)
    if passed < config.hold:
        return peak
    rest = (1 - passed) / (1 - config.hold)
    return peak * (config.final_lr_ratio + (1 - config.final_lr_ratio) * rest)


def weight_decay(step: int, steps: int, config: TrainConfig) -> float:
    """Cosine from ``weight_decay`` to ``final_weight_decay``."""
    if config.final_weight_decay is None:
        return config.weight_decay
    fraction = 0.5 + 0.5 * math.cos(math.pi * step / max(steps - 1, 1))
    return config.final_weight_decay + (config.weight_decay - config.final_weight_decay) * fraction


NO_DECAY = ("start_1lD", "position_1LD", "level_embed", "ada_table", "log_scale")


def parameter_groups(model: nn.Module) -> list[dict]:
    """Two groups: with weight decay, and without (vectors, biases, position and level tables, attention scales)."""
    decay, plain = [], []
    for name, parameter in model.named_parameters():
        exempt = parameter.dim() <= 1 or any(part in name for part in NO_DECAY)
        (plain if exempt else decay).append(parameter)
    return [{"params": decay, "decays": True}, {"params": plain, "decays": False}]


# The loop ---------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=2)
def epoch_order(epoch: int, size: int, seed: int, order: Callable = torch.randperm) -> Tensor:
    """A permutation that depends on seed and epoch alone, so that any step can be found."""
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


def fit(
    task,
    config: TrainConfig,
    out: Path,
    header: dict | None = None,
    progress: bool = True,
    these: Workers | None = None,
) -> dict:
    """Train ``task.model`` and write ``out/NAME.safetensors``, the state of the run, and ``out/metrics.jsonl``.

    Resumes from the state if there is one, returns at once if the run is complete. ``header`` goes into the final
    checkpoint. ``these`` are the processes of the run (``parallel.workers``), each of which must call this; a batch
    is that of all of them together. Returns {"steps", "seconds" (of this call), "resumed_at"}. Raises
    ``TrainingError`` if the loss stops being finite, ``out`` cannot be written to, or holds a run with another
    configuration; the last good checkpoint is kept. Each checkpoint comes with pictures in ``out/NAME.png``, except
    where FSDP has spread the model, since every rank would be needed to draw them.
    """
    out, model, size = Path(out), task.model, len(task.data)
    these = these or Workers(next(model.parameters()).device)
    check_config(config, these, size)
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
    wrapped = parallel.spread(model, these)
    task.run = torch.compile(wrapped) if config.compile else wrapped
    optimizer = torch.optim.AdamW(parameter_groups(model), betas=config.betas)
    parts = Parts({"model": (model, optimizer)}, average_of(model) if config.ema else {})
    opponent, optimizers = getattr(task, "opponent", None), [optimizer]
    if opponent is not None:  # a discriminator, which learns beside the model, with an optimiser of its own
        judge = parallel.spread(opponent, these)
        optimizers.append(torch.optim.AdamW(parameter_groups(opponent), betas=config.betas))
        parts.models["opponent"] = (task.objective, optimizers[1])
    precision = {"bf16": torch.bfloat16, "fp16": torch.float16, "float32": None}[config.precision]
    precision = precision if these.device.type == "cuda" else None
    scaler = torch.amp.GradScaler(these.device.type, enabled=precision == torch.float16)

    if these.count > 1:  # the same weights everywhere, other dropout on each rank
        torch.manual_seed(config.seed * 1_000_003 + these.rank)
    first = restore_state(state_path, parts, run, these)
    if these.leads:
        rewind_log(log_path, task.name, first)
        for stale in out.glob(f".{task.name}.*"):  # left by a kill in the middle of a write
            stale.unlink()
    these.wait()
    watch = Watch(task.name, log_path if these.leads else None, first, steps, config, progress and these.leads)
    order, prepare = getattr(task.data, "order", torch.randperm), getattr(task.data, "prepare", None)

    def rows(step: int) -> Tensor:
        """(accumulate, images): every rank takes its own row of each part of a batch."""
        return batch_indices(step, size, config, order).view(config.accumulate, these.count, -1)[:, these.rank]

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
                    with torch.autocast(these.device.type, dtype=precision, enabled=precision is not None):
                        loss, stats = task.loss(part, these.device)
                    scaler.scale(loss / config.accumulate).backward()
                shares.append({"loss": loss.detach(), **stats})
            scaler.unscale_(optimizer)
            grad_norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            if hasattr(grad_norm, "full_tensor"):
                grad_norm = grad_norm.full_tensor()
            stats = {key: torch.stack([share[key].detach() for share in shares]).mean(0) for key in shares[0]}
            if opponent is not None:
                stats |= opponents_turn(task, judge, optimizers[1], config.clip)
            stats = {key: parallel.mean_over_ranks(value) for key, value in {**stats, "grad_norm": grad_norm}.items()}
            if not all(math.isfinite(stats[key]) for key in ("loss", "grad_norm")) and not scaler.is_enabled():
                batch = batch_indices(step, size, config, order)
                raise TrainingError(not_finite(task, config, stats, step, batch, state_path, these))
            scaler.step(optimizer)
            scaler.update()
            task.after_step(step)
            for key, parameter in model.named_parameters() if config.ema else ():
                parts.ema[key].lerp_(parameter.detach(), 1 - config.ema)
            done = step + 1
            entry = watch.step(done, {**stats, "lr": torch.tensor(optimizer.param_groups[0]["lr"])})
            if entry is not None:
                watch.write(done, entry | task.evaluate(these.device))
            if done % config.checkpoint_every == 0 or done == steps:
                write_unreadable(task.data, out, these, say=progress and done == steps)
                save_state(state_path, parts, run, done, these)
                if these.leads and not parts.sharded:
                    model.eval()
                    watch.show(done, task.pictures(these.device))
                    model.train()
    model.eval()
    with torch.no_grad():
        for key, average in parts.ema.items():
            model.get_parameter(key).copy_(average)
    final_path = out / f"{task.name}.safetensors"
    if first < steps or not final_path.is_file():
        state = parallel.whole_state(model)
        if these.leads:
            trained = {"steps": steps, "images": size} | ({"ema": config.ema} if config.ema else {})
            checkpoints.save(model, final_path, state, trained=trained, **(header or {}))
    these.wait()
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


def check_config(config: TrainConfig, these: Workers, size: int) -> None:
    """Raise ``TrainingError`` for numbers that do not go together, or do not suit ``size`` images."""
    total_steps(size, config)
    if config.checkpoint_every % config.log_every:
        raise TrainingError(
            f"checkpoint_every must be a multiple of log_every ({config.log_every}); got {config.checkpoint_every}."
        )
    if config.precision not in ("bf16", "fp16", "float32"):
        raise TrainingError(f"The precision is bf16, fp16 or float32; got {config.precision!r}.")
    if config.accumulate < 1 or config.batch_size % (config.accumulate * these.count):
        raise TrainingError(
            f"A batch of {config.batch_size} images must be a multiple of ranks x accumulate; got {these.count} "
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


def recompute(model: nn.Module) -> None:
    """Make the blocks forget their activations and compute them again in the backward pass (arXiv 1604.06174)."""
    for block in getattr(model, "blocks", ()):
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)


def average_of(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the parameters, to be averaged over the steps."""
    return {key: parameter.detach().clone() for key, parameter in model.named_parameters()}


def not_finite(
    task, config: TrainConfig, stats: dict, step: int, batch: Tensor, state_path: Path, these: Workers
) -> str:
    """Save the numbers of the images in the batch that broke the run, and say so in a sentence."""
    batch_path = state_path.with_name(f"{task.name}.not-finite.safetensors")
    if these.leads:
        what = {"phase": task.name, "step": step, "epoch": task.epoch}
        checkpoints.write_tensors(batch_path, {"index": batch}, what)
    these.wait()  # the first rank to end takes the others with it
    kept = f"the last good checkpoint is {state_path}" if state_path.is_file() else "nothing was saved yet"
    return (
        f"The loss of {task.name} became {stats['loss'].item()} (gradient norm {stats['grad_norm'].item()}) at step "
        f"{step}, expected finite numbers; {kept}: lower base_lr (now {config.base_lr}) and start again. The numbers "
        f"of the images in that batch are in {batch_path}."
    )


# The two stages of a preset -----------------------------------------------------------------------------------------


def train_tokenizer(
    preset,
    data,
    out: Path,
    device="cpu",
    progress: bool = True,
    these: Workers | None = None,
    backbone_weights: Path | None = None,
) -> VQVAE:
    """Train (or resume, or just load) the tokenizer of a preset on ``data``, into ``out``.

    ``backbone_weights``: a file with the weights of VGG-16, for presets whose loss has a perceptual term.
    """
    torch.manual_seed(preset.tokenizer_train.seed)
    model = VQVAE(preset.tokenizer).to(these.device if these else device)
    steps = total_steps(len(data), preset.tokenizer_train)
    task = TokenizerTask(model, data, preset.tokenizer_loss, steps, backbone_weights=backbone_weights)
    fit(task, preset.tokenizer_train, out, {"preset": preset.name}, progress, these)
    return model


def train_model(
    preset, tokenizer: VQVAE, data, out: Path, device="cpu", progress: bool = True, these: Workers | None = None
) -> VAR | GPT:
    """Train (or resume, or just load) the transformer of a preset on the tokens of ``data``, into ``out``."""
    device = these.device if these else device
    torch.manual_seed(preset.model_train.seed)
    raster = isinstance(preset.model, GPTConfig)
    model = (GPT if raster else VAR)(preset.model).to(device)
    task = (GPTTask if raster else VARTask)(model, tokenizer, data, device)
    header = {"preset": preset.name, "sampling": asdict(preset.sampling)}
    task.sampling = header["sampling"]
    fit(task, preset.model_train, out, header, progress, these)
    return model
