"""The head-to-head of chapter 08 and the rivals of chapter 12, on the digits: nine sides, one training loop.

python -m experiments.rivals train           # all runs in their order; two of these may work side by side
python -m experiments.rivals train rates     # only the runs of one part of the plan: rates, seeds, depth, time
python -m experiments.rivals collect         # results of finished runs -> data/results/rivals.json

What is compared. Equal parameters: 1.00 million, within .3 %, of a transformer over 7 x 7 latent cells (of DiT in
pixels: patches). Equal images: 96,000, in the same order. Optimiser, schedule of the rate, views, nets and the size
of the codebook are the same for all sides. Seed i of a transformer has the tokenizer of seed i mod 3.

What is chosen, and on what. The learning rate of every side: the best of the same three by the loss of the 800
validation digits, seed 0, and the next one outwards while the best lies at the edge. Guidance: of the same values for
every side, by the Frechet distance to the validation digits, with samples of their own.

A run takes five to ten minutes of one core: set OMP_NUM_THREADS=1. Runs resume, and those in rivals.json are not
repeated. Runs and their checkpoints lie in runs/rivals; results are kept beside them until they are collected.
"""

import argparse
import dataclasses
import json
import os
import time
from pathlib import Path

from experiments.head_to_head import minutes
from minivar import data, evaluation, files, models, presets, training
from minivar.training import Preset

RUNS = data.DATA_ROOT.parent / "runs" / "rivals"
RESULTS = data.DATA_ROOT / "results" / "rivals.json"
TWO_BY_TWO = ("var", "var-prefix", "raster", "raster-prefix")
SIDES = (*TWO_BY_TWO, "llamagen", "gpt2", "maskgit", "dit", "dit-pixels")
RATES = (4e-3, 8e-3, 16e-3)
TOKENIZERS = {"multi-scale": "var", "single": "llamagen"}  # a side that has it
SEEDS = {side: 5 if side in (*TWO_BY_TWO, "llamagen", "gpt2") else 3 for side in SIDES}
# Matched depth, which is matched FLOPs: AdaLN costs parameters, but hardly any arithmetic.
SHALLOW = {"var-prefix": 4.0, "raster-prefix": 434}


@dataclasses.dataclass(frozen=True)
class TokenizerRun:
    """One training of one of the two tokenizers, which all sides share."""

    side: str  # one of those that have it
    seed: int
    part: str = "tokenizers"

    @property
    def preset(self) -> Preset:
        return presets.get(f"duel-{self.side}", {"tokenizer_train.seed": self.seed})

    @property
    def name(self) -> str:
        return f"tokenizer-{self.preset.tokenizer.quantizer}-{self.seed}"

    @property
    def folder(self) -> Path:
        return RUNS / self.name

    def load(self, progress: bool = False):
        """The tokenizer, trained if it is not there."""
        images = presets.training_set(self.preset)
        return training.train_tokenizer(self.preset, images, self.folder, progress=progress).eval()

    def train(self) -> dict[str, object]:
        """Its error and the health of its codebook on the held-out digits."""
        tokenizer, images = self.load(), data.load("digits", "heldout").batch(slice(None))[0]
        return {
            "minutes": minutes(self.folder, "tokenizer"),
            "parameters": sum(p.numel() for p in tokenizer.parameters()),
            "mse": evaluation.reconstruction_error(tokenizer, images),
            "codes": evaluation.codebook_usage(tokenizer.encode(images), tokenizer.config.codebook_size),
        }


@dataclasses.dataclass(frozen=True)
class Run:
    """One training of one side."""

    side: str
    seed: int
    rate: float
    part: str = "seeds"  # of the plan

    @property
    def name(self) -> str:
        depth = "-shallow" if self.part == "depth" else ""
        return f"{self.side}{depth}-rate{self.rate * 1000:g}-seed{self.seed}"

    @property
    def folder(self) -> Path:
        return RUNS / self.name

    @property
    def preset(self) -> Preset:
        changes: dict[str, object] = {"model_train.seed": self.seed, "model_train.base_lr": self.rate}
        changes["tokenizer_train.seed"] = self.seed % 3
        if self.part == "depth":
            hidden = "mlp_ratio" if self.side.startswith("var") else "hidden"
            changes |= {"model.depth": 3, f"model.{hidden}": SHALLOW[self.side]}
        return presets.get(f"duel-{self.side}", changes)

    @property
    def tokenizer(self) -> TokenizerRun | None:
        """The one it needs; none for pixels."""
        kind = self.preset.tokenizer.quantizer
        return None if self.side == "dit-pixels" else TokenizerRun(TOKENIZERS[kind], self.seed % 3)

    def train(self) -> dict[str, object]:
        """Losses and minutes."""
        preset, folder = self.preset, self.folder
        tokenizer = self.tokenizer.load() if self.tokenizer else training.train_tokenizer(preset, None, folder)
        options = {"validation": presets.validation_set(preset), "progress": False}
        training.train_model(preset, tokenizer, presets.training_set(preset), folder, **options)
        phase = models.GENERATORS[type(preset.model)].__name__.lower()
        log = [entry for entry in training.read_log(folder / "metrics.jsonl") if entry["phase"] == phase]
        validation = [(e["step"], e["validation_loss"]) for e in log if "validation_loss" in e]
        return {
            "minutes": minutes(folder, phase),
            "loss": log[-1]["loss"],
            "validation_loss": validation[-1][1],
            "validation": validation,
        }


def results() -> dict[str, dict]:
    """Of all finished runs by name, collected or not."""
    found = json.loads(RESULTS.read_text())["runs"] if RESULTS.is_file() else {}
    for path in sorted(RUNS.glob("*/result.json")):
        found[path.parent.name] = json.loads(path.read_text())
    return found


def rates_of(side: str, done: dict[str, dict]) -> dict[float, float]:
    """Validation loss by learning rate, of the runs that search it."""
    found = [result for result in done.values() if (result["side"], result["part"]) == (side, "rates")]
    return {result["rate"]: result["validation_loss"] for result in found}


def best_rate(side: str, done: dict[str, dict]) -> float | None:
    """The rate with the lowest validation loss, once it does not lie at the edge of what was tried; else None."""
    losses = rates_of(side, done)
    if not set(RATES) <= set(losses):
        return None
    best = min(losses, key=losses.get)
    return best if min(losses) < best < max(losses) else None


def plan(done: dict[str, dict]) -> list[Run | TokenizerRun]:
    """The runs that can be said by now: seeds follow when the rate of their side is known."""
    runs: list[Run | TokenizerRun] = [TokenizerRun(side, 0) for side in TOKENIZERS.values()]
    runs += [Run(side, 0, rate, "rates") for side in SIDES for rate in RATES]
    for side in SIDES:
        losses = rates_of(side, done)
        if set(RATES) <= set(losses) and best_rate(side, done) is None:
            edge = min(losses, key=losses.get)
            runs.append(Run(side, 0, edge * 2 if edge == max(losses) else edge / 2, "rates"))
    runs += [TokenizerRun(side, seed) for seed in (1, 2) for side in TOKENIZERS.values()]
    best = {side: rate for side in SIDES if (rate := best_rate(side, done))}
    for seed in range(1, 5):
        runs += [Run(side, seed, rate) for side, rate in best.items() if seed < SEEDS[side]]
    for seed in range(3):
        runs += [Run(side, seed, best[side], "depth") for side in SHALLOW if side in best]
    return [run for run in runs if run.name not in done]


def ready(run: Run | TokenizerRun, done: dict[str, dict]) -> bool:
    """Whether its tokenizer is trained."""
    return isinstance(run, TokenizerRun) or run.tokenizer is None or run.tokenizer.name in done


def claim(folder: Path) -> bool:
    """Whether no other process works on a run; a claim whose process is gone is void."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with open(folder / "claim", "x") as file:
            file.write(str(os.getpid()))
        return True
    except FileExistsError:
        owner = (folder / "claim").read_text()
        if owner and Path(f"/proc/{owner}").exists():
            return False
        (folder / "claim").unlink(missing_ok=True)
        return claim(folder)


def train_all(part: str | None) -> None:
    """Every run of the plan, or of one part of it, that is not done and that no other process works on."""
    while waiting := [run for run in plan(results()) if part in (None, run.part)]:
        done = results()
        run = next((run for run in waiting if ready(run, done) and claim(run.folder)), None)
        if run is None:
            time.sleep(10)  # the others wait for what another process does
            continue
        result = {**dataclasses.asdict(run), **run.train()}
        text = json.dumps(result)
        files.write_atomically(run.folder / "result.json", lambda path, text=text: path.write_text(text))
        shown = {key: result[key] for key in ("minutes", "validation_loss", "mse") if key in result}
        print(run.name, run.part, shown, flush=True)


def collect() -> None:
    """Results of all runs into one file, beside what is there."""
    found = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    found["runs"] = results()
    text = json.dumps(found, indent=1) + "\n"
    files.write_atomically(RESULTS, lambda path: path.write_text(text))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    parts = ("tokenizers", "rates", "seeds", "depth")
    commands.add_parser("train").add_argument("part", nargs="?", choices=parts)
    commands.add_parser("collect")
    args = parser.parse_args()
    if args.command == "train":
        train_all(args.part)
    else:
        collect()


if __name__ == "__main__":
    main()
