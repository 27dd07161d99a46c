"""Editing measured on held-out digits and emoji: next scale, raster order, MaskGIT, and filling with the mean.

python -m experiments.editing                          # the shipped models
python -m experiments.editing --rivals runs/rivals     # and the finished runs of experiments.rivals, seeds 0 to 2
python -m experiments.editing --side NAME=MODEL,TOKENIZER   # and any other pair of folders

Half of the held-out pictures, 500 at most, are given, and the completed ones are compared with the other half. Five
masks of pixels, the same for all; what lies under them is hidden before a model looks, but for the rows "as
published". ``kept_error`` is the mean squared error of pictures in [-1, 1] where they stay, before the given pixels
are laid over what was drawn (after it, it is zero: ``kept_after``), ``filled_error`` that of the filled part against
what was there, which a good completion need not be. ``accuracy``: digits that the classifier sees as what was given;
``ratio``: Frechet distance of the completed pictures in the features of each judge over that of training images.
Settings are one for all sides: no filters, guidance 2 (VAR's cfg 1) towards a class, none for the null class.
Results go to data/results/editing.json, row by row; what is there is not measured again. On two cores that do nothing
else a side takes some three minutes, MaskGIT and raster order three times as long.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from minivar import checkpoints, data, evaluation, files, presets, sampling
from minivar.data import ArraySet
from minivar.machine import describe_machine
from minivar.models import VAR, Generator, MaskGIT
from minivar.tokenizer import VQVAE

RESULTS = data.DATA_ROOT / "results" / "editing.json"
SHIPPED = ("duel-var", "duel-llamagen", "emoji")
RIVALS = {"var": "multi-scale", "raster": "single", "llamagen": "single", "gpt2": "single", "maskgit": "single"}
WAYS = ("two passes", "one pass", "as published")  # the last two of shipped VARs only
PASSES = 2
GUIDANCE = 2.0  # LlamaGen's convention, 1: none; VAR's cfg is one less


class Side(NamedTuple):
    """A model that edits, and what it learned from."""

    name: str
    model: Generator
    tokenizer: VQVAE
    dataset: str


class Given(NamedTuple):
    """Pictures to edit, what a classifier or a class name says of them, and what completed ones are compared with."""

    images: Tensor
    labels: Tensor
    train: ArraySet
    others: ArraySet


def load(name: str, model: Path, tokenizer: Path) -> Side:
    """A pair from two folders, or one."""
    path = next(path for path in sorted(model.glob("*.safetensors")) if path.name in checkpoints.FILES)
    best = path.with_suffix(".best.safetensors")
    found, header = checkpoints.load(best if best.is_file() else path)
    pair = found, checkpoints.load(tokenizer / "tokenizer.safetensors", "VQVAE")[0]
    checkpoints.check_pair(pair[1].config, found.config, f" of {name}")
    dataset = header.get("dataset") or presets.PRESETS[header["preset"]].dataset
    return Side(name, *(sampling.packed(each) for each in pair), dataset)


def sides(args: argparse.Namespace) -> Iterator[Side]:
    """All that are asked for and there."""
    if args.rivals:
        for prefix, seed in ((prefix, seed) for prefix in ("", "emoji-") for seed in range(3)):
            for side, kind in RIVALS.items():
                model = args.rivals / f"{prefix}{side}-seed{seed}"
                if (model / "result.json").is_file():
                    yield load(model.name, model, args.rivals / f"{prefix}tokenizer-{kind}-{seed}")
    for text in args.side:
        name, _, folders = text.partition("=")
        model, _, tokenizer = folders.partition(",")
        yield load(name, Path(model), Path(tokenizer or model))
    for name in SHIPPED:
        folder = data.DATA_ROOT / "checkpoints" / name
        yield load(name, folder, folder)


def given_of(dataset: str, count: int) -> Given:
    """Half of the held-out pictures, ``count`` at most; of the others as many."""
    heldout = data.load(dataset, "heldout")
    half = min(count, len(heldout) // 2)
    images, labels = heldout.batch(slice(0, half))
    if dataset == "emoji-32":
        labels = data.by_style(heldout).labels[:half]
    others = ArraySet(heldout.images[-half:], heldout.labels[-half:], heldout.class_names)
    return Given(images, labels, data.load(dataset, "train+validation"), others)


def masks(side: int) -> dict[str, Tensor]:
    """Five masks of a square picture, bool (side, side), True where it stays."""
    half, quarter, size = side // 2, side // 4, (side, side)
    points = torch.rand(5, 2, generator=torch.Generator().manual_seed(0)) * side
    return {
        "centre": data.box_mask(size, quarter, quarter, half, half),
        "lower half": data.box_mask(size, half, 0, side - half, side),
        "upper half": data.box_mask(size, 0, 0, half, side),
        "left half": data.box_mask(size, 0, 0, side, half),
        "brush": data.brush_mask(size, points.tolist(), side / 14),
    }


def settings_of(model: Generator, towards_class: bool) -> dict[str, float]:
    """Guidance towards a class, and what MaskGIT needs besides."""
    guidance = GUIDANCE if towards_class else 1.0
    if isinstance(model, VAR):
        return {"cfg": guidance - 1}
    return {"cfg": guidance, **({"steps": 8, "choice_temperature": 1.5} if isinstance(model, MaskGIT) else {})}


def edited(side: Side, way: str, given: Given, keep: Tensor, towards_class: bool, seed: int) -> tuple[Tensor, Tensor]:
    """What was drawn and what became of it, images in [-1, 1], by one of ``WAYS``."""
    labels = given.labels if towards_class else torch.full_like(given.labels, side.model.config.num_classes)
    cells, generator = sampling.kept_cells(side.tokenizer, keep), torch.Generator().manual_seed(seed)
    how = {"generator": generator, **settings_of(side.model, towards_class)}
    drawn, completed = [], []
    for images, classes in zip(given.images.split(100), labels.split(100)):
        shown = images if way == "as published" else sampling.extended(images, keep)
        for _ in range(PASSES if way == "two passes" else 1):
            pair = side.model, side.tokenizer
            redrawn = sampling.redraw(*pair, shown, classes, cells, **how).images * 2 - 1
            shown = sampling.composite(images, redrawn, keep)
        drawn.append(redrawn)
        completed.append(shown)
    return torch.cat(drawn), torch.cat(completed)


def scores(given: Given, world: str, drawn: Tensor, completed: Tensor, keep: Tensor) -> dict[str, object]:
    """What the head of this file says."""
    error = (drawn - given.images).square()
    judged = evaluation.judge((completed + 1) / 2, given.train, given.others, world)
    found = {
        "kept_error": error[..., keep].mean().item(),
        "kept_after": (completed - given.images)[..., keep].square().mean().item(),
        "filled_error": error[..., ~keep].mean().item(),
        "ratio": {name: each["frechet_ratio"] for name, each in judged.items()},
    }
    if world == "digits":
        seen = evaluation.in_batches(evaluation.load_digit_classifier()[0], completed).argmax(1)
        found["accuracy"] = (seen == given.labels).float().mean().item()
    return found


def references(given: Given) -> dict[str, Tensor]:
    """Fillings that need no model, images like those given: themselves, and the mean of the training images."""
    mean = data.to_float(given.train.images.float().mean(0, keepdim=True))
    return {"as given": given.images, "training mean": mean.expand_as(given.images)}


def measure(found: dict, side: Side | None, dataset: str, args: argparse.Namespace) -> None:
    """All rows of a side, or of the references of a dataset, that are not in ``found`` yet."""
    given, world = given_of(dataset, args.count), "digits" if dataset == "digits" else "emoji"
    rows = found.setdefault(dataset, {})
    for mask, keep in masks(given.images.shape[-1]).items():
        if side is None:
            for name, filling in references(given).items():
                completed = sampling.composite(given.images, filling, keep)
                if mask not in rows.setdefault(name, {}):
                    rows[name][mask] = scores(given, world, filling, completed, keep)
            continue
        for way in WAYS if isinstance(side.model, VAR) and side.name in SHIPPED else WAYS[:1]:
            for condition in ("null", "class"):
                of_way = rows.setdefault(f"{side.name}, {way}", {}).setdefault(mask, {}).setdefault(condition, {})
                for seed in range(args.seeds):
                    if str(seed) not in of_way:
                        pictures = edited(side, way, given, keep, condition == "class", seed)
                        of_way[str(seed)] = scores(given, world, *pictures, keep)
                write(found, args.out)
                print(dataset, side.name, way, mask, condition, in_words(of_way), flush=True)


def in_words(of_seeds: dict[str, dict]) -> str:
    """Means over the seeds, and how far apart they lie."""
    rows = [{**each, **each["ratio"]} for each in of_seeds.values()]
    numbers = {key: [row[key] for row in rows] for key in rows[0] if key != "ratio"}
    return "  ".join(f"{key} {sum(n) / len(n):.3f} ({max(n) - min(n):.3f})" for key, n in numbers.items())


def write(found: dict, out: Path) -> None:
    """What was measured so far."""
    text = json.dumps(found, indent=1) + "\n"
    files.write_atomically(out, lambda path: path.write_text(text))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rivals", type=Path, metavar="DIR", help="runs of experiments.rivals")
    parser.add_argument("--side", action="append", default=[], metavar="NAME=MODEL,TOKENIZER", help="two folders")
    parser.add_argument("--count", type=int, default=500, help="pictures of each dataset, at most (default: 500)")
    parser.add_argument("--seeds", type=int, default=3, help="completions of each (default: 3)")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    found = json.loads(args.out.read_text()) if args.out.is_file() else {}
    how = {"count": args.count, "passes": PASSES, "guidance": GUIDANCE}
    if found.setdefault("how", how) != how:
        parser.error(f"{args.out} was measured with {found['how']}, and this would be with {how}: expected the same.")
    found["machine"] = describe_machine(torch.device("cpu"))
    for side in sides(args):
        for each in (None, side):  # the references first
            measure(found, each, side.dataset, args)


if __name__ == "__main__":
    main()
