"""What a training run will need, before it is started: memory per GPU, arithmetic, days, data.

Nothing here is fitted. Activations are traced (``memory``), FLOPs are counted on the meta device, and whether the
batch can be shared out is the training loop's own check. What cannot be derived is *utilisation*, the share of a
GPU's peak that a run achieves, so it is an argument; ``implied_utilisation`` says what the published runs reached.
Explained in ``notebooks/13_imagenet.ipynb``.
"""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import nn

from minivar import models, presets
from minivar.analysis import complexity, memory
from minivar.analysis.costs import PUBLISHED, recipe
from minivar.analysis.launch import one_node
from minivar.distributed import Ranks
from minivar.models import GPTConfig, VARConfig
from minivar.tokenizer import LossConfig, TokenizerConfig
from minivar.training import Preset, TrainConfig, TrainingError, accumulation, check_config, total_steps

IMAGENET = 1_281_167  # training images
IMAGES = {  # of the training split
    "digits": 7_200,
    "emoji": 6_013,
    "emoji-32": 8_775,
    "emoji-64": 8_775,
    "cifar10": 45_000,
    "fashion-mnist": 54_000,
}
# FLOP/s, bfloat16, dense, sums in float32, and bytes: the vendor's data sheets; of A100 and H100 the larger variants
PEAK = {"a100": 312e12, "h100": 989e12, "rtx3090": 71e12, "rtx4090": 165e12}
MEMORY = {"a100": 80e9, "h100": 80e9, "rtx3090": 24e9, "rtx4090": 24e9}


class PlanError(ValueError):
    """A plan that cannot be made."""


def plan(
    name: str,
    gpus: int,
    gpu: str = "a100",
    strategy: str = "fsdp",
    utilisation: float = 0.3,
    images: int | None = None,
    recompute: bool | None = None,
    accumulate: int | None = None,
    overrides: Mapping[str, object] | Iterable[str] | None = None,
) -> dict[str, object]:
    """Memory per GPU, FLOPs, days and data of a preset's training. Bytes, FLOPs, days.

    The numbers are the transformer's; under "tokenizer" are those of the tokenizer, which is trained before it.
    ``images`` to train on: those of the preset's data set where it is known, and ImageNet's otherwise. ``recompute``
    (of both) and ``accumulate`` (of the transformer): the preset's unless given; ``overrides`` as in
    ``presets.get``. Raises ``PlanError`` for impossible numbers, with the nearest that are possible.
    """
    if gpu not in PEAK:
        raise PlanError(f"Unknown GPU {gpu!r}: expected one of {', '.join(PEAK)}.")
    if gpus < 1 or not 0 < utilisation <= 1 or strategy not in ("ddp", "fsdp"):
        raise PlanError(
            "A plan needs at least one GPU, a utilisation in (0, 1] and the strategy ddp or fsdp; got "
            f"{gpus}, {utilisation} and {strategy!r}."
        )
    preset = presets.get(name, overrides)
    if not isinstance(preset.model, VARConfig | GPTConfig):
        kind = type(preset.model).__name__
        raise PlanError(f"Plans are for VAR and GPT: expected a preset of one of them, got {name} with a {kind}.")
    images = images or IMAGES.get(preset.dataset, IMAGENET) * preset.views
    configs = _checked(preset, gpus, strategy, images, recompute, accumulate)
    needed = {
        "tokenizer": _tokenizer(preset, configs["tokenizer"], gpus),
        "transformer": _transformer(preset, configs["transformer"], gpus, strategy),
    }
    speed = gpus * PEAK[gpu] * utilisation  # FLOP/s
    stages = {key: _stage(needed[key], configs[key], gpus, images, speed, MEMORY[gpu]) for key in needed}
    tokens = sum(height * width for height, width in preset.model.grids)
    return {
        "preset": name,
        "gpus": gpus,
        "gpu": gpu,
        "strategy": strategy,
        **stages["transformer"],
        "tokenizer": stages["tokenizer"],
        "token cache": 10 * images * tokens * 2,  # ten crops of 16-bit tokens
    }


def _checked(
    preset: Preset, gpus: int, strategy: str, images: int, recompute: bool | None, accumulate: int | None
) -> dict[str, TrainConfig]:
    """What both trainings are to be like; ``PlanError`` unless the training loop would begin each of them."""
    asked = {"recompute": recompute, "accumulate": accumulate}
    asked = {key: value for key, value in asked.items() if value is not None}
    configs = {
        "tokenizer": replace(preset.tokenizer_train, **{key: asked[key] for key in asked if key == "recompute"}),
        "transformer": replace(preset.model_train, **asked),
    }
    for stage, config in configs.items():
        try:
            check_config(config, Ranks(count=gpus, strategy=strategy), images, validation=range(IMAGENET))
        except TrainingError as error:
            raise PlanError(f"The {stage} of {preset.name} cannot be trained so: {error}") from error
    return configs


def _stage(
    needed: dict[str, object], config: TrainConfig, gpus: int, images: int, speed: float, memory_of_gpu: float
) -> dict[str, object]:
    """What a training is like that needs so much, at ``speed`` FLOP/s of all GPUs together."""
    steps, total = total_steps(images, config), sum(needed["memory"].values())
    days = steps * needed["FLOPs per step"] / speed / 86400
    return {
        **needed,
        "memory": {**needed["memory"], "sum": total},
        "fits": total < 0.9 * memory_of_gpu,
        "images per GPU at a time": _at_a_time(config, gpus),
        "accumulate": accumulation(config, gpus),
        "steps": steps,
        "days": days,
        "GPU-days": days * gpus,
        "images per second": steps * config.batch_size / (days * 86400),
    }


def _at_a_time(config: TrainConfig, gpus: int) -> int:
    return config.batch_size // (gpus * accumulation(config, gpus))


# What each of the two trainings needs -----------------------------------------------------------------------------


def _transformer(preset: Preset, config: TrainConfig, gpus: int, strategy: str) -> dict[str, object]:
    """Parameters, bytes on a GPU by what they are for, and FLOPs of a step."""
    with torch.device("meta"):
        model = models.build(preset.model).eval()
    labels, inputs, _ = memory.teacher_forced_inputs(preset.model, 1, "meta")
    forward = complexity.count_flops(lambda: model(labels, inputs))["all"]
    sharded = strategy == "fsdp" and gpus > 1
    block = max(_size(block) for block in model.blocks)
    activations = memory.transformer_activations(preset.model, config.recompute)
    return {
        "parameters": _size(model),
        "memory": {
            **_state(_size(model), config, gpus, sharded),
            "gathered blocks": 2 * 4 * block if sharded else 0,  # one in use, one being fetched
            "activations": activations.of(_at_a_time(config, gpus)),
        },
        "FLOPs per step": (4 if config.recompute else 3) * forward * config.batch_size,
    }


def _tokenizer(preset: Preset, config: TrainConfig, gpus: int) -> dict[str, object]:
    """The same of a tokenizer, which is under DDP with either strategy, and of its discriminator and LPIPS."""
    loss = preset.tokenizer_loss
    tokenizer, objective = memory.tokenizer_and_loss(preset.tokenizer, loss)
    forward, judging = _tokenizer_flops(preset.tokenizer, loss)
    learning = _size(tokenizer) + (0 if objective.discriminator is None else _size(objective.discriminator))
    activations = memory.tokenizer_activations(preset.tokenizer, loss, config.recompute)
    return {
        "parameters": _size(tokenizer),
        "memory": {
            **_state(learning, config, gpus, sharded=False),
            "LPIPS": 4 * sum(buffer.numel() for buffer in objective.perceptual.buffers()) if loss.perceptual else 0,
            "activations": activations.of(_at_a_time(config, gpus)),
        },
        "FLOPs per step": round(((4 if config.recompute else 3) * forward + judging) * config.batch_size),
    }


@functools.cache
def _tokenizer_flops(config: TokenizerConfig, loss: LossConfig) -> tuple[int, float]:
    """FLOPs an image: of the tokenizer's forward pass, and of all that LPIPS and discriminator do in a step."""
    tokenizer, objective = memory.tokenizer_and_loss(config, loss)
    image, judging = torch.zeros(1, config.nets.image_channels, *config.image_size, device="meta"), 0.0
    if objective.perceptual is not None:  # forward of image and reconstruction, and back to the latter's pixels
        judging += 1.5 * complexity.count_flops(lambda: objective.perceptual(image, image))["all"]
    if objective.discriminator is not None:  # an opinion of one image, back to its pixels; then it learns from two
        share = 1 - objective.start / memory.MANY_STEPS  # of the steps
        judging += 8 * share * complexity.count_flops(lambda: objective.discriminator(image))["all"]
    return complexity.count_flops(lambda: tokenizer(image))["all"], judging


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _state(parameters: int, config: TrainConfig, gpus: int, sharded: bool) -> dict[str, int]:
    """Bytes of what a GPU holds before it has seen an image, and of gradients. All are float32.

    Of an accumulated batch every GPU keeps the sum of its own gradients, whole, until the last part: beside the
    buckets of DDP, which the others' are received into, and under FSDP beside its share of the mean.
    """
    shards = gpus if sharded else 1
    held = gpus > 1 and accumulation(config, gpus) > 1
    return {
        "weights": 4 * parameters // shards,
        "gradients": 4 * parameters // shards,  # DDP's are views into its buckets
        "held gradients": 4 * parameters if held else 0,
        "optimiser": 8 * parameters // shards,
        "ema": 4 * parameters // shards if config.ema else 0,
    }


# In words ---------------------------------------------------------------------------------------------------------


def implied_utilisation() -> list[dict[str, object]]:
    """For each published run, the utilisation at which the plan would take exactly the published time.

    "at most" marks those whose steps were cheaper than the plan counts, by how much is not published.
    """
    rows = []
    for run in PUBLISHED:
        at_one = plan(run.preset or run.name, run.gpus, utilisation=1.0, overrides=run.overrides)["days"]
        row = {"preset": run.name, "gpus": run.gpus, "days": run.days, "utilisation": at_one / run.days}
        rows.append({**row, "at most": run.at_most})
    return rows


def as_text(found: dict[str, object]) -> str:
    """A plan as a table for a terminal."""
    both = {"tokenizer": found["tokenizer"], "transformer": found}
    kinds = dict.fromkeys(kind for stage in both.values() for kind in stage["memory"])

    def row(what: str, digits: int, of, unit: str = "") -> str:
        return f"  {what:28}" + "".join(f"{of(stage):12,.{digits}f}" for stage in both.values()) + unit

    lines = [
        f"{found['preset']}, {found['parameters'] / 1e6:,.0f} M parameters, on {found['gpus']} {found['gpu']}",
        f"  {recipe(found['preset'])}",
        f"  {'':28}" + "".join(f"{stage:>12}" for stage in both),
    ]
    for kind in kinds:
        if any(stage["memory"].get(kind) for stage in both.values()):
            lines.append(row(kind, 2, lambda stage, kind=kind: stage["memory"].get(kind, 0) / 1e9, " GB per GPU"))
    fits = ["yes" if stage["fits"] else "no" for stage in both.values()]
    lines.append(f"  {'fits':28}" + "".join(f"{word:>12}" for word in fits))
    if "no" in fits:
        lines.append("  what does not fit needs --recompute, images_at_a_time (--set), or more GPUs")
    lines += [
        row("images per GPU at a time", 0, lambda stage: stage["images per GPU at a time"]),
        row("parts of a GPU's batch", 0, lambda stage: stage["accumulate"]),
        row("steps", 0, lambda stage: stage["steps"]),
        row("PFLOPs per step", 2, lambda stage: stage["FLOPs per step"] / 1e15),
        row("days", 2, lambda stage: stage["days"]),
        row("GPU-days", 1, lambda stage: stage["GPU-days"]),
        row("images per second to read", 0, lambda stage: stage["images per second"]),
        f"  {'token cache, ten crops':28}{found['token cache'] / 1e9:24,.1f} GB on disk",
    ]
    if found["gpus"] <= 8:
        lines.append(f"on one machine: {one_node(found['preset'], found['gpus'], found['strategy'])}")
    return "\n".join(lines)
