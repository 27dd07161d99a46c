"""The ImageNet chapter under papermill, as a full run calls it: into a folder, and once more into the same one.

By two processes first, and by one. The rehearsals, such as the run that is stopped and resumed, are cells that nbval
executes.
"""

import json
from pathlib import Path

import numpy as np
import papermill
import pytest

from minivar import checkpoints, files, training
from minivar.tokenizer import caches

pytestmark = pytest.mark.slow
NOTEBOOK = Path(__file__).resolve().parent.parent / "notebooks" / "13_imagenet.ipynb"
TINY = {
    "tokenizer_train.epochs": 2,
    "tokenizer_train.log_every": 2,
    "tokenizer_train.checkpoint_every": 4,
    "model_train.epochs": 2,
    "model_train.log_every": 2,
    "model_train.checkpoint_every": 4,
}
SMALL = {"overrides": TINY, "images_per_class": 32, "num_samples": 18, "sample_batch": 5, "rehearse": False}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """The kernel named python3 is that of the environment in use (as in the Makefile), one thread is enough."""
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def execute(out: Path, tmp_path: Path, **parameters: object) -> str:
    """Run the notebook; what it printed."""
    done = papermill.execute_notebook(
        NOTEBOOK,
        tmp_path / "executed.ipynb",
        {**SMALL, "out": str(out), **parameters},
        cwd=str(NOTEBOOK.parent),
        progress_bar=False,
    )
    printed = [output.text for cell in done.cells for output in cell.get("outputs", ()) if "text" in output]
    return "".join(printed)


def written_at(out: Path) -> dict[str, int]:
    """When each file that takes a training or a tokenising to make was last written."""
    return {path.name: path.stat().st_mtime_ns for path in (*out.glob("*.safetensors"), *out.glob("tokens/shard-*"))}


def steps_and_losses(out: Path) -> list[tuple]:
    return [(entry["phase"], entry["step"], entry["loss"]) for entry in training.read_log(out / "metrics.jsonl")]


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> tuple[Path, str]:
    """The folder of a run of two processes, which share the transformer, and what the page printed."""
    place = tmp_path_factory.mktemp("first")
    return place / "run", execute(place / "run", place, processes=2, strategy="fsdp")


@pytest.mark.distributed
def test_two_processes_leave_everything(first):
    out, printed = first
    assert "arr_0: uint8 (18, 32, 32, 3)" in printed
    assert (out / "var.state" / "latest.json").is_file()  # sharded
    tokenizer, model, header = checkpoints.load_pair(out)
    assert header["preset"] == "folder-smoke"
    cache = caches.TokenCache(out / "tokens")
    cache.check(tokenizer, model.config)
    assert (len(cache), cache.views, len(cache.unreadable)) == (9 * 32 + 2, 2, 2)
    assert len((out / "unreadable.txt").read_text().splitlines()) == 2
    log = steps_and_losses(out)
    assert [entry[:2] for entry in log if entry[0] == "tokenizer"][-1] == ("tokenizer", 12)
    assert [entry[:2] for entry in log if entry[0] == "var"][-1] == ("var", 12)
    with np.load(out / "samples.npz") as arrays:
        samples = arrays["arr_0"]
    assert (samples.dtype, samples.shape) == (np.uint8, (18, 32, 32, 3))
    scores = json.loads((out / "scores.json").read_text())
    assert scores["preset"] == "folder-smoke" and 0 < scores["heldout_loss"] < 6
    assert not {"fid", "inception_score", "precision", "recall"} & scores.keys()


def test_the_same_call_finds_it_on_one_process_too(first, tmp_path):
    out, _ = first
    log, written, scores = steps_and_losses(out), written_at(out), json.loads((out / "scores.json").read_text())
    assert len(written) > 3
    (out / "evaluator.txt").write_text("FID: 12.5\nInception Score: 3.25\nPrecision: 0.5\nRecall: 0.25\n")
    printed = execute(out, tmp_path)
    assert steps_and_losses(out) == log
    assert written_at(out) == written  # found, not made again
    row = next(line for line in printed.splitlines() if line.startswith("folder-smoke  "))
    assert row.split()[-4:] == ["12.50", "3.2", "0.50", "0.25"]
    after = json.loads((out / "scores.json").read_text())
    assert after["fid"] == 12.5 and {key: after[key] for key in scores} == scores


def test_a_tokenizer_of_another_run_is_taken_as_it_is(first, tmp_path):
    out = tmp_path / "run"
    execute(out, tmp_path, tokenizer_from=str(first[0]))
    taken, given = (checkpoints.load(folder / "tokenizer.safetensors", "VQVAE")[0] for folder in (out, first[0]))
    assert files.weights_fingerprint(taken) == files.weights_fingerprint(given)
    assert {entry[0] for entry in steps_and_losses(out)} == {"var"}
    assert steps_and_losses(out)[-1][:2] == ("var", 12)
