"""Grids to grids by products with matrices: the same as torch's interpolation, wherever it is done."""

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from minivar.scales import VAR_256, ScaleSchedule
from minivar.tokenizer import resizing

SCHEDULES = {
    "published": VAR_256,
    "digits": ScaleSchedule((1, 2, 3, 4)),
    "oblong": ScaleSchedule(((1, 1), (2, 3), (4, 7))),
}


@pytest.fixture(autouse=True)
def without_matrices(monkeypatch):
    monkeypatch.setattr(resizing, "_MATRICES", {})


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_ways_are_those_of_interpolation(schedule, dtype):
    generator, final = torch.Generator().manual_seed(0), schedule.final_grid
    whole = torch.randn(2, 5, *final, generator=generator, dtype=dtype, requires_grad=True)
    for grid in schedule.grids[:-1]:
        coarse = torch.randn(2, 5, *grid, generator=generator, dtype=dtype, requires_grad=True)
        for given, found, mode in (
            (coarse, resizing.enlarged(coarse, final), "bicubic"),
            (whole, resizing.averaged(whole, grid), "area"),
        ):
            expected = F.interpolate(given, size=found.shape[2:], mode=mode)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
            weights = torch.randn(found.shape, generator=generator, dtype=dtype)
            gradients = (torch.autograd.grad((x * weights).sum(), given)[0] for x in (found, expected))
            torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)
    assert len(resizing._MATRICES) == 2 * (schedule.num_scales - 1)


def test_features_keep_their_precision_under_autocast():
    maps = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = resizing.enlarged(maps, (8, 8))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, F.interpolate(maps, size=(8, 8), mode="bicubic"), rtol=1e-5, atol=1e-5)


def test_matrices_that_are_kept_have_numbers_and_may_be_trained_through():
    maps = torch.ones(1, 1, 2, 2)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert resizing.enlarged(maps, (4, 4)).shape == (1, 1, 4, 4)
    with torch.device("meta"):
        assert resizing.enlarged(torch.ones(1, 1, 2, 2), (4, 4)).is_meta
    assert not resizing._MATRICES
    with torch.inference_mode():
        resizing.enlarged(torch.ones(1, 1, 2, 2), (4, 4))
    maps.requires_grad_(True)
    resizing.enlarged(maps, (4, 4)).sum().backward()
    assert maps.grad.sum().item() == pytest.approx(16, rel=1e-5)


def test_a_compiled_model_traces_through_interpolation():
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph.print_readable(print_output=False))
        return graph.forward

    found = torch.compile(resizing.averaged, backend=backend, fullgraph=True)(torch.ones(1, 1, 4, 4), (2, 2))
    assert found.tolist() == [[[[1.0, 1.0], [1.0, 1.0]]]]
    assert len(graphs) == 1 and "interpolate" in graphs[0]
