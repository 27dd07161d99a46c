"""Several processes on one CPU: DDP, FSDP2, a killed rank, another number of ranks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_train import log_of

from minivar import checkpoints

pytestmark = pytest.mark.distributed
SCRIPT = Path(__file__).with_name("distributed_run.py")


def launch(out: Path, ranks: int, strategy: str = "ddp", **settings: object) -> int:
    """Run the script with this many ranks (0: without torchrun); the exit code."""
    start = [sys.executable]
    if ranks:
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    words = [f"{key}={value}" for key, value in settings.items()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [*start, str(SCRIPT), str(out), strategy, *words]
    return subprocess.run(command, env=environment, capture_output=True, timeout=300, check=False).returncode


def losses(out: Path) -> list[float]:
    return [entry["loss"] for entry in log_of(out)]


def heldout_losses(out: Path) -> list[float]:
    return [entry["validation_loss"] for entry in log_of(out) if "validation_loss" in entry]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """A run of one process."""
    out = tmp_path_factory.mktemp("alone")
    assert launch(out, 0) == 0
    return out


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_ranks_do_what_one_does(alone, tmp_path, strategy):
    assert launch(tmp_path, 2, strategy) == 0
    assert len(losses(alone)) == 6
    assert losses(tmp_path) == pytest.approx(losses(alone), rel=1e-5)
    assert len(heldout_losses(alone)) == 3
    assert heldout_losses(tmp_path) == pytest.approx(heldout_losses(alone), rel=1e-5)
    assert (tmp_path / "var.png").is_file() == (strategy == "ddp")  # shards draw no pictures
    models = [checkpoints.load(out / "var.safetensors", "VAR")[0].state_dict() for out in (alone, tmp_path)]
    for key, value in models[0].items():
        torch.testing.assert_close(models[1][key], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("ranks", "strategy"), [(0, "ddp"), (2, "fsdp")])
def test_accumulated_parts_do_what_the_whole_batch_does(alone, tmp_path, ranks, strategy):
    assert launch(tmp_path, ranks, strategy, accumulate=2) == 0
    assert losses(tmp_path) == pytest.approx(losses(alone), rel=1e-5)


def test_as_many_parts_as_the_ranks_of_the_moment_need(alone, tmp_path):
    """Sixteen images, of which a rank may hold three at a time: two ranks take four parts, one takes eight."""
    out = tmp_path / "run"
    assert launch(out, 2, "fsdp", images_at_a_time=3, kill_at=6) != 0
    assert launch(out, 0, "ddp", images_at_a_time=3) == 0
    assert losses(out) == pytest.approx(losses(alone), rel=1e-5)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_rank_that_is_killed_costs_nothing_but_time(alone, tmp_path, strategy):
    out = tmp_path / "run"
    assert launch(out, 2, strategy, kill_at=6) != 0  # between the states after 4 and 8 steps
    assert 1 <= len(losses(out)) < 6
    assert launch(out, 2, strategy, kill_at=6) == 0
    assert losses(out) == pytest.approx(losses(alone), rel=1e-5)


@pytest.mark.parametrize(("strategy", "ranks"), [("ddp", 0), ("fsdp", 0), ("fsdp", 4)])
def test_two_ranks_begin_and_others_go_on(alone, tmp_path, strategy, ranks):
    out = tmp_path / "run"
    assert launch(out, 2, strategy, kill_at=6) != 0
    assert launch(out, ranks, strategy) == 0
    assert losses(out) == pytest.approx(losses(alone), rel=1e-5)
    finished = (out / "metrics.jsonl").read_bytes()
    assert launch(out, 0) == 0  # finds the newer state, not the older one of two ranks, and has nothing to do
    assert (out / "metrics.jsonl").read_bytes() == finished


def test_averaged_and_best_weights_are_the_same_sharded_or_not(tmp_path):
    weights, best = [], []
    for name, ranks in (("one", 0), ("two", 2)):
        assert launch(tmp_path / name, ranks, "fsdp", ema=0.8, keep_best="true") == 0
        kept, header = checkpoints.load(tmp_path / name / "var.best.safetensors", "VAR")
        assert header["trained"]["validation_loss"] == min(heldout_losses(tmp_path / name))
        best.append(kept.state_dict())
        model, header = checkpoints.load(tmp_path / name / "var.safetensors", "VAR")
        assert header["trained"]["ema"] == 0.8
        weights.append(model.state_dict())
    for one, other in (weights, best):
        for key, value in one.items():
            torch.testing.assert_close(other[key], value, rtol=1e-3, atol=1e-5)
