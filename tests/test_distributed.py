"""Several processes on one CPU: DDP, FSDP2, a killed rank, another number of ranks."""

import itertools
import shutil
from pathlib import Path

import distributed_run
import processes
import pytest
import torch
from test_train import log_of

from minivar import checkpoints

pytestmark = pytest.mark.distributed


def launch(ranks: int, *jobs: list[object]) -> int:
    """Run these jobs in a row in this many ranks (0: one process that is none); not 0 if one of them failed."""
    words = [word for job in jobs for word in (*map(str, job), "--")][:-1]
    said = Path(f"{jobs[0][0]}.said")
    if not ranks:
        return processes.run(distributed_run.main, words, said=said)
    return max(map(abs, processes.run_ranks(ranks, distributed_run.main, words, said=said)))


def losses(out: Path) -> list[float]:
    return [entry["loss"] for entry in log_of(out)]


def gradient_norms(out: Path) -> list[float]:
    """Which tell sums from averages: to Adam a gradient twice as large is the same gradient."""
    return [entry["grad_norm"] for entry in log_of(out)]


def heldout_losses(out: Path) -> list[float]:
    return [entry["validation_loss"] for entry in log_of(out) if "validation_loss" in entry]


# What is run by one process and by two, all in one go: starting Python and PyTorch takes longer than any of them.
AVERAGED = ["ema=0.8", "keep_best=true"]
JOBS = {
    "plain": [],
    "accumulated": ["accumulate=2"],
    "averaged": AVERAGED,
    "compiled": ["compile=true", "recompute=true", "ema=0.8"],
    **{name: [f"model={name}"] for name in ("raster", "maskgit", "dit")},
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """A folder of runs of one process."""
    place = tmp_path_factory.mktemp("alone")
    assert launch(0, *([place / name, "ddp", *settings] for name, settings in JOBS.items())) == 0
    return place


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> Path:
    """A folder of runs of two processes."""
    place = tmp_path_factory.mktemp("together")
    jobs = itertools.product(("ddp", "fsdp"), JOBS.items())
    assert launch(2, *([place / f"{name}-{strategy}", strategy, *more] for strategy, (name, more) in jobs)) == 0
    return place


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("model", ["raster", "maskgit", "dit"])
def test_other_models_learn_on_two_ranks(alone, together, model, strategy):
    one, two = alone / model, together / f"{model}-{strategy}"
    assert len(losses(two)) == len(losses(one)) == 6 and losses(two)[-1] < losses(two)[0]
    if model == "raster":  # what the others are asked is drawn on each rank
        assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    assert heldout_losses(two) == pytest.approx(heldout_losses(one), rel=1e-5 if model == "raster" else 0.2)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_ranks_do_what_one_does(alone, together, strategy):
    one, two = alone / "plain", together / f"plain-{strategy}"
    assert len(losses(one)) == 6
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    assert gradient_norms(two) == pytest.approx(gradient_norms(one), rel=1e-4)
    assert len(heldout_losses(one)) == 3
    assert heldout_losses(two) == pytest.approx(heldout_losses(one), rel=1e-5)
    assert (two / "var.png").is_file() == (strategy == "ddp")  # shards draw no pictures
    models = [checkpoints.load(out / "var.safetensors", "VAR")[0].state_dict() for out in (one, two)]
    for key, value in models[0].items():
        torch.testing.assert_close(models[1][key], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_accumulated_parts_do_what_the_whole_batch_does(alone, together, strategy):
    for out in (alone / "accumulated", together / f"accumulated-{strategy}"):
        assert losses(out) == pytest.approx(losses(alone / "plain"), rel=1e-5)
        assert gradient_norms(out) == pytest.approx(gradient_norms(alone / "plain"), rel=1e-4)


def test_as_many_parts_as_the_ranks_of_the_moment_need(alone, tmp_path):
    """Sixteen images, of which a rank may hold three at a time: two ranks take four parts, one takes eight."""
    out = tmp_path / "run"
    assert launch(2, [out, "fsdp", "images_at_a_time=3", "kill_at=6"]) != 0
    assert launch(0, [out, "ddp", "images_at_a_time=3"]) == 0
    assert losses(out) == pytest.approx(losses(alone / "plain"), rel=1e-5)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_averaged_and_best_weights_are_the_same_sharded_or_not(alone, together, strategy):
    weights, best = [], []
    for out in (alone / "averaged", together / f"averaged-{strategy}"):
        kept, header = checkpoints.load(out / "var.best.safetensors", "VAR")
        assert header["trained"]["validation_loss"] == min(heldout_losses(out))
        best.append(kept.state_dict())
        model, header = checkpoints.load(out / "var.safetensors", "VAR")
        assert header["trained"]["ema"] == 0.8
        weights.append(model.state_dict())
    for one, other in (weights, best):
        for key, value in one.items():
            torch.testing.assert_close(other[key], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_compilation_recomputation_and_averaging_go_together(alone, together, strategy):
    for out in (alone / "compiled", together / f"compiled-{strategy}"):
        assert losses(out) == pytest.approx(losses(alone / "plain"), rel=1e-4)
        assert gradient_norms(out) == pytest.approx(gradient_norms(alone / "plain"), rel=1e-3)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", JOBS)
def test_all_ranks_speak_to_each_other_in_the_same_order_whoever_writes(together, name, strategy):
    said = [(together / f"{name}-{strategy}.collectives.{rank}").read_text().splitlines() for rank in range(2)]
    assert said[0] == said[1]
    assert len(said[0]) > 20


@pytest.fixture(scope="module", params=["ddp", "fsdp"])
def broken(request, tmp_path_factory) -> tuple[Path, str]:
    """A run of two processes one of which was killed between the states after 4 and 8 steps, and its strategy."""
    out = tmp_path_factory.mktemp("broken") / request.param
    assert launch(2, [out, request.param, "kill_at=6"]) != 0
    assert 1 <= len(losses(out)) < 6
    return out, request.param


@pytest.mark.parametrize("ranks", [2, 0, 4])
def test_a_rank_that_is_killed_costs_nothing_but_time_and_others_may_go_on(alone, broken, tmp_path, ranks):
    first, strategy = broken
    out = tmp_path / "run"
    shutil.copytree(first, out)
    assert launch(ranks, [out, strategy]) == 0
    assert losses(out) == pytest.approx(losses(alone / "plain"), rel=1e-5)
    if ranks == 0:
        finished = (out / "metrics.jsonl").read_bytes()
        assert launch(0, [out, "ddp"]) == 0  # finds the newer state, not that of two ranks, and has nothing to do
        assert (out / "metrics.jsonl").read_bytes() == finished
