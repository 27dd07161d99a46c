"""One by one, static or continuous batching: throughput and latency of the shipped raster model, with VAR beside it.

python -m experiments.serving            # on an idle machine, about twenty minutes -> data/results/serving.json
python -m experiments.serving --requests 20 --repeats 1 --out smoke.json      # whether it runs

Requests for one picture each come at random, by a Poisson process, at rates around what the model can do. The
computing is real, the waiting is not: a clock goes on by what every step takes when it is measured, and jumps to the
next arrival when there is nothing to draw, so that all policies meet the same arrivals and nobody sleeps. A request's
latency is the time from its arrival to its last token on that clock; pixels are not counted.

Policies, all by the same code (``minivar.serving``): *one by one*, a batch of one; *static*, a batch of whoever
waits, up to ``SLOTS``, which nobody joins before all are done; *continuous*, a batch that is joined between two
tokens; *pyramids*, whole pyramids of VAR, of equal parameters and trained on the same images, which are static
batches of four steps. All pictures of a raster model have the same number of tokens, so that a static batch
has no ragged end, as one of texts has, where the shortest answer waits for the longest. What continuous batching wins
here is that who just missed a batch need not wait for it, and that batches are full sooner.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from minivar import checkpoints, data, files, sampling
from minivar.cli.shared import check_number
from minivar.machine import describe_machine
from minivar.serving import ContinuousBatch, Engine, Job, PyramidBatch

RESULTS = data.DATA_ROOT / "results" / "serving.json"
SLOTS = 8
SEED = 0
# Arrivals a second, as shares of what a batch that is always full draws a second. Above 1 nobody could keep up, and
# what is measured is how a queue grows.
LOADS = (0.1, 0.25, 0.5, 0.75, 0.9, 1.2)
GUIDANCE = 2.0  # LlamaGen's convention; VAR's cfg is one less. Two rows a picture, as published samples are drawn


def policies() -> dict[str, Callable[[], Engine]]:
    """Engines by name, each with a batch of its own; two of one model share its weights."""
    folder = data.DATA_ROOT / "checkpoints"
    _, gpt, _ = checkpoints.load_pair(folder / "duel-llamagen")
    tokenizer, var, _ = checkpoints.load_pair(folder / "duel-var")
    gpt, var = sampling.packed(gpt), sampling.packed(var)
    return {
        "one by one": lambda: ContinuousBatch(gpt, None, slots=1),
        "static": lambda: ContinuousBatch(gpt, None, SLOTS, static=True),
        "continuous": lambda: ContinuousBatch(gpt, None, SLOTS),
        "pyramids": lambda: PyramidBatch(var, tokenizer, SLOTS),
    }


def request(engine: Engine, seed: int) -> Job:
    """A picture of one class or another."""
    if isinstance(engine, PyramidBatch):
        return Job(seed % 10, seed, sampling.SamplingConfig(GUIDANCE - 1, 0, 0.0))
    return Job(seed % 10, seed, sampling.RasterSamplingConfig(GUIDANCE))


def simulate(engine: Engine, arrivals: np.ndarray) -> tuple[np.ndarray, float]:
    """Serve requests that come at these seconds: the second at which each is done, and the mean batch of a step."""
    jobs = [request(engine, seed) for seed in range(len(arrivals))]
    number = {job: i for i, job in enumerate(jobs)}
    done, clock, came, sizes, waiting = np.full(len(jobs), np.nan), 0.0, 0, [], []
    while np.isnan(done).any():
        if not engine.jobs and not waiting:
            clock = max(clock, arrivals[came])  # nobody is there: on to the next
        while came < len(jobs) and arrivals[came] <= clock:
            waiting.append(jobs[came])
            came += 1
        started = time.perf_counter()
        while waiting and engine.admits(waiting[0]):
            engine.join(waiting.pop(0))
        sizes.append(len(engine.jobs))
        moved = engine.step()
        clock += time.perf_counter() - started
        for job in moved:
            if job.stage == engine.stages:
                done[number[job]] = clock
    return done, float(np.mean(sizes))


def capacity(engine: Engine, requests: int) -> float:
    """Pictures a second where everybody is there from the beginning."""
    done, _ = simulate(engine, np.zeros(requests))
    return requests / float(done.max())


def measured(done: np.ndarray, arrivals: np.ndarray) -> dict[str, float]:
    """Pictures a second from the first arrival to the last token, and seconds from arrival to last token."""
    median, late = np.quantile(done - arrivals, [0.5, 0.95])
    return {
        "throughput": round(float(len(done) / (done.max() - arrivals[0])), 2),
        "latency_median": round(float(median), 5),
        "latency_95th": round(float(late), 5),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=400, help="of each policy at each rate (default: 400)")
    parser.add_argument("--repeats", type=int, default=3, help="with other arrivals (default: 3)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="(default: data/results/serving.json)")
    args = parser.parse_args()
    check_number("--requests", args.requests, 2, 1_000_000)
    machine, engines = describe_machine(torch.device("cpu")), policies()
    for make in engines.values():  # what is done once: memory, and oneDNN's kernels for every size of batch
        simulate(make(), np.linspace(0, 0.5, 2 * SLOTS))
    most = {name: capacity(make(), max(args.requests // 4, SLOTS)) for name, make in engines.items()}
    print({name: f"{value:.1f} pictures a second" for name, value in most.items()}, flush=True)
    runs = []
    for load in LOADS:
        rate = load * most["continuous"]
        for repeat in range(args.repeats):
            generator = np.random.default_rng([SEED, repeat])
            arrivals = generator.exponential(1 / rate, args.requests).cumsum()
            for name, make in engines.items():  # in turn: what the machine does meanwhile happens to all
                done, size = simulate(make(), arrivals)
                runs.append({"policy": name, "load": load, "rate": round(float(rate), 3), "repeat": repeat})
                runs[-1] |= {**measured(done, arrivals), "pictures_a_step": round(size, 2)}
                print(runs[-1], flush=True)
    settings = {"slots": SLOTS, "guidance": GUIDANCE, "loads": LOADS, "requests": args.requests, "seed": SEED}
    found = {"machine": machine, "settings": settings, "capacity": most, "runs": runs}
    files.write_atomically(args.out, lambda path: path.write_text(json.dumps(found, indent=1) + "\n"))


if __name__ == "__main__":
    main()
