"""The training loop beside plain arithmetic: what ``fit`` does to weights, step by step, and what it logs of it.

The losses here are linear in the weights, so that every gradient is known before training starts: a direction times
the mean of the images' numbers. What is left is the loop's own doing, computed a second time below from the papers:
clipping, AdamW (arXiv 1711.05101), schedules, averaged weights, accumulation. No rounding in a network matters.
"""

import dataclasses
import math

import pytest
import torch
from conftest import tokenizer_config
from test_train import blobs, log_of

from minivar import training
from minivar.tokenizer import VQVAE, DiscriminatorConfig
from minivar.tokenizer.losses import PIXEL_LOSS, LossConfig
from minivar.training import TokenizerTask, TrainConfig

# Warm-up, decay and a cosine of weight decay all happen within the twelve steps; half of the gradients are clipped.
CONFIG = TrainConfig(
    epochs=2, batch_size=16, base_lr=0.64, betas=(0.8, 0.9), weight_decay=0.5, final_weight_decay=1.0, warmup=0.25,
    clip=47.5, log_every=1, checkpoint_every=12,
)  # fmt: skip
STEPS = 12


def directions(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A gradient for every parameter, of norm 1 all together, no entry much smaller than the others."""
    generator = torch.Generator().manual_seed(5)
    raw = {}
    for name, parameter in model.named_parameters():
        sign = torch.randint(2, parameter.shape, generator=generator) * 2 - 1
        raw[name] = sign * (1 + torch.rand(parameter.shape, generator=generator))
    norm = math.sqrt(sum(value.square().sum().item() for value in raw.values()))
    return {name: value / norm for name, value in raw.items()}


def linear(model: torch.nn.Module, along: dict[str, torch.Tensor], size: torch.Tensor) -> torch.Tensor:
    """A loss whose gradient is ``size`` times ``along``."""
    return size * sum((parameter * along[name]).sum() for name, parameter in model.named_parameters())


def sizes(config: TrainConfig) -> list[float]:
    """The mean number of the images in each batch, which is the norm of its gradient."""
    return [training.batch_indices(step, 96, config).double().mean().item() for step in range(STEPS)]


class LinearTask(TokenizerTask):
    """A tokenizer that looks at no pixels; the gradient of a batch is the mean of those of its parts."""

    def loss(self, index, device):
        return linear(self.model, self.along, index.float().mean()), {}

    def statistics(self):
        return {}

    def pictures(self, device):
        return None


def by_hand(weights: dict, decaying: set[str], along: dict, norms: list[float], config: TrainConfig):
    """Yields the weights after each step of AdamW with clipped gradients, in float64."""
    weights = {name: value.double() for name, value in weights.items()}
    first, second = ({name: torch.zeros_like(value) for name, value in weights.items()} for _ in range(2))
    (b1, b2) = config.betas
    for step, norm in enumerate(norms):
        factor = norm * min(1.0, config.clip / norm)
        rate = training.learning_rate(step, len(norms), config)
        for name, value in weights.items():
            gradient = factor * along[name].double()
            decay = training.weight_decay(step, len(norms), config) if name in decaying else 0.0
            value = value * (1 - rate * decay)
            first[name] = b1 * first[name] + (1 - b1) * gradient
            second[name] = b2 * second[name] + (1 - b2) * gradient**2
            corrected = first[name] / (1 - b1 ** (step + 1)), second[name] / (1 - b2 ** (step + 1))
            weights[name] = value - rate * corrected[0] / (corrected[1].sqrt() + 1e-8)
        yield dict(weights)


def matrices(model: torch.nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.dim() > 1}


def copied(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def assert_weights(model: torch.nn.Module, expected: dict[str, torch.Tensor], before: dict) -> None:
    """Equal to ``expected`` up to a thousandth of the way from ``before``."""
    for name, parameter in model.named_parameters():
        way = (expected[name] - before[name]).abs().max().item()
        assert way > 0.1, name  # the steps are large enough to see a difference
        assert (parameter.double() - expected[name]).abs().max().item() < 1e-3 * way, name


def linear_task() -> LinearTask:
    torch.manual_seed(0)
    task = LinearTask(VQVAE(tokenizer_config()), blobs(), PIXEL_LOSS, revive_every=0)
    task.along = directions(task.model)
    return task


@pytest.mark.parametrize("parts", [{"accumulate": 1}, {"accumulate": 4}, {"images_at_a_time": 3}])
def test_weights_follow_adamw_with_clipped_gradients(tmp_path, parts):
    task, config = linear_task(), dataclasses.replace(CONFIG, **parts)
    before, norms = copied(task.model), sizes(CONFIG)
    assert 3 <= sum(norm > CONFIG.clip for norm in norms) <= 9  # some are clipped, some are not
    *_, expected = by_hand(before, matrices(task.model), task.along, norms, config)
    training.fit(task, config, tmp_path, progress=False)
    assert_weights(task.model, expected, before)
    entries = log_of(tmp_path)
    assert [entry["grad_norm"] for entry in entries] == pytest.approx(norms, rel=1e-3)  # before clipping
    rates = [training.learning_rate(step, STEPS, config) for step in range(STEPS)]
    assert [entry["lr"] for entry in entries] == pytest.approx(rates, rel=1e-5)


def test_without_reaching_the_limit_nothing_is_clipped(tmp_path):
    task, config = linear_task(), dataclasses.replace(CONFIG, clip=1000.0)
    before = copied(task.model)
    *_, expected = by_hand(before, matrices(task.model), task.along, sizes(config), config)
    training.fit(task, config, tmp_path, progress=False)
    assert_weights(task.model, expected, before)


@pytest.mark.parametrize("ema", [0.2, 0.9])
def test_averaged_weights_follow_their_formula(tmp_path, ema):
    # a <- d a + (1 - d) w after every step s, from the weights before the first one; d = min(ema, (1 + s) / (10 + s))
    task, config = linear_task(), dataclasses.replace(CONFIG, ema=ema)
    before = copied(task.model)
    average = {name: value.double() for name, value in before.items()}
    steps = by_hand(before, matrices(task.model), task.along, sizes(config), config)
    for step, weights in enumerate(steps):
        decay = min(ema, (1 + step) / (10 + step))
        average = {name: decay * average[name] + (1 - decay) * value for name, value in weights.items()}
    training.fit(task, config, tmp_path, progress=False)
    assert_weights(task.model, average, before)


def test_the_discriminator_follows_adamw_with_the_same_schedules(tmp_path):
    shape = DiscriminatorConfig(base_channels=8, layers=1, groups=4)
    loss = LossConfig(perceptual=0.0, gan=0.5, gan_start=0.0, gan_warmup=0.0, discriminator=shape)
    torch.manual_seed(0)
    task = TokenizerTask(VQVAE(tokenizer_config()), blobs(), loss, STEPS, revive_every=0)
    judge, norms = task.objective.discriminator, sizes(CONFIG)
    before, along = copied(judge), directions(judge)

    def known(images, reconstruction, step, discriminator=None):
        return linear(discriminator or judge, along, torch.tensor(norms[step])), {
            "discriminator_loss": torch.zeros(())
        }

    task.objective.discriminator_loss = known
    *_, expected = by_hand(before, matrices(judge), along, norms, CONFIG)
    training.fit(task, CONFIG, tmp_path, progress=False)
    assert_weights(judge, expected, before)
