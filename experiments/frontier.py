"""The frontier of chapter 07a: what drawing with less arithmetic saves in milliseconds and costs in quality.

python -m experiments.frontier train     # a small and a revealed transformer, of digits and of emoji: runs/frontier
python -m experiments.frontier quality   # samples of every variant, three seeds -> data/results/frontier.json
python -m experiments.frontier time      # on a quiet machine, all variants in turn -> the same file
python -m experiments.frontier ship      # the small transformers in float16 -> data/checkpoints/FAMILY-small

All of it goes on where it was stopped. Digits are judged as ever. Emoji have no judge yet: their distance is
Fréchet's between held-out emoji and samples of the same groups and styles, in *layouts*, 80 numbers that say which
colours lie where and how much they change there. Both are divided by the distance of training images to held-out
ones, the floor that a perfect model would reach; of emoji, of training images of the same groups and styles.
"""

import argparse
import copy
import dataclasses
import functools
import json
import subprocess
import sys
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from experiments.bench import measuring
from minivar import checkpoints, data, evaluation, files, sampling
from minivar.allocation import keep_memory
from minivar.book.plots.frontier import KINDS
from minivar.machine import describe_machine
from minivar.models import VAR
from minivar.precision import computing
from minivar.sampling import Economy, sample_economically
from minivar.tokenizer import VQVAE

RUNS = data.DATA_ROOT.parent / "runs" / "frontier"
CHECKPOINTS = data.DATA_ROOT / "checkpoints"
RESULTS = data.DATA_ROOT / "results" / "frontier.json"
SEEDS = (0, 1, 2)
# How the transformers that are not shipped are trained: preset, and what is changed of it.
TRAININGS = {
    "digits-small": ("digits-long", ["model.depth=2", "model.width=64", "model.heads=2", "model_train.epochs=3"]),
    "digits-revealed": ("digits-long", ["model.revealed=0.5", "model_train.epochs=1", "model_train.base_lr=2e-3"]),
    "emoji-small": ("emoji", ["model.depth=2", "model.width=64", "model.heads=2", "model_train.epochs=2"]),
    "emoji-revealed": ("emoji", ["model.revealed=0.5", "model_train.epochs=0.5", "model_train.base_lr=4e-3"]),
}


class Variant(NamedTuple):
    """A way to draw, in words and for the sampler."""

    kind: str  # as ``book.plots.frontier`` groups them
    about: str
    economy: Economy = Economy()
    model: str = "shipped"  # or small, revealed
    refiner: bool = False  # whether the small model goes on
    cfg: float | None = None  # None: the preset's
    numbers: str = "float32"  # or bf16, int8


STANDARD = "as shipped"
ALL, GUIDANCE, LESS, SMALL, PARTS, BITS = KINDS
VARIANTS = {
    STANDARD: Variant(ALL, "guided on all scales, float32"),
    "unguided": Variant(GUIDANCE, "guidance off", cfg=0.0),
    "guided but for 1": Variant(GUIDANCE, "guided on all scales but the last", Economy(guided_scales=3)),
    "guided but for 2": Variant(GUIDANCE, "guided on all scales but the last two", Economy(guided_scales=2)),
    "3 of 4 scales": Variant(LESS, "the last scale left out", Economy(scales=3)),
    "75 % of the last": Variant(LESS, "three quarters of the last scale computed", Economy(kept_tokens=0.75)),
    "50 % of the last": Variant(LESS, "half of the last scale computed", Economy(kept_tokens=0.5)),
    "25 % of the last": Variant(LESS, "a quarter of the last scale computed", Economy(kept_tokens=0.25)),
    "small": Variant(SMALL, "a small transformer alone", model="small"),
    "small from 3": Variant(
        SMALL, "a small transformer for the last two scales", Economy(refined_from=2), refiner=True
    ),
    "small from 4": Variant(SMALL, "a small transformer for the last scale", Economy(refined_from=3), refiner=True),
    "both from 4": Variant(
        SMALL, "the same, and no guidance there", Economy(refined_from=3, guided_scales=3), refiner=True
    ),
    "revealed": Variant(PARTS, "trained on revealed codes, drawn at once", model="revealed"),
    "in 2 parts": Variant(PARTS, "the last scale in two parts", Economy(sub_steps=2), "revealed"),
    "in 4 parts": Variant(PARTS, "the last scale in four parts", Economy(sub_steps=4), "revealed"),
    "bf16": Variant(BITS, "bfloat16 by autocast", numbers="bf16"),
    "int8": Variant(BITS, "matrices in 8 bits", numbers="int8"),
}


def train(family: str) -> None:
    """Both transformers of a family, by the command line; what is there is found or gone on with."""
    for kind in ("small", "revealed"):
        preset, changed = TRAININGS[f"{family}-{kind}"]
        source = "--tokenizer" if kind == "small" else "--init"
        words = ["-m", "minivar.cli", "train", "--preset", preset, source, str(CHECKPOINTS / family)]
        words += ["--out", str(RUNS / f"{family}-{kind}")]
        words += [word for change in changed for word in ("--set", change)]
        subprocess.run([sys.executable, *words], check=True)


# Drawing ------------------------------------------------------------------------------------------------------------


class Family(NamedTuple):
    """Everything that is drawn with."""

    name: str
    tokenizer: VQVAE
    models: dict[str, VAR]
    settings: dict[str, float]


def load(family: str, only_shapes: bool = False) -> Family:
    """The shipped pair and the two that were trained beside it; ``only_shapes``: of the same shapes, which is all
    that a clock needs."""
    tokenizer, model, header = checkpoints.load_pair(CHECKPOINTS / family)
    if only_shapes:
        small = dataclasses.replace(model.config, depth=2, width=64, heads=2)
        others = {"small": VAR(small).eval(), "revealed": copy.deepcopy(model)}
        others["revealed"].config = dataclasses.replace(model.config, revealed=0.5)
    else:
        others = {
            kind: checkpoints.load(RUNS / f"{family}-{kind}" / "var.safetensors", "VAR")[0]
            for kind in ("small", "revealed")
        }
    return Family(family, tokenizer, {"shipped": model, **others}, header["sampling"])


def drawing(family: Family, variant: Variant) -> Callable[[Tensor, torch.Generator], Tensor]:
    """What draws images (B, C, H, W) in [0, 1] of classes (B,), on weights as each variant wants them."""
    pack = {"float32": sampling.packed, "int8": sampling.eight_bits, "bf16": lambda model: model}[variant.numbers]
    model = pack(family.models[variant.model])
    refiner = pack(family.models["small"]) if variant.refiner else None
    tokenizer = sampling.packed(family.tokenizer) if variant.numbers != "bf16" else family.tokenizer
    settings = {**family.settings} if variant.cfg is None else {**family.settings, "cfg": variant.cfg}
    precision = "bf16" if variant.numbers == "bf16" else "float32"

    def draw(labels_B: Tensor, generator: torch.Generator) -> Tensor:
        with computing(torch.device("cpu"), precision):
            how = {"economy": variant.economy, "refiner": refiner, "generator": generator}
            return sample_economically(model, tokenizer, labels_B, **how, **settings).images.float()

    return draw


# Quality ------------------------------------------------------------------------------------------------------------


def judge_of(family: str) -> tuple[Tensor, Callable[[Tensor], dict[str, float]]]:
    """Classes to draw (N,), and what scores images of them."""
    if family == "digits":
        classifier, _ = evaluation.load_digit_classifier()
        labels_N = torch.arange(2000) % 10

        def judge(images: Tensor) -> dict[str, float]:
            found = evaluation.judge_digits(classifier, images, labels_N)
            return {"distance": found["frechet_ratio"], "accuracy": found["accuracy"]}

        return labels_N, judge
    train_set, heldout = data.load("emoji", "train+validation"), data.load("emoji", "heldout")
    known_N, labels_N = (9 + 2 * part.labels + part.extra["style"].values for part in (train_set, heldout))
    real = evaluation.layout(heldout.batch(slice(None))[0])
    pick = torch.Generator().manual_seed(0)
    alike = [
        (known_N == label).nonzero().flatten() for label in labels_N
    ]  # training emoji of the same group and style
    floors = []
    for _ in range(10):
        index = torch.stack([same[torch.randint(len(same), (), generator=pick)] for same in alike])
        floors.append(evaluation.frechet_distance(evaluation.layout(train_set.batch(index)[0]), real))
    floor = sum(floors) / len(floors)

    def judge_emoji(images: Tensor) -> dict[str, float]:
        features = evaluation.layout(images * 2 - 1)
        precision, recall = evaluation.precision_recall(real, features)
        distance = evaluation.frechet_distance(features, real) / floor
        return {"distance": distance, "precision": precision, "recall": recall}

    return labels_N, judge_emoji


def measure_quality(family: str) -> None:
    """Scores of every variant and seed that has none yet."""
    material, (labels_N, judge) = load(family), judge_of(family)
    for name, variant in VARIANTS.items():
        for seed in SEEDS:
            found = read()
            scores = found.setdefault(family, {}).setdefault(name, {"about": variant.about}).setdefault("scores", {})
            if str(seed) in scores:
                continue
            draw = drawing(material, variant)
            generator = torch.Generator().manual_seed(seed)
            scores[str(seed)] = judge(torch.cat([draw(part, generator) for part in labels_N.split(100)]))
            write(found)
            print(family, name, seed, scores[str(seed)], flush=True)


# Time ---------------------------------------------------------------------------------------------------------------


def drawn_anew(draw: Callable[[Tensor, torch.Generator], Tensor], labels_B: Tensor) -> Tensor:
    """The same images each time."""
    return draw(labels_B, torch.Generator().manual_seed(0))


def measure_time(family: str, rounds: int = 9) -> None:
    """Milliseconds an image of every variant, one and 64 at a time; all variants in turn."""
    keep_memory()
    material, found = load(family, only_shapes=True), read()
    labels_N, _ = judge_of(family)
    for count in (1, 64):
        functions = {
            name: functools.partial(drawn_anew, drawing(material, variant), labels_N[:count])
            for name, variant in VARIANTS.items()
        }
        for function in functions.values():
            function()
        wait = measuring.waiting(torch.device("cpu"))
        calls = {name: measuring.calls_a_round(function, wait) for name, function in functions.items()}
        timed = measuring.interleave(functions, rounds, calls, wait)
        for name in functions:
            found[family][name]["kind"] = VARIANTS[name].kind
            entry = found[family][name].setdefault("milliseconds", {})
            busy = timed.busy((name, STANDARD))
            entry[str(count)] = {
                "median": 1e3 * timed.median(name) / count,
                "ratio": timed.ratio(name, STANDARD),
                "spread": timed.ratio_spread(name, STANDARD),
                "busy": busy,
            }
            print(family, count, name, entry[str(count)], flush=True)
    found["machine"] = describe_machine(torch.device("cpu"))
    write(found)


def read() -> dict:
    """What was measured so far."""
    return json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}


def write(found: dict) -> None:
    """All of it, the variants in their order."""
    for family in found.keys() - {"machine"}:
        found[family] = {name: found[family][name] for name in VARIANTS if name in found[family]}
    files.write_atomically(RESULTS, lambda path: path.write_text(json.dumps(found, indent=1) + "\n"))


def ship(family: str) -> None:
    """The small transformer, in float16."""
    tensors, header = files.read_tensors(RUNS / f"{family}-small" / "var.safetensors")
    half = {key: value.half() for key, value in tensors.items()}
    files.write_tensors(CHECKPOINTS / f"{family}-small" / "var.safetensors", half, header)


STEPS = {"train": train, "quality": measure_quality, "time": measure_time, "ship": ship}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=tuple(STEPS))
    parser.add_argument("--family", choices=("digits", "emoji"), help="default: both")
    args = parser.parse_args()
    for family in [args.family] if args.family else ("digits", "emoji"):
        STEPS[args.step](family)


if __name__ == "__main__":
    main()
