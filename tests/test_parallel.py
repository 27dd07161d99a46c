"""What DDP and FSDP hold of gradients: the planner's account of it, on groups of ranks inside this one process."""

import pytest
import torch.distributed as dist
from conftest import var_config

from minivar.analysis import memory
from minivar.analysis.live_bytes import LiveBytes
from minivar.distributed import Ranks
from minivar.models import VAR
from minivar.training import parallel

CONFIG = var_config(depth=4, width=64, label_dropout=0.0, drop_path=0.0)


@pytest.fixture
def alone():
    """A group of one rank, which needs no other process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield Ranks(count=1, strategy="ddp")
    dist.destroy_process_group()


@pytest.fixture
def four():
    """A group of four ranks, of which there is one: what the others send is made up, its size is not."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
    yield Ranks(count=4, strategy="fsdp")
    dist.destroy_process_group()


def backward(wrapped, model: VAR, last: bool) -> None:
    labels, inputs, _ = memory.teacher_forced_inputs(model.config, 2)
    with parallel.hold_gradients(wrapped, last):
        wrapped(labels, inputs).square().mean().backward()


def storages(model: VAR) -> set[int]:
    return {parameter.grad.untyped_storage().data_ptr() for parameter in model.parameters()}


def test_ddps_gradients_lie_in_its_buckets(alone):
    model = VAR(CONFIG)
    wrapped = parallel.wrap(model, alone)
    count = len(list(model.parameters()))
    for _ in range(2):
        model.zero_grad(set_to_none=True)
        backward(wrapped, model, last=True)
        assert len(storages(model)) < count / 4  # views into a few buckets
    model.zero_grad(set_to_none=True)
    backward(wrapped, model, last=False)
    assert len(storages(model)) > 0.9 * count  # beside the buckets, until the last part
    backward(wrapped, model, last=True)
    assert len(storages(model)) < count / 4


def test_fsdp_holds_the_whole_gradient_of_an_accumulated_batch(four):
    model = VAR(CONFIG)
    size = 4 * sum(parameter.numel() for parameter in model.parameters())
    wrapped = parallel.wrap(model, four)
    found = {}
    for last in (True, False, True):  # the first one makes buffers that stay
        model.zero_grad(set_to_none=True)
        with LiveBytes() as live:
            backward(wrapped, model, last)
        found[last] = live.now
    assert found[False] == pytest.approx(size, rel=0.02)
    assert found[True] == pytest.approx(size / 4, rel=0.02)  # and what was held is gone
