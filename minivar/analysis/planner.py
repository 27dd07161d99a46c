"""What a training run will need, before it is started: memory per GPU, arithmetic, days, data.

Nothing here is fitted. Activations are traced: the preset's own model runs forward on *fake* tensors, which have
shapes but no numbers, and everything that autograd would keep is added up. FLOPs are counted on the meta device. What
cannot be derived is *utilisation*, the share of a GPU's peak that a run achieves, so it is an argument; ``PUBLISHED``
shows what published runs imply.
Explained in ``notebooks/13_imagenet.ipynb``.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from minivar import models, presets
from minivar.analysis import complexity
from minivar.models import GPTConfig
from minivar.scales import VAR_512
from minivar.training.recompute import recompute as recompute_activations
from minivar.training.schedules import total_steps

IMAGENET = 1_281_167  # training images
PEAK = {"a100": 312e12, "h100": 989e12}  # FLOP/s, bfloat16, dense; vendor's data sheets
MEMORY = {"a100": 80e9, "h100": 80e9}  # bytes, the larger variants


class Published(NamedTuple):
    """A run whose authors say what it took: VAR in issue 44 of its tracker, LlamaGen in its paper."""

    name: str
    gpus: int  # A100 (VAR); LlamaGen's are taken to be the same
    days: float
    preset: str | None = None  # None: called like the run
    overrides: Mapping[str, object] | None = None  # what was not as in the preset


PUBLISHED = (
    Published("var-d16", 16, 2.5),
    Published("var-d30, 512 px", 256, 4, "var-d30", {"model.schedule": VAR_512}),  # "about" 4 days; not released
    Published("llamagen-b-256", 8, 1),
    Published("llamagen-l-256", 8, 2),
    Published("llamagen-xl-256", 16, 3),
    Published("llamagen-xxl-256", 32, 4),
    Published("llamagen-3b-256", 32, 5),
)


class PlanError(ValueError):
    """A plan that cannot be made."""


@dataclass(frozen=True)
class Activations:
    """Bytes that autograd keeps for the backward pass: ``fixed`` (low-precision weights), and per image."""

    fixed: int
    per_image: int

    def of(self, images: int) -> int:
        """Bytes for a forward pass over this many images."""
        return self.fixed + images * self.per_image


def teacher_forced_inputs(config, batch: int, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """(condition, inputs, targets) of the right shapes for one training forward."""
    labels = torch.zeros(batch, dtype=torch.int64, device=device)
    if isinstance(config, GPTConfig):
        count = math.prod(config.grid)
        inputs = torch.zeros(batch, count - 1, dtype=torch.int64, device=device)
    else:
        count = config.schedule.num_tokens
        inputs = torch.zeros(batch, count - config.schedule.counts[0], config.code_dim, device=device)
    return labels, inputs, torch.zeros(batch, count, dtype=torch.int64, device=device)


def kept_bytes(model: nn.Module, batch: int, precision: torch.dtype | None) -> int:
    """Bytes of the storages, parameters aside, that autograd keeps in one training forward."""
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    labels, inputs, targets = teacher_forced_inputs(model.config, batch)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", dtype=precision, enabled=precision is not None),
    ):
        loss = F.cross_entropy(model(labels, inputs).flatten(0, 1), targets.flatten())
    assert loss.requires_grad  # the graph, and with it what it keeps, lives until here
    return sum(size for key, size in storages.items() if key not in own)


@functools.cache
def trace_activations(config, recompute: bool = False, precision: torch.dtype | None = torch.bfloat16) -> Activations:
    """Activations of a transformer's training forward, from its configuration alone."""
    with torch.device("meta"):
        shapes = models.build(config)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = shapes.to_empty(device="cpu").train()
        if recompute:
            recompute_activations(model)
        one, two = (kept_bytes(model, batch, precision) for batch in (1, 2))
    return Activations(fixed=2 * one - two, per_image=two - one)


def plan(
    name: str,
    gpus: int,
    gpu: str = "a100",
    strategy: str = "fsdp",
    utilisation: float = 0.3,
    images: int = IMAGENET,
    recompute: bool | None = None,
    accumulate: int | None = None,
    overrides: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """Memory per GPU, FLOPs, days and data of a preset's transformer training. Bytes, FLOPs, days.

    ``recompute`` and ``accumulate``: the preset's unless given; ``overrides`` as in ``presets.get``. Raises
    ``PlanError`` for impossible numbers.
    """
    preset = presets.get(name, overrides)
    if gpu not in PEAK:
        raise PlanError(f"Unknown GPU {gpu!r}: expected one of {', '.join(PEAK)}.")
    if gpus < 1 or not 0 < utilisation <= 1 or strategy not in ("ddp", "fsdp"):
        raise PlanError(
            "A plan needs at least one GPU, a utilisation in (0, 1] and the strategy ddp or fsdp; got "
            f"{gpus}, {utilisation} and {strategy!r}."
        )
    config = preset.model_train
    config = replace(
        config,
        recompute=config.recompute if recompute is None else recompute,
        accumulate=config.accumulate if accumulate is None else accumulate,
    )
    if config.batch_size % (gpus * config.accumulate):
        raise PlanError(
            f"A batch of {config.batch_size} images must be a multiple of GPUs x accumulate; got {gpus} GPUs and "
            f"accumulate {config.accumulate}."
        )
    with torch.device("meta"):
        model = models.build(preset.model).eval()
    labels, inputs, targets = teacher_forced_inputs(preset.model, 1, "meta")
    forward = complexity.count_flops(lambda: model(labels, inputs))["all"]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    block = max(sum(p.numel() for p in block.parameters()) for block in model.blocks)
    shards = gpus if strategy == "fsdp" else 1
    together = config.batch_size // (gpus * config.accumulate)
    memory = {
        "weights": 4 * parameters // shards,
        "gradients": 4 * parameters // shards,
        "optimiser": 8 * parameters // shards,
        "gathered blocks": 2 * 4 * block if shards > 1 else 0,  # one in use, one being fetched
        "activations": trace_activations(preset.model, config.recompute).of(together),
    }
    memory["ema"] = 4 * parameters // shards if config.ema else 0
    steps = total_steps(images, config)
    passes = 4 if config.recompute else 3  # forward, twice that backward, and forward again
    flops = passes * forward * config.batch_size
    days = steps * flops / (gpus * PEAK[gpu] * utilisation) / 86400
    return {
        "preset": name,
        "gpus": gpus,
        "strategy": strategy,
        "parameters": parameters,
        "images per GPU at a time": together,
        "memory": {**memory, "sum": sum(memory.values())},
        "fits": sum(memory.values()) < 0.9 * MEMORY[gpu],
        "steps": steps,
        "FLOPs per step": flops,
        "days": days,
        "GPU-days": days * gpus,
        "images per second": steps * config.batch_size / (days * 86400),
        "token cache": 10 * images * targets.shape[1] * 2,  # ten crops of 16-bit tokens
    }


def implied_utilisation() -> list[dict[str, object]]:
    """For each published run, the utilisation at which the plan would take exactly the published time."""
    rows = []
    for run in PUBLISHED:
        preset = run.preset or run.name
        at_one = plan(preset, run.gpus, strategy="fsdp", utilisation=1.0, overrides=run.overrides)["days"]
        rows.append({"preset": run.name, "gpus": run.gpus, "days": run.days, "utilisation": at_one / run.days})
    return rows


def recipe(name: str) -> str:
    """What a preset's transformer is trained with, and what the published run cost where that is known."""
    config = presets.get(name).model_train
    rate = config.base_lr * config.batch_size / 256
    known = {
        run.name: f"; published: {run.days:g} day{'s' * (run.days != 1)} on {run.gpus} GPUs, "
        f"{run.days * run.gpus:g} GPU-days"
        for run in PUBLISHED
    }
    return f"batch {config.batch_size}, learning rate {rate:g}, {config.epochs:g} epochs{known.get(name, '')}"


def _train(name: str, strategy: str) -> str:
    options = f'--preset {name} --device cuda --strategy {strategy} --data "$DATA" --out runs/{name}'
    return f"-m minivar.cli train {options}"


def one_node(name: str, gpus: int, strategy: str = "fsdp") -> str:
    """The command that trains a preset on the GPUs of one machine. DATA is the image folder."""
    return f".venv/bin/torchrun --standalone --nproc-per-node={gpus} {_train(name, strategy)}"


def as_text(found: dict[str, object]) -> str:
    """A plan as a table for a terminal."""
    lines = [f"{found['preset']}, {found['parameters'] / 1e6:,.0f} M parameters", f"  {recipe(found['preset'])}"]
    lines += [f"  {key:28}{size / 1e9:10.2f} GB per GPU" for key, size in found["memory"].items() if size]
    lines.append(f"  {'fits':28}{'yes' if found['fits'] else 'no: more GPUs, --recompute or --accumulate':>10}")
    lines.append(f"  {'images per GPU at a time':28}{found['images per GPU at a time']:10}")
    lines.append(f"  {'steps':28}{found['steps']:10,}")
    lines.append(f"  {'PFLOPs per step':28}{found['FLOPs per step'] / 1e15:10.2f}")
    lines.append(f"  {'days':28}{found['days']:10.1f}")
    lines.append(f"  {'GPU-days':28}{found['GPU-days']:10.0f}")
    lines.append(f"  {'images per second to read':28}{found['images per second']:10.0f}")
    lines.append(f"  {'token cache, ten crops':28}{found['token cache'] / 1e9:10.1f} GB on disk")
    if found["gpus"] <= 8:
        lines.append(f"on one machine: {one_node(found['preset'], found['gpus'], found['strategy'])}")
    return "\n".join(lines)


def slurm_script(name: str, gpus: int, strategy: str = "fsdp", per_node: int = 8) -> str:
    """A batch script that runs ``minivar train`` on as many nodes as the GPUs fill. Resubmit it to resume."""
    here = min(gpus, per_node)
    if gpus % here:
        raise PlanError(f"{gpus} GPUs do not fill nodes of {per_node}: expected a multiple of {per_node}.")
    return f"""#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes={gpus // here}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={here}
#SBATCH --cpus-per-task={8 * here}
#SBATCH --time=2-00:00:00
#SBATCH --requeue
# {recipe(name)}
# DATA must hold train/ and val/ with one folder a class. The same command resumes, so the job may be requeued.
# From a token cache of minivar tokenize: replace --data "$DATA" by --tokens CACHE --tokenizer RUN.
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun .venv/bin/torchrun --nnodes=$SLURM_NNODES --nproc-per-node={here} --rdzv-backend=c10d \\
    --rdzv-id=$SLURM_JOB_ID --rdzv-endpoint=$head:29500 \\
    {_train(name, strategy)}"""
