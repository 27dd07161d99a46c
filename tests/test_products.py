"""Products by oneDNN are ``F.linear`` but for rounding, forwards and backwards, and are used where they should be."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from minivar.models import products
from minivar.models.products import Linear, linear, suits_onednn

needs_onednn = pytest.mark.skipif(not products.HAS_ONEDNN, reason="this torch has no oneDNN")


def results(function, x, weight, bias, gradient):
    """Output and gradients of a product."""
    leaves = [t.clone().requires_grad_() if t is not None else None for t in (x, weight, bias)]
    out = function(*leaves)
    out.backward(gradient)
    return [out.detach(), *(leaf.grad for leaf in leaves if leaf is not None)]


@needs_onednn
@pytest.mark.parametrize("shape", [(5, 384), (2, 3, 384), (1, 384), (0, 384)], ids=str)
@pytest.mark.parametrize("with_bias", [True, False])
def test_product_and_gradients_are_those_of_pytorch(shape, with_bias):
    draw = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(s, generator=draw) for s in (shape, (512, 384), (512,)))
    # strides as attention leaves them: not in the order of memory
    gradient = torch.randn(512, *shape[:-1], generator=draw).movedim(0, -1)
    assert suits_onednn(x, weight)
    arguments = x, weight, bias if with_bias else None, gradient
    for found, wanted in zip(results(linear, *arguments), results(F.linear, *arguments), strict=True):
        assert found.shape == wanted.shape
        assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-4)


@needs_onednn
def test_only_the_gradients_that_are_wanted_are_computed():
    x, weight = torch.randn(3, 512), torch.randn(512, 512)
    for wanted in (x, weight):
        x.grad = weight.grad = None
        linear(x.requires_grad_(wanted is x), weight.requires_grad_(wanted is weight)).sum().backward()
        assert wanted.grad is not None
        assert (x.grad is None) == (wanted is not x)


@needs_onednn
def test_layers_of_transformers_use_it(monkeypatch):
    calls = []
    monkeypatch.setattr(products, "onednn_linear", lambda x, w, b=None: calls.append(w.shape) or F.linear(x, w, b))
    layer = Linear(512, 512)
    assert isinstance(layer, nn.Linear)
    layer(torch.randn(2, 512)).sum().backward()
    assert calls == [(512, 512)]  # forwards; nobody wants the gradient of the input
    layer(torch.randn(2, 512, requires_grad=True)).sum().backward()
    assert calls == [(512, 512)] * 3


def test_it_is_left_alone_where_it_does_not_suit(monkeypatch):
    x, weight = torch.randn(2, 512), torch.randn(512, 512)
    assert suits_onednn(x, weight) == products.HAS_ONEDNN
    assert not suits_onednn(x, torch.randn(4, 512))
    assert not suits_onednn(x.double(), weight.double())
    assert not suits_onednn(x, weight.bfloat16())
    assert not suits_onednn(x.to("meta"), weight.to("meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert not suits_onednn(x, weight)
    monkeypatch.setattr(products, "HAS_ONEDNN", False)
    assert not suits_onednn(x, weight)
    assert torch.equal(linear(x, weight), F.linear(x, weight))


@needs_onednn
def test_its_arithmetic_is_counted_forwards_and_backwards():
    layer, x = Linear(512, 256), torch.randn(3, 512, requires_grad=True)
    with FlopCounterMode(display=False, custom_mapping=products.FLOPS) as counter:
        layer(x).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * 3 * 512 * 256
