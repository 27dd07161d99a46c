"""Worker processes that read ahead: the same pictures, losses and complaints as without, whatever happens to them."""

import contextlib
import dataclasses
import itertools
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import processes
import pytest
import torch
from conftest import tokenizer_config, var_config, wake
from test_folders import scene
from test_train import log_of

from minivar import cli, data, training
from minivar.data import DataError, Feed, FolderSet, default_workers, view_of
from minivar.distributed import Ranks, cores_per_rank, join_ranks
from minivar.models import VAR
from minivar.tokenizer import VQVAE, write_cache
from minivar.training.batches import Batches

TINY = training.TrainConfig(epochs=2, batch_size=8, base_lr=0.02, clip=1.0, log_every=1, checkpoint_every=4)
CUDA = torch.device("cuda")


def make_folder(root: Path, broken: tuple[int, ...] = ()) -> Path:
    """Two classes of twelve pictures each, of which some cannot be read."""
    for number in range(24):
        path = root / "ab"[number // 12] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number in broken:
            path.write_text("not a picture")
        else:
            scene(20 + number, 30, number).save(path)
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("folder") / "train")


@pytest.fixture(scope="module")
def damaged(tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("damaged") / "train", broken=(3, 4, 17))


def grey(root: Path, **options) -> FolderSet:
    return FolderSet(root, 16, 1, crop="random", **{"max_unreadable": 0.5, **options})


def asked_of(dataset, size: int = 5, epochs: int = 2) -> list:
    """Batches of all images in some order, epoch after epoch."""
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))
    return [(index, view_of(index, epoch, dataset.views)) for epoch in range(epochs) for index in order.split(size)]


def worker_pids(feed: Feed) -> list[int]:
    return [worker.pid for worker in feed._loader._iterator._workers]


# The same pictures ------------------------------------------------------------------------------------------------


def test_bytes_become_the_floats_they_always_were():
    values = torch.arange(256, dtype=torch.uint8)
    expected = np.arange(256, dtype=np.float32) / np.float32(127.5) - np.float32(1)
    assert np.array_equal(data.to_float(values).numpy(), expected)
    assert torch.equal(data.to_uint8(data.to_float(values)), values)
    assert data.to_float(values).dtype == torch.float32
    # what torch would make of it on a GPU if it divided by a number: other floats
    assert not np.array_equal(np.arange(256, dtype=np.float32) * np.float32(1 / 127.5) - np.float32(1), expected)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["folder", "digits"])
def test_what_is_fed_is_what_the_dataset_shows(folder, kind, workers):
    dataset = grey(folder) if kind == "folder" else data.load("digits", "validation")
    images, labels = dataset.pixels(torch.arange(3), 0)
    assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
    asked = asked_of(dataset, len(dataset) // 5)
    with contextlib.closing(Feed(dataset, asked, workers)) as feed:
        found = list(feed)
    assert len(found) == len(asked)
    for (index, view), (number, images, labels) in zip(asked, found):
        assert torch.equal(number, index)
        assert images.dtype == torch.float32
        for one, other in zip((images, labels), dataset.at_view(index, view)):
            assert torch.equal(one, other)


def test_a_feed_begins_anew_and_is_the_dataset_itself_once_closed(folder):
    dataset = grey(folder)
    asked = [(index, view_of(index, 7, None)) for index in torch.arange(9).split(4)]
    feed = Feed(dataset, asked, workers=1)
    for _ in range(2):
        for index, _ in asked:
            assert torch.equal(feed.batch(index, 7)[0], dataset.batch(index, 7)[0])
    with pytest.raises(DataError, match=r"The images \[0, 1, 2, 3\] were read ahead; got a request for \[5\]"):
        feed.batch(torch.tensor([5]), 7)
    pids = worker_pids(feed)
    feed.close()
    assert torch.equal(feed.batch(torch.tensor([5]), 7)[0], dataset.batch(torch.tensor([5]), 7)[0])
    assert not any(map(alive, pids))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_workers_leave_the_random_numbers_of_training_alone(folder):
    def states() -> tuple:
        return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()

    dataset, before = grey(folder), states()
    with contextlib.closing(Feed(dataset, asked_of(dataset), workers=2)) as feed:
        assert len(list(feed)) == 10
    assert states() == before


# How many ---------------------------------------------------------------------------------------------------------


def test_the_number_of_workers_follows_from_the_cores_of_a_rank(folder, monkeypatch):
    dataset, digits = grey(folder), data.load("digits", "validation")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(24)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert cores_per_rank() == 24
    assert default_workers(dataset, CUDA) == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert default_workers(dataset, CUDA) == 2
    assert default_workers(digits, CUDA) == default_workers(dataset, torch.device("cpu")) == 0
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "32")
    assert (cores_per_rank(), default_workers(dataset, CUDA)) == (1, 0)
    with pytest.raises(DataError, match="a number of workers of at least 0; got -1"):
        Feed(dataset, [], workers=-1)


def test_a_rank_asks_for_its_own_images_from_the_step_it_is_at(folder):
    dataset, config = grey(folder), dataclasses.replace(TINY, accumulate=2)
    ranks = [Batches(dataset, config, Ranks(rank=rank, count=2)) for rank in range(2)]
    asked = [list(batches) for batches in ranks]
    assert [len(each) for each in asked] == [12, 12]  # six steps in two parts
    for step in range(6):
        parts = [index for each in asked for index, _ in each[2 * step : 2 * step + 2]]
        assert torch.cat(parts).sort().values.equal(ranks[0].whole(step).sort().values)
        assert all(view.eq(step // 3).all() for each in asked for _, view in each[2 * step : 2 * step + 2])
    ranks[1].first = 4
    for (one, _), (other, _) in zip(ranks[1], asked[1][8:], strict=True):
        assert torch.equal(one, other)


# Training ---------------------------------------------------------------------------------------------------------


def tokenizer_task(root: Path):
    torch.manual_seed(0)
    return training.TokenizerTask(VQVAE(tokenizer_config()), grey(root), validation=heldout(root))


def var_task(root: Path, kind=training.VARTask, dropout: float = 0.2):
    """Drops paths and labels by the global random numbers."""
    torch.manual_seed(0)
    model = VAR(var_config(drop_path=dropout, label_dropout=dropout, gamma_init=0.1))
    return kind(model, wake(VQVAE(tokenizer_config())), grey(root), validation=heldout(root))


def heldout(root: Path) -> FolderSet:
    return FolderSet(root, 16, 1, max_unreadable=0.5)


@pytest.mark.parametrize("make", [tokenizer_task, var_task])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_losses_do_not_depend_on_the_workers(damaged, tmp_path, make, accumulate):
    config = dataclasses.replace(TINY, accumulate=accumulate)
    for workers in (0, 2):
        task = make(damaged)
        training.fit(task, config, tmp_path / str(workers), progress=False, workers=workers)
    alone, helped = (log_of(tmp_path / name) for name in ("0", "2"))
    assert len({entry["loss"] for entry in alone}) == 6
    assert "validation_loss" in alone[-1]
    assert helped == alone
    # found in the workers, told as if they had been found here
    assert sorted(task.data.unreadable) == ["a/03.png", "a/04.png", "b/17.png"]
    assert sorted(task.validation.unreadable) == sorted(task.data.unreadable)
    listed = [(tmp_path / name / "unreadable.txt").read_text() for name in ("0", "2")]
    assert listed[0] == listed[1] == "".join(f"{n}\tnot a picture\n" for n in sorted(task.data.unreadable))


def test_too_many_unreadable_images_stop_a_run_with_workers(damaged, tmp_path):
    task = tokenizer_task(damaged)
    task.data = grey(damaged, max_unreadable=0.05)
    with pytest.raises(
        DataError, match=r"[23] of the 24 images in .* cannot be read \(.*expected at most 1"
    ) as caught:
        training.fit(task, TINY, tmp_path, progress=False, workers=2)
    assert "\n" not in str(caught.value)
    assert len(log_of(tmp_path)) < 3  # within the first epoch


def train_and_be_killed(folder: Path, out: Path) -> None:
    class Killed(training.VARTask):
        def after_step(self, step):
            if step == 4:  # of three an epoch
                pids = [pid for part in (self.encoded, self.heldout_encoded) for pid in worker_pids(part.source)]
                (out / "pids.txt").write_text(" ".join(map(str, pids)))
                os.kill(os.getpid(), signal.SIGKILL)

    training.fit(var_task(folder, Killed), TINY, out, progress=False, workers=2)


@pytest.mark.slow
def test_a_run_killed_inside_an_epoch_goes_on_bit_for_bit_with_other_workers(folder, tmp_path):
    training.fit(var_task(folder), TINY, tmp_path / "whole", progress=False, workers=0)
    said = tmp_path / "said"
    assert processes.run(train_and_be_killed, folder, tmp_path / "parts", said=said) == -signal.SIGKILL, (
        said.read_text()
    )
    assert [entry["step"] for entry in log_of(tmp_path / "parts")] == [1, 2, 3, 4]
    told = training.fit(var_task(folder), TINY, tmp_path / "parts", progress=False, workers=1)
    assert told["resumed_at"] == 4
    assert log_of(tmp_path / "parts") == log_of(tmp_path / "whole")
    pids = list(map(int, (tmp_path / "parts" / "pids.txt").read_text().split()))
    assert len(pids) == 4
    for _ in range(100):  # nobody is there any more whom they could read for
        if not any(map(alive, pids)):
            break
        time.sleep(0.1)
    assert not any(map(alive, pids))


def train_as_rank(folder: Path, out: Path) -> None:
    with join_ranks("cpu", "ddp") as ranks:
        training.fit(var_task(folder, dropout=0.0), TINY, out, progress=False, ranks=ranks, workers=1)


@pytest.mark.distributed
def test_two_ranks_with_a_worker_each_do_what_one_process_does(damaged, tmp_path):
    training.fit(var_task(damaged, dropout=0.0), TINY, tmp_path / "one", progress=False)
    said = tmp_path / "said"
    assert processes.run_ranks(2, train_as_rank, damaged, tmp_path / "two", said=said) == [0, 0]
    one, two = ([entry["loss"] for entry in log_of(tmp_path / name)] for name in ("one", "two"))
    assert len(two) == 6
    assert two == pytest.approx(one, rel=1e-5)
    listed = [(tmp_path / name / "unreadable.txt").read_text() for name in ("one", "two")]
    assert listed[0] == listed[1]  # each rank met some of them, in its worker


def test_a_worker_that_is_killed_is_an_error_and_not_a_hang(folder):
    dataset = grey(folder)
    feed = Feed(dataset, itertools.cycle(asked_of(dataset)), workers=2)
    batches = iter(feed)
    next(batches)
    victim, other = worker_pids(feed)
    os.kill(victim, signal.SIGKILL)
    expected = rf"A process that reads images ahead has died \((.*{victim}.*|it answers no more)\): expected"
    with pytest.raises(DataError, match=expected) as caught:
        for _ in range(1000):
            next(batches)
    assert "\n" not in str(caught.value)
    feed.close()  # ends the other, although the traceback of the error is still held
    assert not alive(other)


def test_workers_leave_it_to_the_training_when_to_stop(folder):
    dataset = grey(folder)
    asked = asked_of(dataset)
    with contextlib.closing(Feed(dataset, asked, workers=2)) as feed:
        batches = iter(feed)
        next(batches), next(batches)  # one from each worker: both have begun
        for pid, number in itertools.product(worker_pids(feed), (signal.SIGUSR1, signal.SIGTERM)):
            os.kill(pid, number)
        assert len(list(batches)) == len(asked) - 2


# Caches and commands ----------------------------------------------------------------------------------------------


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_a_cache_does_not_depend_on_the_workers(damaged, tmp_path):
    tokenizer = wake(VQVAE(tokenizer_config()))
    for workers in (0, 2):
        options = {"views": 3, "shard_size": 10, "batch_size": 7, "progress": False, "workers": workers}
        assert write_cache(tokenizer, grey(damaged), tmp_path / str(workers), **options)
    assert contents(tmp_path / "0") == contents(tmp_path / "2")
    assert b"b/17.png" in (tmp_path / "2" / "shard-00001.json").read_bytes()


@pytest.mark.slow
def test_the_commands_take_a_number_of_workers(folder, tmp_path, capsys):
    train = ["train", "--preset", "folder-smoke", "--data", str(folder.parent), "--out", str(tmp_path / "run")]
    train += ["--stage", "tokenizer", "--set", "tokenizer_train.batch_size=12", "--set", "tokenizer_train.epochs=1"]
    assert cli.main([*train, "--workers", "1"]) == 0
    tokenize = ["tokenize", "--checkpoint", str(tmp_path / "run"), "--data", str(folder.parent), "--crop", "ten"]
    for workers in ("0", "1"):
        assert cli.main([*tokenize, "--out", str(tmp_path / workers), "--workers", workers]) == 0
    assert contents(tmp_path / "0") == contents(tmp_path / "1")
    capsys.readouterr()
    assert cli.main([*tokenize, "--out", str(tmp_path / "more"), "--workers", "-2"]) == 2
    assert capsys.readouterr().err == "minivar: Expected a number of workers of at least 0; got -2.\n"
