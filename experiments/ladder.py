"""The scaling ladder of chapter 11: eight transformers on quartets of digits, each image seen once.

python -m experiments.ladder train     # tokenizer, tokens, learning rates, rungs; as many of these as there are cores
python -m experiments.ladder collect   # results -> data/results/ladder.json, pictures -> data/results/ladder.npz
python -m experiments.ladder train --into runs/again    # all of it anew, whatever is shipped; and collect, likewise

The learning rate: of three rungs (2, 4 and 8) the best by the validation loss of runs of half the length, with a
tokenizer of their own, the next one outwards while the best lies at the edge; every other rung has that of the
nearest in log width. What is reported is the loss of 2,000 held-out quartets, made of digits that no run has seen,
every 100 steps; no choice is made on it. Seed 0 of every rung, the longest first, seeds 1 and 2 up to depth 5. Set
OMP_NUM_THREADS=1. All of it resumes, and what is in ladder.json is not repeated. All rungs need the same tokenizer,
whose training is not the same to the last bit on another machine: it lies beside the results, and is used again.
"""

import argparse
import dataclasses
import functools
import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from experiments.jobs import Job, Kept, all_results, minutes, of_tokenizer, what_broke, work_off, write_json
from minivar import checkpoints, data, files, models, presets, sampling, training
from minivar.analysis import complexity, memory
from minivar.data import to_uint8
from minivar.distributed import Ranks
from minivar.presets.ladder import DEPTHS
from minivar.tokenizer import TokenCache, write_cache
from minivar.training.validation import heldout_statistics

RUNS = data.DATA_ROOT.parent / "runs" / "ladder"
RESULTS = data.DATA_ROOT / "results" / "ladder.json"
PICTURES = RESULTS.with_suffix(".npz")
TOKENIZER = RESULTS.with_name("ladder-tokenizer.safetensors")
RATES, RATE_SEED, SEARCHED = (16e-3, 32e-3, 64e-3), 99, (2, 4, 8)
MORE_SEEDS = 5  # depth up to which there are three
SHOWN, GIVEN_SCALES = 10, 2  # pictures of each rung; scales that are given to the second row of them


class Here(Kept):
    """Kept among the runs of this experiment."""

    root = property(lambda self: RUNS)


@dataclass(frozen=True)
class Tokens(Here):
    """The tokenizer, and the tokens of every split."""

    name = "tokenizer"
    ready = True

    def load(self):
        """The tokenizer: that of the results, or trained if there is none."""
        if TOKENIZER.is_file():
            return checkpoints.load(TOKENIZER, "VQVAE")[0]
        if self.is_here:
            return checkpoints.load(self.folder / "tokenizer.safetensors", "VQVAE")[0]
        preset, images = presets.get(f"ladder-{DEPTHS[0]}"), data.load("quartets")
        return training.train_tokenizer(preset, images, self.folder, progress=False).eval()

    def cache(self, split: str) -> TokenCache:
        """The tokens of a split."""
        return TokenCache(self.folder / split, verify=False)

    def work(self) -> dict[str, object]:
        """Train, encode; error and use of the codes on held-out quartets."""
        tokenizer, heldout = self.load(), data.load("quartets", "heldout")
        for split in data.SPLITS:
            write_cache(tokenizer, data.load("quartets", split), self.folder / split, progress=False)
        if self.name in results():  # trained elsewhere
            return results()[self.name]
        images = heldout.batch(slice(None))[0]
        return {"part": "tokenizer", **of_tokenizer(tokenizer, images, self.folder)}


@dataclass(frozen=True)
class Rung(Here):
    """One training of one depth."""

    depth: int
    seed: int
    rate: float
    part: str = "rungs"  # or "rates"

    @property
    def name(self) -> str:
        if self.part == "rates":
            return f"depth{self.depth}-rate{self.rate * 1000:g}"
        return f"depth{self.depth}-seed{self.seed}"

    @property
    def ready(self) -> bool:
        """Whether there are tokens to learn from."""
        return Tokens().is_here

    @property
    def preset(self) -> training.Preset:
        changes = {"model_train.seed": self.seed, "model_train.base_lr": self.rate}
        if self.part == "rates":
            changes["model_train.epochs"] = 1 / 2
        return presets.get(f"ladder-{self.depth}", changes)

    def work(self) -> dict[str, object]:
        """The curve of the held-out loss, and the loss of images that were seen once."""
        what, split = dataclasses.asdict(self), "validation" if self.part == "rates" else "heldout"
        options = {"validation": Tokens().cache(split), "progress": False}
        tokenizer = Tokens().load()
        try:
            model = training.train_model(self.preset, tokenizer, Tokens().cache("train"), self.folder, **options)
        except training.TrainingError as error:
            if self.part != "rates":
                raise
            return {**what, "validation_loss": math.inf, "error": what_broke(error)}
        log = [entry for entry in training.read_log(self.folder / "metrics.jsonl") if "validation_loss" in entry]
        curve = [
            {key: e[key] for key in ("step", "loss", *(k for k in e if k.startswith("validation")))} for e in log
        ]
        found = {"minutes": minutes(self.folder, "var"), "validation_loss": log[-1]["validation_loss"]}
        if self.part == "rungs":
            found |= {"seen": self.seen(model, tokenizer), **sizes(self.preset), "curve": curve}
            if self.seed == 0:
                write_pictures(model, tokenizer, self.folder / "pictures.npz")
        return {**what, **found}

    def seen(self, model, tokenizer) -> dict[str, object]:
        """Statistics of training images, as the curve has them of held-out ones: how far the two are apart."""
        task = training.VARTask(model.eval(), tokenizer, Tokens().cache("train"), "cpu", Tokens().cache("train"))
        return heldout_statistics(task, self.preset.model_train, Ranks())


def sizes(preset: training.Preset) -> dict[str, int]:
    """Parameters, of the blocks and of all; FLOPs of training on an image, three times those of the forward pass."""
    with torch.device("meta"):
        model = models.build(preset.model).eval()
    labels, inputs, _ = memory.teacher_forced_inputs(preset.model, 1, "meta")
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "flops_per_image": 3 * complexity.count_flops(lambda: model(labels, inputs))["all"],
    }


def write_pictures(model, tokenizer, path: Path) -> None:
    """Ten drawings with one seed, and ten that begin with the first two scales of held-out quartets; uint8."""
    images, labels = data.load("quartets", "heldout").batch(slice(SHOWN))
    given = [tokenizer.quantizer.lookup(tokens) for tokens in tokenizer.encode(images)]

    def begin(k: int, codes_BlC: torch.Tensor) -> torch.Tensor:
        return given[k] if k < GIVEN_SCALES else codes_BlC

    rows = {"given": images}
    for name, replace in (("drawn", None), ("continued", begin)):
        generator = torch.Generator().manual_seed(0)
        drawn = sampling.sample(model, tokenizer, labels, cfg=1.0, generator=generator, replace=replace)
        rows[name] = drawn.images * 2 - 1
    arrays = {name: to_uint8(row)[:, 0].numpy() for name, row in rows.items()}
    files.write_atomically(path, lambda temporary: _save(temporary, arrays))


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with open(path, "wb") as file:
        np.savez_compressed(file, **arrays)


# What is to be done -----------------------------------------------------------------------------------------------


def results() -> dict[str, dict]:
    """Of all finished runs by name, collected or not."""
    return all_results(RESULTS, RUNS)


def rates_of(depth: int, done: dict[str, dict]) -> dict[float, float]:
    """Validation loss by learning rate."""
    found = [result for result in done.values() if (result.get("depth"), result["part"]) == (depth, "rates")]
    return {result["rate"]: result["validation_loss"] for result in found}


def rate_of(depth: int, done: dict[str, dict]) -> float | None:
    """The best rate of the nearest rung that was searched; None while it is not known, or lies at the edge."""
    nearest = min(SEARCHED, key=lambda other: abs(math.log(other / depth)))
    losses = rates_of(nearest, done)
    if not set(RATES) <= set(losses):
        return None
    best = min(losses, key=losses.get)
    return best if min(losses) < best < max(losses) else None


def waiting() -> list[Job]:
    """What is left, as far as it can be said by now."""
    done = results()
    jobs: list[Job] = [Rung(depth, RATE_SEED, rate, "rates") for depth in SEARCHED for rate in RATES]
    for depth in SEARCHED:
        losses = rates_of(depth, done)
        if set(RATES) <= set(losses) and rate_of(depth, done) is None:
            edge = min(losses, key=losses.get)
            jobs.append(Rung(depth, RATE_SEED, edge * 2 if edge == max(losses) else edge / 2, "rates"))
    for seed in range(3):
        depths = [depth for depth in reversed(DEPTHS) if seed == 0 or depth <= MORE_SEEDS]
        jobs += [Rung(depth, seed, rate) for depth in depths if (rate := rate_of(depth, done))]
    left = [job for job in jobs if job.name not in done]
    return left if Tokens().is_here or not left else [Tokens(), *left]


def collect() -> None:
    """Results of all runs into one file, their pictures into another, beside what is there; and the tokenizer."""
    found = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    write_json(RESULTS, {**found, "runs": results()})
    if Tokens().is_here and not TOKENIZER.is_file():
        trained = Tokens().folder / "tokenizer.safetensors"
        files.write_atomically(TOKENIZER, lambda path: shutil.copyfile(trained, path))
    arrays = dict(np.load(PICTURES)) if PICTURES.is_file() else {}
    for path in RUNS.glob("*-seed0/pictures.npz"):
        with np.load(path) as pictures:
            depth = path.parent.name.removesuffix("-seed0")
            arrays |= {f"{depth}-{name}": pictures[name] for name in ("drawn", "continued")}
            arrays["given"] = pictures["given"]
    if arrays:
        files.write_atomically(PICTURES, functools.partial(_save, arrays=arrays))


def move_to(folder: Path) -> None:
    """Keep runs and results in a folder of their own: a ladder that knows nothing of the shipped one."""
    global RUNS, RESULTS, PICTURES, TOKENIZER
    RUNS, RESULTS, PICTURES, TOKENIZER = folder, *(folder / path.name for path in (RESULTS, PICTURES, TOKENIZER))


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("train", "collect"))
    parser.add_argument("--into", type=Path, metavar="DIR", help="train everything anew, and keep it there")
    args = parser.parse_args(words)
    if args.into:
        move_to(args.into)
    work_off(waiting) if args.command == "train" else collect()


if __name__ == "__main__":
    main()
