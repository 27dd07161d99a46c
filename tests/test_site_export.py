"""The ONNX graphs of the site's first page compute what PyTorch computes: logits within 1e-4, the same tokens."""

import gzip
import json

import numpy as np
import pytest
import torch
from uniforms import by_uniforms, drawn_with, uniforms

from docs import export_onnx
from minivar import checkpoints, sampling
from minivar.data import DATA_ROOT
from minivar.sampling.filters import filter_descending, filter_logits, guide

runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime (the extra site: make site installs it)")
pytest.importorskip("onnxscript", reason="needs onnxscript (the extra site: make site installs it)")

pytestmark = pytest.mark.slow  # exporting takes twenty seconds
GUIDANCE, TOP_P, LABELS = 1.5, 0.9, torch.tensor([3, 8])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("graphs")
    export_onnx.export(path)
    return path


def run(folder, name: str, **inputs: torch.Tensor) -> list[torch.Tensor]:
    session = runtime.InferenceSession(folder / f"{name}.onnx", providers=["CPUExecutionProvider"])
    return [torch.from_numpy(out) for out in session.run(None, {k: v.detach().numpy() for k, v in inputs.items()})]


def both(labels: torch.Tensor) -> torch.Tensor:
    """The labels, and the null class as often."""
    return torch.cat([labels, torch.full_like(labels, 10)])


def test_var_agrees_scale_by_scale(folder):
    tokenizer, model, _ = checkpoints.load_pair(DATA_ROOT / "checkpoints" / export_onnx.SCALES)
    quantizer, schedule = tokenizer.quantizer, model.schedule
    numbers = uniforms(schedule.num_tokens, len(LABELS))
    wanted = drawn_with(numbers, lambda: sampling.sample(model, tokenizer, LABELS, GUIDANCE, 0, TOP_P))
    tokens, inputs = [], torch.zeros(2, 1, model.config.code_dim)
    f_hat, (keys, values) = 0.0, export_onnx.empty_past(model, 4)
    for k, (begin, end) in enumerate(schedule.bounds):
        given = {"labels": both(LABELS), "inputs": inputs.repeat(2, 1, 1), "positions": torch.arange(begin, end)}
        logits, keys, values = run(folder, "scales", **given, keys=keys, values=values)
        logits = guide(logits, GUIDANCE * k / (schedule.num_scales - 1))
        tokens.append(by_uniforms(filter_logits(logits, 0, TOP_P), numbers))
        f_hat = f_hat + quantizer.contribution(quantizer.lookup(tokens[-1]), k)
        if k + 1 < schedule.num_scales:
            inputs = quantizer.at_scale(f_hat, k + 1)
    assert torch.equal(torch.cat(tokens, 1), wanted.tokens)
    (images,) = run(folder, "scales-decoder", features=f_hat)
    assert torch.allclose(images, wanted.images, atol=1e-4)


def test_var_logits_agree_within_1e_4(folder):
    tokenizer, model, _ = checkpoints.load_pair(DATA_ROOT / "checkpoints" / export_onnx.SCALES)
    schedule = model.schedule
    tokens = [torch.randint(512, (2, count)) for count in schedule.counts]
    inputs = tokenizer.teacher_inputs(tokens)
    with torch.no_grad():
        wanted = model(LABELS, inputs)
    keys, values = export_onnx.empty_past(model, 2)
    for begin, end in schedule.bounds:
        new = inputs[:, begin - 1 : end - 1] if begin else torch.zeros(2, 1, model.config.code_dim)
        given = {"labels": LABELS, "inputs": new, "positions": torch.arange(begin, end)}
        logits, keys, values = run(folder, "scales", **given, keys=keys, values=values)
        assert (logits - wanted[:, begin:end]).abs().max() < 1e-4


def test_the_raster_model_agrees_token_by_token(folder):
    tokenizer, model, _ = checkpoints.load_pair(DATA_ROOT / "checkpoints" / export_onnx.RASTER)
    count, strength = 49, 2.0
    numbers = uniforms(count, len(LABELS))
    wanted = drawn_with(numbers, lambda: sampling.sample_raster(model, tokenizer, LABELS, cfg=strength, top_p=TOP_P))
    with torch.no_grad():
        wanted_logits = model(both(LABELS), wanted.tokens[:, :-1].repeat(2, 1))
    tokens, last = [], torch.zeros(4, dtype=torch.int64)
    keys, values = export_onnx.empty_past(model, 4)
    for n in range(count):
        given = {"labels": both(LABELS), "tokens": last, "positions": torch.full((4,), n)}
        logits, keys, values = run(folder, "raster", **given, keys=keys, values=values)
        assert (logits - wanted_logits[:, n]).abs().max() < 1e-4
        cond, uncond = logits.chunk(2)
        logits = filter_descending(uncond + strength * (cond - uncond), 0, TOP_P)
        tokens.append(by_uniforms(logits[:, None], numbers)[:, 0])
        last = tokens[-1].repeat(2)
    tokens = torch.stack(tokens, 1)
    assert torch.equal(tokens, wanted.tokens)
    *_, features = tokenizer.quantizer.accumulate([tokens])
    (images,) = run(folder, "raster-decoder", features=features)
    assert torch.allclose(images, wanted.images, atol=1e-4)


def test_what_the_loop_adds_up_is_written_exactly(folder):
    described = json.loads((folder / "tokenizer.json").read_text())
    tokenizer, model, header = checkpoints.load_pair(DATA_ROOT / "checkpoints" / export_onnx.SCALES)
    scales, quantizer = described["scales"], tokenizer.quantizer
    assert (
        scales["grids"] == [list(grid) for grid in model.schedule.grids] and scales["sampling"] == header["sampling"]
    )
    assert np.array_equal(np.float32(scales["codebook"]), quantizer.codes.detach().numpy())
    for k, phi in enumerate(scales["phis"]):
        conv = quantizer.phis[quantizer.phi_of_scale[k]].conv
        assert np.array_equal(np.float32(phi["weight"]), conv.weight.detach().numpy())
    assert [np.shape(matrix) for matrix in scales["enlarge"]] == [(n, 16) for n in (1, 4, 9, 16)]
    assert [np.shape(matrix) for matrix in scales["average"]] == [(16, n) for n in (1, 4, 9, 16)]


def test_packing_is_the_same_every_time_and_loses_nothing(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "graph.onnx").write_bytes(b"weights" * 100)
        export_onnx.packed(tmp_path / name)
    first, second = (list((tmp_path / name).iterdir()) for name in ("first", "second"))
    assert [path.name for path in first] == ["graph.onnx.gz"]
    assert first[0].read_bytes() == second[0].read_bytes()
    assert gzip.decompress(first[0].read_bytes()) == b"weights" * 100
