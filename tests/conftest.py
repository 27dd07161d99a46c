"""Models small enough to be built in milliseconds, shared by the tests.

A freshly initialised transformer is nearly blind: its gates and its head are close to zero, and a test of leakage or
caching would compare zeros. ``wake`` gives every parameter a size at which it matters.
"""

import os

import pytest
import torch

from minivar.models import VAR, VARConfig
from minivar.scales import ScaleSchedule
from minivar.tokenizer import VQVAE, NetConfig, TokenizerConfig

# Models this small gain nothing from a second thread, and lose minutes to waiting for it where the machine is busy.
# `make test-elsewhere` sets another number, which changes the order of sums: no test may lean on this one.
torch.set_num_threads(int(os.environ.get("MINIVAR_TEST_THREADS", "1")))

SCHEDULE = ScaleSchedule((1, 2, 4))  # 21 tokens
NETS = NetConfig(image_channels=1, base_channels=8, multipliers=(1, 2, 2), res_blocks=1, attention=False, groups=4)


def tokenizer_config(**other) -> TokenizerConfig:
    """16 x 16 grey pixels to a 4 x 4 grid of 4-dimensional codes out of 16."""
    small = {"image_size": 16, "nets": NETS, "codebook_size": 16, "code_dim": 4, "schedule": SCHEDULE}
    return TokenizerConfig(**{**small, **other})


def var_config(**other) -> VARConfig:
    """Two blocks of width 32, fitting ``tokenizer_config``."""
    small = {"depth": 2, "width": 32, "heads": 2, "num_classes": 5, "codebook_size": 16, "code_dim": 4}
    return VARConfig(**{**small, "schedule": SCHEDULE, **other})


class Interrupted(Exception):
    """Raised by a dataset in the middle of an epoch."""


class Stopping:
    """Before a dataset class, ``class Tars(Stopping, ShardSet)``: gives out ``left`` batches, then breaks off."""

    left: float = float("inf")

    def batch(self, index, epoch=0):
        self.left -= 1
        if self.left < 0:
            raise Interrupted
        return super().batch(index, epoch)


@torch.no_grad()
def wake(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Redraw all parameters with a standard deviation of 0.2 (norms around 1), in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
        if "norm" in name and name.endswith("weight"):
            parameter.add_(1)
    if isinstance(model, VQVAE):
        model.quantizer.codebook.mul_(5)
    return model.eval()


@pytest.fixture
def tokenizer() -> VQVAE:
    return wake(VQVAE(tokenizer_config()))


@pytest.fixture
def model() -> VAR:
    return wake(VAR(var_config()))


@pytest.fixture
def images() -> torch.Tensor:
    """Three 16 x 16 images in [-1, 1]."""
    return torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
