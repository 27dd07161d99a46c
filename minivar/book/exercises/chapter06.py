"""Exercises of chapter 06: the schedule, what decays, the loop, and a loss that weighs all scales alike."""

import tempfile
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from minivar import training
from minivar.book.exercises.exercise import Exercise
from minivar.scales import ScaleSchedule
from minivar.training import TrainConfig

# The learning rate ------------------------------------------------------------------------------------------------


def rate_at(step, steps, warm, peak, final):
    """The learning rate of a step, counted from 0: warm-up, plateau, line."""
    if step < warm:
        return peak * (0.005 + 0.995 * step / warm)
    passed = (step - warm) / (steps - 1 - warm)
    if passed < 0.05:
        return peak
    return peak * (final + (1 - final) * (1 - passed) / 0.95)


def _rate(step, steps, warm, peak, final, start=0.005, hold=0.05, to_zero=False, at=0) -> float:
    step += at
    if step < warm:
        return peak * (start + (1 - start) * step / warm)
    passed = (step - warm) / (steps - 1 - warm)
    if passed < hold:
        return peak
    rest = (1 - passed) / (1 - hold)
    return peak * (max(rest, 0.0) if to_zero else final + (1 - final) * rest)


def _ask_rate(step: int, steps: int = 1000, final: float = 0.1):
    return lambda function: float(function(step, steps, steps // 50, 3e-4, final)) / 3e-4


RATE_AT = Exercise(
    rate_at,
    title="The learning rate",
    stars=1,
    minutes=10,
    way_in="three cases: step < warm, p < 0.05, and the line",
    hint="In the last part, the straight line is 1 at $p = 0.05$ and `final` at $p = 1$. Write it in terms of the "
    "rest, $(1 - p) / 0.95$, which runs from 1 to 0.",
    cases=(
        ("step 0", _ask_rate(0)),
        ("half way through warm-up", _ask_rate(10)),
        ("the plateau", _ask_rate(40)),
        ("the middle of the run", _ask_rate(500)),
        ("the last step", _ask_rate(999)),
        ("the last step, down to a hundredth", _ask_rate(999, final=0.01)),
        ("a run of 200 steps", _ask_rate(100, 200)),
    ),
    mistakes=(
        ("Warm-up begins at 0.005 of the peak, not at zero.", partial(_rate, start=0.0)),
        ("The line ends at zero; it should end at final times the peak.", partial(_rate, to_zero=True)),
        ("The plateau is missing: the line begins where warm-up ends.", partial(_rate, hold=0.0)),
        ("Steps count from 0: this is the rate of the step after.", partial(_rate, at=1)),
    ),
)

# What decays ------------------------------------------------------------------------------------------------------


def decays(name, tensor):
    """Whether weight decay acts on a parameter of VAR."""
    tables = ("position_1", "start_1lD", "level_embed", "ada_table", "log_scale")
    return tensor.dim() > 1 and not any(table in name for table in tables)


def _decays(name: str, tensor, vectors=False, tables=False, classes=True) -> bool:
    if not classes and "class_embed" in name:
        return False
    exempt = ("position_1", "start_1lD", "level_embed", "ada_table", "log_scale")
    return (vectors or tensor.dim() > 1) and (tables or not any(each in name for each in exempt))


def _ask_parameter(name: str, *shape: int):
    return lambda function: bool(function(name, torch.zeros(shape)))


DECAYS = Exercise(
    decays,
    title="What decays",
    stars=1,
    minutes=8,
    way_in="vectors and tables of places do not",
    remark="`training.parameter_groups` makes the optimiser's two groups in this way.",
    cases=(
        ("a matrix of attention", _ask_parameter("blocks.0.attn.qkv.weight", 12, 4)),
        ("a bias", _ask_parameter("blocks.0.mlp.fc1.bias", 4)),
        ("the table of positions", _ask_parameter("position_1LD", 1, 30, 4)),
        ("the start of the first scale", _ask_parameter("start_1lD", 1, 1, 4)),
        ("the level embedding", _ask_parameter("level_embed.weight", 4, 4)),
        ("the temperature of attention", _ask_parameter("blocks.0.attn.log_scale_1H11", 1, 2, 1, 1)),
        ("the class embedding", _ask_parameter("class_embed.weight", 11, 4)),
    ),
    mistakes=(
        ("A bias is a location: vectors are exempt.", partial(_decays, vectors=True)),
        (
            "Tables of places have two dimensions and more, and are exempt all the same.",
            partial(_decays, tables=True),
        ),
        ("The class embedding decays, as published.", partial(_decays, classes=False)),
    ),
)

# The loop ---------------------------------------------------------------------------------------------------------


def train(model, batch_of, loss_of, config, steps, path):
    """Losses of all steps; goes on where a checkpoint at path ends."""
    optimizer = torch.optim.AdamW(training.parameter_groups(model), betas=config.betas, fused=True)
    first, losses = 0, []
    if path.is_file():
        saved = torch.load(path, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["random"])
        first, losses = len(saved["losses"]), saved["losses"]
    for step in range(first, steps):
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate(step, steps, config)
            group["weight_decay"] = config.weight_decay if group["decays"] else 0.0
        loss = loss_of(model, batch_of(step))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % config.checkpoint_every == 0:
            saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "losses": losses}
            torch.save({**saved, "random": torch.get_rng_state()}, path)
    return losses


def _train(
    model, batch_of, loss_of, config, steps, path,
    zero=True, clip=True, schedule=True, decay_all=False, moments=True, random=True, resume=True, late=0,
):  # fmt: skip
    optimizer = torch.optim.AdamW(training.parameter_groups(model), betas=config.betas, fused=True)
    first, losses = 0, []
    if path.is_file() and resume:
        saved = torch.load(path, weights_only=True)
        model.load_state_dict(saved["model"])
        if moments:
            optimizer.load_state_dict(saved["optimizer"])
        if random:
            torch.set_rng_state(saved["random"])
        first, losses = len(saved["losses"]), saved["losses"]
    for step in range(first, steps):
        for group in optimizer.param_groups:
            at = step + late if schedule else steps // 4
            group["lr"] = training.learning_rate(at, steps, config)
            group["weight_decay"] = config.weight_decay if group["decays"] or decay_all else 0.0
        loss = loss_of(model, batch_of(step))
        if zero:
            optimizer.zero_grad()
        loss.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % config.checkpoint_every == 0:
            saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "losses": losses}
            torch.save({**saved, "random": torch.get_rng_state()}, path)
    return losses


SHORT = TrainConfig(
    batch_size=256, base_lr=0.05, warmup=0.25, hold=0.25, weight_decay=0.5, clip=0.3, log_every=1, checkpoint_every=3
)
STEPS = 8


class _PowerCut(Exception):
    pass


def _ask_training(calls: int = 1, cut: int | None = None, size: float = 1.0, dropout: float = 0.0):
    """Losses of a small network, and how many batches they took.

    ``cut``: the first call ends in a power cut at that step, and the second one goes on.
    """

    def answer(function):
        draw = torch.Generator().manual_seed(0)
        images, targets = torch.randn(STEPS, 16, 5, generator=draw), torch.randn(STEPS, 16, 2, generator=draw)
        broken, asked = [cut], []

        def batch_of(step: int) -> int:
            asked.append(step)
            if step == broken[0]:
                broken[0] = None
                raise _PowerCut
            return step

        def loss_of(model, step: int):
            return F.mse_loss(model(images[step]), size * targets[step])

        with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
            for _ in range(calls):
                torch.manual_seed(0)
                net = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Dropout(dropout), torch.nn.Linear(8, 2))
                try:
                    losses = function(net, batch_of, loss_of, SHORT, STEPS, Path(folder) / "state.pt")
                except _PowerCut:
                    continue
        return torch.tensor([*(float(loss) for loss in losses), len(asked)])

    return answer


TRAIN = Exercise(
    train,
    title="The loop",
    stars=3,
    minutes=30,
    way_in="schedules, loss, backward, clip, step; and now and then a checkpoint",
    hint='The optimiser has two groups, which `training.parameter_groups` makes; `group["decays"]` tells them apart. '
    "`training.learning_rate(step, steps, config)` is your first exercise. What the next step depends on: the "
    "weights, the optimiser's moments, the state of the random numbers, and how many steps there were.",
    remark="`training.fit` does the same for any task, on one process or many, in sixteen bits or thirty-two, and "
    "writes a log; its checkpoints are safetensors that are renamed into place, where a power cut during "
    "`torch.save` would leave half a file.",
    cases=(
        ("eight steps of a small network", _ask_training()),
        ("a loss so large that every gradient is clipped", _ask_training(size=50.0)),
        ("a power cut at step 5, after a checkpoint at 3", _ask_training(calls=2, cut=5)),
        ("the same with dropout, which draws random numbers", _ask_training(calls=2, cut=5, dropout=0.5)),
    ),
    mistakes=(
        ("Gradients add up until they are set to zero.", partial(_train, zero=False)),
        ("The gradients are not clipped to config.clip.", partial(_train, clip=False)),
        ("The learning rate is the same at all steps.", partial(_train, schedule=False)),
        ("The learning rate is that of the step after.", partial(_train, late=1)),
        ('Biases are exempt from weight decay: ask group["decays"].', partial(_train, decay_all=True)),
        ("After the cut it begins anew: the checkpoint is not read.", partial(_train, resume=False)),
        ("After the cut the optimiser has forgotten its moments.", partial(_train, moments=False)),
        ("After the cut the random numbers are others.", partial(_train, random=False)),
    ),
)

# A balanced loss --------------------------------------------------------------------------------------------------


def balanced_loss(logits_BLV, tokens_BL, counts):
    """The mean of the scales' mean losses: every scale weighs the same."""
    losses_BL = torch.nn.functional.cross_entropy(logits_BLV.transpose(1, 2), tokens_BL, reduction="none")
    return torch.stack([part.mean() for part in losses_BL.split(counts, dim=1)]).mean()


def _balanced(logits_BLV, tokens_BL, counts, each=torch.mean, alike=False, first=False):
    losses_BL = F.cross_entropy(logits_BLV.transpose(1, 2), tokens_BL, reduction="none")
    if alike:
        return losses_BL.mean()
    parts = losses_BL.split(counts, dim=1)
    return torch.stack([each(part) for part in (parts[:1] if first else parts)]).mean()


def _ask_logits(*sides: int):
    counts = ScaleSchedule(sides).counts
    draw = torch.Generator().manual_seed(sum(counts))
    logits = torch.randn(3, sum(counts), 7, generator=draw) * 2
    tokens = torch.randint(7, (3, sum(counts)), generator=draw)
    return lambda function: function(logits.clone(), tokens.clone(), list(counts))


BALANCED_LOSS = Exercise(
    balanced_loss,
    title="Every scale alike",
    stars=2,
    minutes=15,
    way_in="a loss for each position, cut into scales",
    hint='`torch.nn.functional.cross_entropy(..., reduction="none")` gives a loss per position (it wants '
    "the classes in dimension 1); `split(counts, dim=1)` cuts it into scales.",
    remark="The coarse ones: the first scale's weight rises from $1/L$ to $1/K$. Whether that helps is an experiment "
    "that costs one line in `VARTask.loss`.",
    cases=(
        ("scales 1 and 2", _ask_logits(1, 2)),
        ("scales 1, 2, 4", _ask_logits(1, 2, 4)),
        ("one scale", _ask_logits(3)),
    ),
    mistakes=(
        ("This is the plain mean: all positions weigh the same.", partial(_balanced, alike=True)),
        ("The scales' losses are sums; a finer scale has more of them.", partial(_balanced, each=torch.sum)),
        ("That is the first scale alone.", partial(_balanced, first=True)),
        ("The mean over the scales is missing.", lambda *given: _balanced(*given) * len(given[2])),
    ),
)
