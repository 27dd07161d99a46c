"""Recomputation: the same losses and gradients from less memory, for transformers and for tokenizers."""

import dataclasses

import pytest
import torch
from conftest import NETS, tokenizer_config, var_config, wake

from minivar import models
from minivar.analysis import memory
from minivar.analysis.live_bytes import LiveBytes
from minivar.models import GPTConfig
from minivar.tokenizer import VQVAE, DiscriminatorConfig, LossConfig, TokenizerLoss
from minivar.training import TrainingError
from minivar.training.recompute import recompute, units

DEEP = tokenizer_config(nets=dataclasses.replace(NETS, res_blocks=2, attention=True), image_size=16)
LOSS = LossConfig(perceptual=0.0, gan_start=0.0, discriminator=DiscriminatorConfig(8, layers=1, groups=4))
GPT = GPTConfig(depth=3, width=32, heads=2, grid=(4, 4), codebook_size=50, num_classes=5, hidden=64, dropout=0.0)
CONFIGS = {"VAR": var_config(depth=3, label_dropout=0.0, drop_path=0.0), "GPT": GPT, "tokenizer": DEEP}


def built(config) -> torch.nn.Module:
    """A model whose every parameter matters, in train mode."""
    torch.manual_seed(0)
    model = VQVAE(config) if config is DEEP else models.build(config)
    return wake(model).train()


def loss_of(model: torch.nn.Module, images: int = 3) -> torch.Tensor:
    """A training loss; the tokenizer's asks twice for gradients of its last layer, for the discriminator's weight."""
    if not isinstance(model, VQVAE):
        return memory.transformer_step(model, images, None)
    torch.manual_seed(1)
    objective = TokenizerLoss(LOSS, 1, steps=10)
    pixels = torch.rand(images, 1, 16, 16) * 2 - 1
    out = model(pixels)
    return objective(pixels, out.reconstruction, out.loss, 5, model.decoder.conv_out.weight)[0]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_losses_and_gradients_are_the_same(config):
    found = []
    for again in (False, True):
        model = built(config)
        if again:
            recompute(model)
        torch.manual_seed(2)
        loss = loss_of(model)
        loss.backward()
        found.append((loss.detach(), {name: p.grad for name, p in model.named_parameters()}))
    (plain, gradients), (loss, again) = found
    torch.testing.assert_close(loss, plain, rtol=1e-6, atol=0)
    assert sum(gradient is not None and bool(gradient.any()) for gradient in gradients.values()) > 10
    for name, gradient in gradients.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-6, atol=1e-8)


def peak_of(config, again: bool, images: int = 8) -> tuple[int, int]:
    """Bytes at the worst moment of a training step, and at the end of its forward half, gradients aside."""
    model = built(config)
    if again:
        recompute(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with LiveBytes() as live:
        loss = loss_of(model, images)
        kept = live.now
        loss.backward()
    return live.peak, kept


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_worst_moment_of_a_step_takes_less_memory(config):
    (plain, kept), (peak, inputs) = peak_of(config, False), peak_of(config, True)
    assert inputs < 0.6 * kept  # what the backward pass finds
    assert peak < 0.75 * plain  # with one unit at a time computed again


def test_units_are_blocks_of_either_kind():
    for config, name in ((CONFIGS["VAR"], "Block"), (GPT, "GPTBlock")):
        assert [type(unit).__name__ for unit in units(built(config))] == [name] * 3
    kinds = [type(unit).__name__ for unit in units(built(DEEP))]
    assert kinds.count("ResBlock") == 3 * 2 + 2 + 3 * 3 + 2  # levels and middle of encoder and decoder
    assert kinds.count("AttnBlock") == 2 + 1 + 3 + 1  # the lowest levels and the middles


def test_a_model_without_blocks_is_refused_and_not_left_as_it_is():
    with pytest.raises(TrainingError, match="got a Linear without any, expected recompute=False"):
        recompute(torch.nn.Linear(2, 2))
