"""Training: one loop for every model, resumable at any moment.

A *task* (``minivar.tasks``) knows a model and its loss; ``fit`` knows optimiser, schedules, logging and checkpoints.
A run that is killed, even with SIGKILL, and started again by the same command continues from its last checkpoint
and, on a CPU, reaches the same losses bit for bit: the state holds model, optimiser and random generators, the order
of the data depends on seed and epoch alone, and log entries that the restart will write again are dropped.
Explained in ``notebooks/06_training.ipynb``.
"""

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from minivar import checkpoints
from minivar.raster import GPT, GPTConfig
from minivar.tasks import GPTTask, TokenizerTask, VARTask
from minivar.tokenizer import VQVAE
from minivar.transformer import VAR


class TrainingError(ValueError):
    """A run that cannot start or cannot go on."""


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
    amp: bool = True  # bfloat16 autocast where the device has it; a CPU trains in float32
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


def batch_indices(step: int, size: int, config: TrainConfig) -> Tensor:
    """The images of a step: epochs are permutations that depend on seed and epoch alone, so any step can be found."""
    per_epoch = size // config.batch_size
    epoch, position = divmod(step, per_epoch)
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
    order = torch.randperm(size, generator=generator)
    return order[position * config.batch_size : (position + 1) * config.batch_size]


def total_steps(size: int, config: TrainConfig) -> int:
    """Steps of the whole run; the last, incomplete batch of an epoch is dropped."""
    if size < config.batch_size:
        raise TrainingError(f"The dataset has {size} images, fewer than one batch of {config.batch_size}.")
    return max(1, round(config.epochs * (size // config.batch_size)))


def fit(task, config: TrainConfig, out: Path, header: dict | None = None, progress: bool = True) -> dict:
    """Train ``task.model`` and write ``out/NAME.safetensors``, ``out/NAME.state.safetensors``, ``out/metrics.jsonl``.

    Resumes from the state if there is one, returns at once if the run is complete. ``header`` goes into the final
    checkpoint. Returns {"steps", "seconds" (of this call), "resumed_at"}. Raises ``TrainingError`` if the loss stops
    being finite or ``out`` holds a run with another configuration; the last good checkpoint is kept.
    """
    out = Path(out)
    if config.checkpoint_every % config.log_every:
        raise TrainingError(
            f"checkpoint_every must be a multiple of log_every ({config.log_every}); got {config.checkpoint_every}."
        )
    model, size = task.model, len(task.data)
    device = next(model.parameters()).device
    steps = total_steps(size, config)
    optimizer = torch.optim.AdamW(parameter_groups(model), betas=config.betas)
    what = {"images": size, "fingerprint": task.data.fingerprint}
    run = json.loads(json.dumps({"train": asdict(config), "model": asdict(model.config), "data": what}))
    state_path, log_path = out / f"{task.name}.state.safetensors", out / "metrics.jsonl"
    first = restore_state(state_path, model, optimizer, run) if state_path.is_file() else 0
    _rewind_log(log_path, task.name, first)
    for stale in out.glob(f".{task.name}.*"):  # left by a kill in the middle of a write
        stale.unlink()
    started, model_dtype = time.time(), torch.bfloat16 if config.amp and device.type == "cuda" else None
    started_cpu = time.process_time()
    sums: dict[str, Tensor] = {}
    bar = tqdm(total=steps, initial=first, desc=task.name, unit="step", disable=not progress, mininterval=2)
    model.train()
    for step in range(first, steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, config)
            group["weight_decay"] = weight_decay(step, steps, config) if group["decays"] else 0.0
        with torch.autocast(device.type, dtype=model_dtype, enabled=model_dtype is not None):
            loss, stats = task.loss(batch_indices(step, size, config), device)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        grad_norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        if not math.isfinite(loss.item()) or not math.isfinite(grad_norm.item()):
            kept = f"the last good checkpoint is {state_path}" if state_path.is_file() else "nothing was saved yet"
            raise TrainingError(
                f"The loss of {task.name} became {loss.item()} (gradient norm {grad_norm.item()}) at step {step}, "
                f"expected finite numbers; {kept}: lower base_lr (now {config.base_lr}) and start again."
            )
        optimizer.step()
        task.after_step(step)
        for key, value in {"loss": loss, "grad_norm": grad_norm, **stats}.items():
            sums[key] = sums.get(key, 0) + value.detach()
        bar.update()
        done = step + 1
        if done % config.log_every == 0 or done == steps:
            entry = {key: (value / ((step % config.log_every) + 1)).tolist() for key, value in sums.items()}
            sums = {}
            entry |= {"lr": optimizer.param_groups[0]["lr"], **task.evaluate(device)}
            bar.set_postfix({k: f"{entry[k]:.3f}" for k in ("loss", "accuracy", "mse") if k in entry})
            # cpu_seconds, summed over threads, does not grow when other jobs share the machine
            spent = {"seconds": time.time() - started, "cpu_seconds": time.process_time() - started_cpu}
            _log(log_path, {"phase": task.name, "step": done, **spent, **entry})
        if done % config.checkpoint_every == 0 or done == steps:
            save_state(state_path, model, optimizer, run, done)
    bar.close()
    model.eval()
    final_path = out / f"{task.name}.safetensors"
    if first < steps or not final_path.is_file():
        checkpoints.save(model, final_path, trained={"steps": steps, "images": size}, **(header or {}))
    return {"steps": steps, "seconds": time.time() - started, "resumed_at": first}


# The two stages of a preset -----------------------------------------------------------------------------------------


def train_tokenizer(preset, data, out: Path, device: torch.device | str = "cpu", progress: bool = True) -> VQVAE:
    """Train (or resume, or just load) the tokenizer of a preset on ``data``, into ``out``."""
    torch.manual_seed(preset.tokenizer_train.seed)
    model = VQVAE(preset.tokenizer).to(device)
    fit(TokenizerTask(model, data), preset.tokenizer_train, out, {"preset": preset.name}, progress)
    return model


def train_model(
    preset, tokenizer: VQVAE, data, out: Path, device: torch.device | str = "cpu", progress: bool = True
) -> VAR | GPT:
    """Train (or resume, or just load) the transformer of a preset on the tokens of ``data``, into ``out``."""
    torch.manual_seed(preset.model_train.seed)
    raster = isinstance(preset.model, GPTConfig)
    model = (GPT if raster else VAR)(preset.model).to(device)
    task = (GPTTask if raster else VARTask)(model, tokenizer, data, device)
    header = {"preset": preset.name, "sampling": asdict(preset.sampling)}
    fit(task, preset.model_train, out, header, progress)
    return model


# State and log ------------------------------------------------------------------------------------------------------


def save_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, run: dict, step: int) -> None:
    """Everything that a restart needs, in one file written atomically."""
    tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value for key, value in moments.items()}
    tensors["rng.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["rng.cuda"] = torch.cuda.get_rng_state()
    checkpoints.write_tensors(path, tensors, {"step": step, "run": run})


def restore_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, run: dict) -> int:
    """Load what ``save_state`` wrote; returns the step to go on from."""
    tensors, header = checkpoints.read_tensors(path)
    if header.get("run") != run:
        differing = _differences(header.get("run") or {}, run)
        raise TrainingError(
            f"{path} belongs to a run with another configuration ({differing}): choose another output folder, or "
            "the same configuration to resume."
        )
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            moments.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    torch.set_rng_state(tensors["rng.cpu"])
    if "rng.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["rng.cuda"])
    return header["step"]


def _differences(old: dict, new: dict, prefix: str = "") -> str:
    parts = []
    for key in sorted(set(old) | set(new)):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            nested = _differences(a, b, f"{prefix}{key}.")
            parts += [nested] if nested else []
        elif a != b:
            parts.append(f"{prefix}{key}: {a} there, {b} asked for")
    return ", ".join(parts)


def read_log(path: Path) -> list[dict]:
    """Entries of a ``metrics.jsonl``; a last line that a kill cut short is ignored."""
    entries = []
    for line in Path(path).read_text().splitlines() if Path(path).is_file() else []:
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return entries


def _rewind_log(path: Path, phase: str, step: int) -> None:
    """Drop entries of this phase that lie after the checkpoint: they are about to be written again."""
    entries = read_log(path)
    kept = [entry for entry in entries if entry.get("phase") != phase or entry["step"] <= step]
    text = "".join(json.dumps(entry) + "\n" for entry in kept)
    if path.is_file() and path.read_text() != text:  # an entry too many, or half a line
        checkpoints.write_atomically(path, lambda temporary: temporary.write_text(text))


def _log(path: Path, entry: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        file.write(json.dumps(entry) + "\n")
