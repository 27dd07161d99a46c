"""``minivar evaluate``: how good a model is, or a set of pictures."""

import argparse
import json
import time
from pathlib import Path

import torch

from minivar import checkpoints, data, evaluation, presets
from minivar.cli.sample import settings_of
from minivar.cli.shared import MOST_IMAGES, SHIPPED, check_number, output
from minivar.distributed import join_ranks
from minivar.files import write_atomically
from minivar.machine import describe_machine
from minivar.tokenizer import Pixels
from minivar.tokenizer.losses import Perceptual

JUDGES = ("inception", *evaluation.WORLDS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``minivar evaluate``."""
    folder = "folder with tokenizer and transformer, trained on the digits or the emoji (default: the shipped digits)"
    parser.add_argument("--checkpoint", metavar="DIR", help=folder)
    parser.add_argument("--count", type=int, default=2000, help="images to draw (default: 2000)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same images (default: 0)")
    parser.add_argument("--split", choices=("heldout", "validation"), default="heldout", help="what to compare with")
    parser.add_argument("--keep", metavar="DIR", help="write the images there: PNG files, and samples.npz")
    parser.add_argument("--cfg", type=float, help="guidance (default: the preset's, as the other settings)")
    weights = "torchvision's vgg16 weights, for LPIPS, which is left out without them"
    parser.add_argument("--backbone-weights", metavar="FILE", help=weights)
    sets = parser.add_argument_group("two sets of pictures", "each a folder, or an npz as --evaluator writes it")
    sets.add_argument("--samples", metavar="PATH", help="in place of --checkpoint: pictures that are there already")
    sets.add_argument("--reference", metavar="PATH", help="what they are compared with; mu and sigma in it are used")
    sets.add_argument("--judge", choices=JUDGES, default="inception", help="whose features (default: inception)")
    network = "InceptionV3 as torch-fidelity keeps it (default: downloaded where needed)"
    sets.add_argument("--inception-weights", metavar="FILE", help=network)
    sets.add_argument("--labels", metavar="NPY", help="with --judge digits: what the pictures are meant to show")
    parser.add_argument("--bootstrap", type=int, default=0, metavar="DRAWS", help="for intervals (default: 0, none)")
    parser.add_argument("--json", metavar="FILE", help="also keep the scores, with seed, settings and machine")
    parser.add_argument("--device", default="cpu", help="of InceptionV3: cpu or cuda (default: cpu)")


def run(args: argparse.Namespace) -> None:
    """Score a model, or a set of pictures: Frechet distances, precision, recall and the rest, as a table."""
    started = time.time()
    check_number("--count", args.count, 20, MOST_IMAGES)
    check_number("--seed", args.seed, 0, 2**64 - 1)
    check_number("--bootstrap", args.bootstrap, 0, 10_000)
    if (args.samples is None) != (args.reference is None) or (args.samples and args.checkpoint):
        raise ValueError("Expected either --samples and --reference, or a --checkpoint; got a mixture of them.")
    target = output(args.json) if args.json else None
    with join_ranks(args.device) as ranks:
        found = of_pictures(args, ranks) if args.samples else of_model(args)
        found |= {"minutes": (time.time() - started) / 60, "machine": describe_machine(ranks.device)}
        if not ranks.leads:
            return
        print(as_table(found))
        if target:
            text = json.dumps(found, indent=1) + "\n"
            write_atomically(target, lambda path: path.write_text(text))


def of_pictures(args: argparse.Namespace, ranks) -> dict[str, object]:
    """Scores of two sets; under torchrun each process reads a part of them."""
    samples, reference = evaluation.Pictures(args.samples), evaluation.Pictures(args.reference)
    if args.labels and args.judge != "digits":
        raise ValueError(f"--labels needs a judge who names classes: expected --judge digits, got {args.judge}.")
    if args.judge == "inception":
        judges = {"inception": evaluation.load_inception(args.inception_weights, ranks.device)}
    else:
        judges = {name: evaluation.embedded_judge(args.judge, name) for name in evaluation.judges_of(args.judge)}
    options = {"ranks": ranks, "draws": args.bootstrap}
    found = {
        "judges": {
            name: evaluation.compare_pictures(samples, reference, judge, **options) for name, judge in judges.items()
        }
    }
    if args.labels:
        found["accuracy"] = evaluation.share_of_labels(samples, args.labels)
    return found


def of_model(args: argparse.Namespace) -> dict[str, object]:
    """Scores of samples, and of the tokenizer."""
    tokenizer, model, header = checkpoints.load_pair(Path(args.checkpoint or SHIPPED))
    preset = presets.get(header["preset"]) if header.get("preset") in presets.PRESETS else None
    world = world_of(preset, args.checkpoint)
    dataset = preset.dataset
    train, heldout = data.load(dataset, evaluation.OTHERS[args.split]), data.load(dataset, args.split)
    settings = settings_of(args, model, header)
    labels = torch.arange(args.count) % model.config.num_classes
    if world != "digits":  # whose classes are not equally many
        there = presets.validation_set(preset).labels
        labels = there[torch.randint(len(there), (args.count,), generator=torch.Generator().manual_seed(args.seed))]
    images = evaluation.draw(model, tokenizer, labels, args.seed, **settings)
    if args.keep:
        evaluation.write_pngs(images, Path(args.keep))
        evaluation.write_npz(images, Path(args.keep) / "samples.npz")
    known = labels if world == "digits" else None
    found = evaluation.score_samples(images, known, train, heldout, world, args.bootstrap)
    found |= {"preset": header.get("preset"), "seed": args.seed, "count": args.count, "split": args.split}
    found["settings"] = settings
    if not isinstance(tokenizer, Pixels):
        perceptual = Perceptual(Path(args.backbone_weights)) if args.backbone_weights else None
        found["tokenizer"] = evaluation.score_tokenizer(tokenizer, train, heldout, world, perceptual)
    return found


def world_of(preset, where) -> str:
    """Whose judges can look at a preset's images; ``ValueError`` where nobody's can."""
    dataset = preset.dataset if preset else "unknown"
    world = dataset.split("-")[0]
    if world not in evaluation.WORLDS or dataset == "emoji-64":
        raise ValueError(
            f"There are judges for {' and '.join(evaluation.WORLDS)} of 28 and 32 pixels; {where} is of {dataset}: "
            "expected --samples and --reference, with --judge inception."
        )
    return world


def as_table(found: dict[str, object]) -> str:
    """The scores as a person reads them: a column for each judge, then what depends on none."""
    judges = found["judges"]
    lines = [f"{'':24}" + "".join(f"{name:>14}" for name in judges)]
    for key in dict.fromkeys(key for scores in judges.values() for key in scores):
        lines.append(f"{key.replace('_', ' '):24}" + "".join(f"{shown(s.get(key)):>14}" for s in judges.values()))
    rest = {key: value for key, value in found.items() if key not in ("judges", "tokenizer", "machine", "settings")}
    tokenizer = dict(found.get("tokenizer", {}))
    codes = tokenizer.pop("codes", [])
    for name, value in tokenizer.pop("rfid", {}).items():
        tokenizer[f"rFID, {name}"] = value
    for title, scores in (("samples", rest), ("tokenizer", tokenizer)):
        if scores:
            lines += [title, *(f"  {key.replace('_', ' '):22}{shown(value):>14}" for key, value in scores.items())]
    for k, each in enumerate(codes, 1):
        lines.append(f"  codes of map {k:<9}{each['used']:>14.1%} in use, perplexity {each['perplexity']:.1f}")
    return "\n".join(lines)


def shown(value: object) -> str:
    """A number, an interval, or a dash."""
    if value is None:
        return "-"
    if isinstance(value, list):
        return "-".join(f"{v:.3g}" for v in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
