"""The queue in front of a model, and the thread behind it: nothing is lost, whatever fails."""

import threading
import time

import pytest
import torch
from conftest import tokenizer_config, wake
from servers import PATIENCE

from minivar.models import GPT, GPTConfig
from minivar.sampling import RasterSamplingConfig, SamplingConfig
from minivar.serving import ContinuousBatch, Full, Job, PyramidBatch, Worker
from minivar.tokenizer import VQVAE

SMALL = {"depth": 2, "width": 32, "heads": 2, "grid": (4, 4), "codebook_size": 16, "num_classes": 5}


class Listener:
    """Keeps what it is told, and lets the test wait for the ends of jobs."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, str, object]] = []
        self.news = threading.Condition()

    def __call__(self, job: Job, event: str, value: object) -> None:
        with self.news:
            self.heard.append((job.seed, event, value))
            self.news.notify()

    def ends(self, count: int) -> dict[int, tuple[str, object]]:
        """The ends of ``count`` jobs by seed."""
        ended = lambda: [each for each in self.heard if each[1] != "stage"]  # noqa: E731
        with self.news:
            assert self.news.wait_for(lambda: len(ended()) >= count, timeout=PATIENCE), (
                f"{len(ended())} of {count} ended"
            )
            return {seed: (event, value) for seed, event, value in ended()}


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def engine() -> ContinuousBatch:
    gpt = wake(GPT(GPTConfig(**SMALL)))
    return ContinuousBatch(gpt, wake(VQVAE(tokenizer_config(quantizer="single", schedule=None))), slots=3)


@pytest.fixture
def start(request):
    """Workers that are closed after the test."""

    def started(*args, **options) -> Worker:
        worker = Worker(*args, **options)
        request.addfinalizer(worker.close)
        return worker

    return started


def job(seed: int, listener, **other) -> Job:
    return Job(seed % 5, seed, **{"settings": RasterSamplingConfig(cfg=2.0), "listen": listener, **other})


def hold(engine, monkeypatch) -> threading.Event:
    """Let no step be taken before the event."""
    go, step = threading.Event(), engine.step

    def waits():
        assert go.wait(PATIENCE)
        return step()

    monkeypatch.setattr(engine, "step", waits)
    return go


def pictures(engine, seeds, listener) -> dict[int, torch.Tensor]:
    """What each of these jobs gives in a batch of its own."""
    found = {}
    for seed in seeds:
        one = job(seed, listener)
        engine.join(one)
        while engine.jobs:
            engine.step()
        found[seed] = engine.images([one])[0]
    return found


def test_every_job_ends_once_with_the_picture_of_its_seed(start, engine, listener):
    expected = pictures(engine, range(10), listener)
    worker = start(engine)
    for seed in range(10):
        worker.submit([job(seed, listener)])
    ends = listener.ends(10)
    assert len(listener.heard) == 10
    for seed, image in expected.items():
        assert ends[seed][0] == "done"
        torch.testing.assert_close(ends[seed][1], image, atol=1e-5, rtol=0)
    assert worker.status() | {"alive": True} == worker.status()
    assert (worker.status()["drawn"], worker.status()["waiting"]) == (10, 0)


def test_a_watched_picture_is_shown_at_every_stage(start, engine, listener):
    worker = start(engine)
    worker.submit([job(0, listener, watched=True), job(1, listener)])
    listener.ends(2)
    assert [event for seed, event, _ in listener.heard if seed == 0] == ["stage"] * 3 + ["done"]
    assert [event for seed, event, _ in listener.heard if seed == 1] == ["done"]


def test_a_full_queue_refuses_all_of_a_request_and_takes_the_next_that_fits(start, engine, listener, monkeypatch):
    go = hold(engine, monkeypatch)
    worker = start(engine, most_waiting=5)
    worker.submit([job(seed, listener) for seed in range(3)])
    until = time.monotonic() + PATIENCE
    while worker.status()["drawing"] < 3 and time.monotonic() < until:
        time.sleep(0.001)
    worker.submit([job(seed, listener) for seed in range(3, 7)])
    with pytest.raises(Full, match="4 pictures are waiting, 2 more were asked for, and 5 may wait"):
        worker.submit([job(seed, listener) for seed in (7, 8)])
    worker.submit([job(9, listener)])
    assert worker.status()["refused"] == 2
    go.set()
    ends = listener.ends(8)
    assert sorted(ends) == [0, 1, 2, 3, 4, 5, 6, 9]
    assert {event for event, _ in ends.values()} == {"done"}


def test_who_leaves_is_not_drawn_and_the_others_are(start, engine, listener, monkeypatch):
    go = hold(engine, monkeypatch)
    worker = start(engine)
    jobs = [job(seed, listener) for seed in range(6)]
    worker.submit(jobs)
    worker.cancel([jobs[1], jobs[4]])  # one that is perhaps in the batch, one that waits
    worker.cancel([jobs[1]])
    go.set()
    ends = listener.ends(4)
    assert sorted(ends) == [0, 2, 3, 5]
    worker.close()
    assert (worker.status()["dropped"], worker.status()["drawn"]) == (2, 4)
    assert len(jobs[4].tokens) == 0 and len(jobs[1].tokens) < 16


@pytest.mark.parametrize("where", ["join", "step", "images"])
def test_who_fails_fails_alone(start, engine, listener, monkeypatch, where):
    expected = pictures(engine, range(6), listener)
    original = getattr(engine, where)

    def spoiled(*args):
        concerned = args[0] if where == "images" else [*args, *engine.jobs]
        if any(each.seed == 2 and len(each.tokens) >= (0 if where == "join" else 5) for each in concerned):
            raise RuntimeError("out of ink")
        return original(*args)

    monkeypatch.setattr(engine, where, spoiled)
    worker = start(engine)
    worker.submit([job(seed, listener) for seed in range(6)])
    ends = listener.ends(6)
    assert {seed for seed, (event, _) in ends.items() if event == "failed"} == {2}
    assert str(ends[2][1]) == "out of ink"
    for seed in (0, 1, 3, 4, 5):
        torch.testing.assert_close(ends[seed][1], expected[seed], atol=1e-5, rtol=0)
    worker.submit([job(8, listener)])
    assert listener.ends(7)[8][0] == "done"


def test_a_watched_picture_that_cannot_be_shown_leaves_the_batch(start, engine, listener, monkeypatch):
    monkeypatch.setattr(engine, "images", lambda jobs: 1 / 0)
    worker = start(engine)
    watched = job(0, listener, watched=True)
    worker.submit([watched])
    assert isinstance(listener.ends(1)[0][1], ZeroDivisionError)
    worker.close()
    assert len(watched.tokens) < 16
    assert [event for _, event, _ in listener.heard] == ["failed"]


@pytest.mark.parametrize("where", ["join", "step"])
def test_nobody_waits_for_a_worker_that_has_died(start, engine, listener, monkeypatch, where):
    monkeypatch.setattr(engine, where, lambda *_: 1 / 0)
    monkeypatch.setattr(engine, "clear", lambda: {}["gone"])
    worker = start(engine)
    worker.submit([job(seed, listener) for seed in range(5)])
    assert {event for event, _ in listener.ends(5).values()} == {"failed"}
    worker.thread.join(PATIENCE)
    assert not worker.status()["alive"]
    with pytest.raises(Full, match="is stopping"):
        worker.submit([job(5, listener)])


def test_a_listener_that_is_gone_does_not_stop_the_worker(start, engine, listener):
    def deaf(*_):
        raise RuntimeError("Event loop is closed")

    worker = start(engine)
    worker.submit([job(0, deaf), job(1, listener)])
    assert listener.ends(1)[1][0] == "done"


def test_to_close_is_to_finish_what_is_there_and_to_take_no_more(start, engine, listener):
    worker = start(engine)
    worker.submit([job(seed, listener) for seed in range(7)])
    worker.close()
    assert len(listener.ends(7)) == 7
    assert not worker.status()["alive"]
    with pytest.raises(Full, match="is stopping"):
        worker.submit([job(8, listener)])


def test_an_idle_worker_waits_for_company_and_not_for_long(start, model, tokenizer, listener, monkeypatch):
    engine, sizes = PyramidBatch(model, tokenizer, slots=3), []
    step = engine.step
    monkeypatch.setattr(engine, "step", lambda: sizes.append(len(engine.jobs)) or step())
    settings = {"settings": SamplingConfig(1.0, 0, 0.0)}
    worker = start(engine, gather=600)
    for seed in range(3):  # full: begun at once, though ten minutes have not passed
        worker.submit([job(seed, listener, **settings)])
    listener.ends(3)
    assert sizes == [3, 3, 3]
    worker.gather = 0.05
    worker.submit([job(3, listener, **settings)])
    assert listener.ends(4)[3][0] == "done"


def test_pyramids_with_other_settings_are_drawn_in_batches_of_their_own(start, model, tokenizer, listener):
    worker = start(PyramidBatch(model, tokenizer, slots=4))
    worker.submit([job(seed, listener, settings=SamplingConfig(seed % 2, 0, 0.0)) for seed in range(8)])
    assert {event for event, _ in listener.ends(8).values()} == {"done"}
