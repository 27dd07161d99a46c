"""What ``experiments/serving.py`` measures: every request once, on a clock that only computing moves."""

import json
import sys

import numpy as np
import pytest

from experiments import serving


class OneASecond:
    """An engine whose pictures take three steps, on a stopwatch on which every step takes a second."""

    def __init__(self, slots: int, static: bool = False) -> None:
        self.slots, self.static, self.stages, self.jobs, self.now = slots, static, 3, [], 0.0

    def admits(self, job) -> bool:
        return len(self.jobs) < self.slots and not (self.static and any(job.stage for job in self.jobs))

    def join(self, job) -> None:
        self.jobs.append(job)

    def step(self) -> list:
        self.now += 1
        moved = list(self.jobs)
        for job in moved:
            job.stage += 1
        self.jobs = [job for job in self.jobs if job.stage < 3]
        return moved


@pytest.mark.parametrize(
    ("slots", "static", "done", "batch"),
    [
        (1, False, [3, 6, 9, 103], 1.0),
        (2, True, [3, 6, 6, 103], 12 / 9),
        (2, False, [3, 4, 6, 103], 12 / 9),
    ],
)
def test_the_clock_counts_steps_and_jumps_over_what_nobody_waits_for(monkeypatch, slots, static, done, batch):
    """Arrivals at 0, 0.5, 1.5 and 100 seconds, by hand: one by one, static, continuous."""
    engine = OneASecond(slots, static)
    monkeypatch.setattr(serving.time, "perf_counter", lambda: engine.now)
    found, size = serving.simulate(engine, np.array([0.0, 0.5, 1.5, 100.0]))
    assert found.tolist() == done
    assert size == pytest.approx(batch)


def test_latency_and_throughput_are_what_their_names_say():
    found = serving.measured(np.array([2.0, 4.0, 10.0]), np.array([1.0, 2.0, 3.0]))
    assert found == {"throughput": round(3 / 9, 2), "latency_median": 2.0, "latency_95th": pytest.approx(6.5)}


def test_every_policy_is_measured_at_every_rate(tmp_path, monkeypatch):
    out = tmp_path / "serving.json"
    monkeypatch.setattr(serving, "LOADS", (1.2,))
    monkeypatch.setattr(sys, "argv", ["serving", "--requests", "3", "--repeats", "1", "--out", str(out)])
    serving.main()
    found = json.loads(out.read_text())
    assert found["settings"] == {"slots": 8, "guidance": 2.0, "loads": [1.2], "requests": 3, "seed": 0}
    assert found["machine"]["cores"] >= 1
    assert list(found["capacity"]) == ["one by one", "static", "continuous", "pyramids"]
    runs = found["runs"]
    assert [(run["policy"], run["load"]) for run in runs] == [(policy, 1.2) for policy in found["capacity"]]
    for run in runs:
        assert 0 < run["latency_median"] <= run["latency_95th"]
        assert 1 <= run["pictures_a_step"] <= (1 if run["policy"] == "one by one" else 8)
