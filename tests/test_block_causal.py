"""Attention in training: three ways to leave out masked pairs, one result."""

from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from conftest import SCHEDULE, var_config, wake

from minivar.models import VAR
from minivar.models.block_causal import Prefixes, ScalePrefixes, attend, prefixes, tiles, training_mask
from minivar.scales import VAR_256, VAR_512, ScaleSchedule

CPU = torch.device("cpu")
SCHEDULES = {
    "one group": SCHEDULE,
    "digits": ScaleSchedule((1, 2, 3, 4, 5, 7)),
    "wide": ScaleSchedule(((1, 2), (2, 5), (3, 8), (5, 11), (7, 13))),
    "one scale": ScaleSchedule((5,)),
    "published": VAR_256,
}


@pytest.fixture
def flex_on_cpus():
    """Torch refuses FlexAttention's gradient on a CPU, though its plain form, which a GPU never runs, has one."""
    with patch("torch.nn.attention.flex_attention._validate_device", lambda *tensors: None):
        yield


def outcome(schedule, mask) -> list[torch.Tensor]:
    """Output and gradients of q, k, v in float64, for the same random numbers each time."""
    draw = torch.Generator().manual_seed(0)
    shape = (2, 3, schedule.num_tokens, 16)
    qkv = [torch.randn(shape, generator=draw, dtype=torch.float64).requires_grad_() for _ in range(3)]
    out = attend(*qkv, mask, scale=0.7)
    weights = torch.randn(shape, generator=draw, dtype=torch.float64)
    return [out, *torch.autograd.grad(out, qkv, weights)]


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("make", [prefixes, tiles], ids=["prefix", "flex"])
def test_output_and_gradients_are_those_of_the_dense_mask(schedule, make, flex_on_cpus):
    dense = outcome(schedule, schedule.block_causal_mask())
    for ours, theirs in zip(outcome(schedule, make(schedule, CPU)), dense, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("schedule", [VAR_256, VAR_512], ids=["256", "512"])
def test_masked_pairs_are_left_out(schedule):
    """All but those of the first small scales: each query meets the keys that it may see."""
    pairs = []
    plain = F.scaled_dot_product_attention

    def counting(q, k, v, **options):
        pairs.append(q.shape[2] * k.shape[2])
        return plain(q, k, v, **options)

    x = torch.zeros(1, 1, schedule.num_tokens, 8)
    with patch("torch.nn.functional.scaled_dot_product_attention", counting):
        attend(x, x, x, prefixes(schedule, CPU), 1.0)
    allowed = int(schedule.block_causal_mask().sum())
    assert allowed <= sum(pairs) < 1.01 * allowed < 0.7 * schedule.num_tokens**2


def test_flex_attention_may_skip_tiles():
    assert tiles(VAR_512, CPU).sparsity() > 25  # per cent of the 128 x 128 tiles


def test_gradients_of_prefixes_add_up():
    x = torch.randn(1, 2, 6, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: Prefixes.apply(x, 2, 5, 6), (x,))


def test_flex_attention_is_for_compiled_models_on_gpus(monkeypatch):
    cuda = torch.device("cuda")
    monkeypatch.setattr("minivar.models.block_causal.tiles", lambda schedule, device, prefix: "tiles")
    monkeypatch.setattr(ScaleSchedule, "block_causal_mask", lambda self, device, prefix: "dense")
    assert isinstance(training_mask(SCHEDULE, CPU), ScalePrefixes)
    assert training_mask(SCHEDULE, cuda) == training_mask(SCHEDULE, torch.device("meta")) == "dense"
    monkeypatch.setattr("torch.compiler.is_compiling", lambda: True)
    assert isinstance(training_mask(SCHEDULE, CPU), ScalePrefixes)
    assert training_mask(SCHEDULE, cuda) == "tiles"


def test_a_compiled_model_with_flex_attention_is_one_graph(flex_on_cpus):
    """What a GPU compiles, traced here: logits and gradients are those of the plain model."""
    model = wake(VAR(var_config(schedule=SCHEDULES["digits"])))
    labels, inputs = torch.tensor([0, 3]), torch.randn(2, 103, 4)

    def gradients(run):
        model.zero_grad()
        logits = run(labels, inputs)
        logits.square().mean().backward()
        return [logits.detach(), *[p.grad.clone() for p in model.parameters() if p.grad is not None]]

    expected = gradients(model)
    torch._dynamo.reset()
    with patch("minivar.models.var.training_mask", tiles):
        compiled = gradients(torch.compile(model, fullgraph=True, backend="aot_eager"))
    assert len(compiled) == len(expected) > 20
    for ours, theirs in zip(compiled, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
