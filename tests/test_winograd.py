"""Convolutions with fewer multiplications: the same sums, but for rounding, which is bounded."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minivar import presets
from minivar.models import products
from minivar.sampling import packed, packing, winograd
from minivar.sampling.winograd import WinogradConv
from minivar.tokenizer import VQVAE


def test_four_outputs_of_three_taps_by_six_multiplications():
    a, g, b = winograd.minimal_filtering()
    taps, inputs = torch.randn(3, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    products = (g @ taps) * (b @ inputs)
    assert products.shape == (6,)
    expected = F.conv1d(inputs[None, None], taps[None, None])[0, 0]
    torch.testing.assert_close(a @ products, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "shape",
    [(1, 4, 8, 8), (2, 3, 7, 13), (3, 8, 1, 2), (5, 4, 12, 4), (1, 6, 33, 5)],
    ids=str,
)
@pytest.mark.parametrize("memory", [1, 10_000, 2**22], ids="tiles of {} bytes".format)
def test_it_is_the_convolution(shape, memory, monkeypatch):
    """Whole tiles and cut ones; a row of tiles at a time, some rows, several images."""
    monkeypatch.setattr(winograd, "BYTES", memory)
    torch.manual_seed(0)
    conv = nn.Conv2d(shape[1], 5, 3, padding=1)
    for x in (torch.randn(shape), torch.randn(shape).to(memory_format=torch.channels_last)):
        with torch.no_grad():
            found = WinogradConv(conv)(x)
            assert found.shape == conv(x).shape
            torch.testing.assert_close(found, conv(x), rtol=0, atol=2e-5)


def rounding_error() -> float:
    """Root mean square against float64, relative to the outputs, at the width of the published tokenizer."""
    torch.manual_seed(0)
    conv = nn.Conv2d(160, 160, 3, padding=1).requires_grad_(False)
    x = torch.randn(1, 160, 24, 24)
    exact = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=1)
    return float((WinogradConv(conv)(x) - exact).square().mean().sqrt() / exact.std())


def test_its_points_round_less_than_the_customary_ones(monkeypatch):
    """1.24e-6 and 2.7e-6 on two processors, on which the direct sum's is 6.4e-7 and 2.2e-7: no measure for them."""
    ours = rounding_error()
    assert ours < 16 * torch.finfo(torch.float32).eps
    monkeypatch.setattr(winograd, "POINTS", (0.0, 1.0, -1.0, 2.0, -2.0))
    a, g, b = winograd.minimal_filtering()
    maps = {"A": a, "G": g, "B": b, "BEFORE": torch.kron(b, b).float(), "AFTER": torch.kron(a, a).float()}
    for name, value in maps.items():
        monkeypatch.setattr(winograd, name, value)
    assert 1.5 * ours < rounding_error()


def test_it_replaces_wide_convolutions_of_stride_one_in_a_packed_tokenizer():
    if not products.HAS_ONEDNN:
        pytest.skip("this torch has no oneDNN")
    with torch.device("meta"):
        tokenizer = VQVAE(presets.get("var-d16").tokenizer)
    chosen = {name for name, conv in tokenizer.named_modules() if isinstance(conv, nn.Conv2d)}
    chosen = {name for name in chosen if packing.suits_winograd(tokenizer.get_submodule(name))}
    wide = tokenizer.encoder.levels[0].blocks[0].conv1
    assert (wide.in_channels, wide.out_channels) == (160, 160)
    assert "encoder.levels.0.blocks.0.conv1" in chosen
    shapes = {tokenizer.get_submodule(name).weight.shape for name in chosen}
    assert shapes == {(160, 160, 3, 3), (320, 160, 3, 3), (160, 320, 3, 3), (320, 320, 3, 3)}


def test_a_tokenizer_without_wide_convolutions_is_left_as_it_is():
    small = VQVAE(presets.get("digits").tokenizer)
    assert [type(module) for module in packed(small).modules()] == [type(module) for module in small.modules()]
    assert all(weight.is_contiguous() for weight in packed(small).parameters())
