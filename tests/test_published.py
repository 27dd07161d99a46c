"""The published table, the evaluator's output, and the file of samples that it reads."""

import json
import zipfile

import numpy as np
import pytest
import torch
from conftest import tokenizer_config, var_config, wake

from minivar import evaluation, presets, sampling
from minivar.models import GPT, VAR
from minivar.tokenizer import VQVAE

EVALUATOR = """warming up TensorFlow...
computing reference batch activations...
Inception Score: 215.8370361328125
FID: 3.9425574129223264
sFID: 6.140433703346162
Precision: 0.8265
Recall: 0.5309
"""


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    return wake(VQVAE(tokenizer_config())).eval(), wake(VAR(var_config(num_classes=4))).eval()


def drawn(path) -> np.ndarray:
    with np.load(path) as arrays:
        assert arrays.files == ["arr_0"]
        return arrays["arr_0"]


def test_samples_are_what_the_evaluator_reads(pair, tmp_path):
    path = tmp_path / "samples.npz"
    evaluation.write_samples(*pair, path, count=12, batch=5, cfg=1.5, top_k=20, progress=False)
    found = drawn(path)
    side = pair[0].config.image_size[0]
    assert (found.dtype, found.shape) == (np.uint8, (12, side, side, 3))
    assert sorted(item.name for item in tmp_path.iterdir()) == ["samples.json", "samples.npz"]
    with zipfile.ZipFile(path) as archive, archive.open("arr_0.npy") as file:  # it is read as a stream
        assert np.lib.format.read_magic(file) == (1, 0)
        assert np.lib.format.read_array_header_1_0(file) == ((12, side, side, 3), False, np.dtype(np.uint8))
    shape, pictures = evaluation.read_samples(path, [7, 0, 11])
    assert shape == found.shape
    assert np.array_equal(pictures, found[[7, 0, 11]])
    # three of each of the four classes, class by class, each batch with a seed of its own
    generator = torch.Generator().manual_seed(1)
    labels = torch.tensor([1, 2, 2, 2, 3])
    expected = sampling.generate(pair[1], pair[0], labels, generator, cfg=1.5, top_k=20).images
    assert np.abs(found[5:10] - expected.mul(255).permute(0, 2, 3, 1).numpy()).max() <= 0.5001


def test_with_random_labels_the_classes_are_drawn(pair, tmp_path):
    path = tmp_path / "random.npz"
    evaluation.write_samples(*pair, path, count=12, batch=5, progress=False, random_labels=True, seed=4)
    labels = torch.randint(4, (12,), generator=torch.Generator().manual_seed(4))
    assert len(labels.unique()) > 1 and labels.tolist() != sorted(labels.tolist())
    first = torch.Generator().manual_seed(4 * 1_000_003)
    expected = sampling.generate(pair[1], pair[0], labels[:5], first).images
    assert np.abs(drawn(path)[:5] - expected.mul(255).permute(0, 2, 3, 1).numpy()).max() <= 0.5001
    with pytest.raises(evaluation.ProtocolError, match=r"drawn otherwise \(labels\)"):
        evaluation.write_samples(*pair, path, count=12, batch=5, progress=False, seed=4)


def test_an_interrupted_drawing_goes_on_with_the_same_images(pair, tmp_path, monkeypatch):
    evaluation.write_samples(*pair, tmp_path / "calm.npz", count=8, batch=2, progress=False)
    real, calls = sampling.generate, []

    def draw(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr("minivar.evaluation.protocol.generate", draw)
    path = tmp_path / "stopped.npz"
    with pytest.raises(KeyboardInterrupt):
        evaluation.write_samples(*pair, path, count=8, batch=2, progress=False)
    assert not path.exists()
    evaluation.write_samples(*pair, path, count=8, batch=2, progress=False)
    assert len(calls) == 5  # two of four batches were kept
    assert np.array_equal(drawn(path), drawn(tmp_path / "calm.npz"))
    evaluation.write_samples(*pair, path, count=8, batch=2, progress=False)  # nothing to do
    assert len(calls) == 5
    with pytest.raises(evaluation.ProtocolError, match=r"drawn otherwise \(settings\)"):
        evaluation.write_samples(*pair, path, count=8, batch=2, progress=False, top_k=3)


def test_samples_can_be_resized(pair, tmp_path):
    evaluation.write_samples(*pair, tmp_path / "small.npz", count=4, batch=4, size=12, progress=False)
    assert drawn(tmp_path / "small.npz").shape == (4, 12, 12, 3)


@pytest.mark.parametrize("numbers", [{"count": 10}, {"count": 0}, {"count": 4, "batch": 0}])
def test_impossible_numbers_are_refused(pair, tmp_path, numbers):
    with pytest.raises(evaluation.ProtocolError, match="equally many of each of 4 classes"):
        evaluation.write_samples(*pair, tmp_path / "x.npz", **numbers)


def test_scores_come_from_the_run_and_from_the_evaluator(tmp_path):
    assert evaluation.scores_of(tmp_path) == {}
    (tmp_path / "scores.json").write_text(json.dumps({"preset": "var-d16", "heldout_loss": 5.5}))
    assert evaluation.scores_of(tmp_path) == {"preset": "var-d16", "heldout_loss": 5.5}
    (tmp_path / "evaluator.txt").write_text(EVALUATOR)
    scores = evaluation.scores_of(tmp_path)
    assert (scores["fid"], scores["recall"]) == (3.9425574129223264, 0.5309)
    assert (scores["inception_score"], scores["precision"]) == (215.8370361328125, 0.8265)
    (tmp_path / "evaluator.txt").write_text("FID: a lot")
    with pytest.raises(evaluation.ProtocolError, match="FID is no number: 'a lot'"):
        evaluation.scores_of(tmp_path)
    (tmp_path / "evaluator.txt").write_text("Killed")
    with pytest.raises(evaluation.ProtocolError, match="No scores"):
        evaluation.scores_of(tmp_path)
    (tmp_path / "scores.json").write_text("{")
    with pytest.raises(evaluation.ProtocolError, match="damaged"):
        evaluation.scores_of(tmp_path)


def test_a_full_run_fills_its_row_of_the_table():
    def row(text: str, name: str) -> str:
        return next(line for line in text.splitlines() if line.startswith(name))

    empty = evaluation.table({})
    assert row(empty, "VAR-d16").split() == [
        "VAR-d16",
        "256",
        "310",
        "10",
        "3.30",
        "274.4",
        "0.84",
        "0.51",
        "3.55",
        *"----",
    ]
    scores = {"fid": 3.4912, "inception_score": 281.72, "precision": 0.85, "recall": 0.5}
    filled = evaluation.table({"var-d16": scores})
    assert row(filled, "VAR-d16").split()[-4:] == ["3.49", "281.7", "0.85", "0.50"]
    others = [line for line in filled.splitlines() if not line.startswith("VAR-d16")]
    assert others == [line for line in empty.splitlines() if not line.startswith("VAR-d16")]
    mine = evaluation.table({"folder-smoke": {"parameters": 674_436, "pixels": 32, "steps": 4}})
    assert row(mine, "folder-smoke").split() == ["folder-smoke", "32", "0.7", "4", *"---------"]


def test_every_full_recipe_has_a_row_and_the_parameters_are_those_of_its_preset():
    rows = {result.preset: result for result in evaluation.RESULTS if result.preset}
    assert len(rows) == sum(bool(result.preset) for result in evaluation.RESULTS)
    assert set(evaluation.RELEASED) <= set(rows) <= set(presets.PRESETS)
    for name, result in rows.items():
        preset = presets.get(name)
        assert result.pixels == preset.tokenizer.image_size[0]
        with torch.device("meta"):
            kind = VAR if name.startswith("var") else GPT
            count = sum(parameter.numel() for parameter in kind(preset.model).parameters())
        assert result.millions == pytest.approx(count / 1e6, rel=0.035)  # the paper rounds 1.03 and 2.01 billion
