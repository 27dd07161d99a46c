"""``minivar evaluate``: how good a model is, or a set of pictures."""

import argparse
import json
import time
from pathlib import Path

import torch

from minivar import checkpoints, data, evaluation, presets
from minivar.cli.sample import settings_of
from minivar.cli.shared import MOST_IMAGES, SHIPPED, add_accept_argument, check_number, output
from minivar.distributed import Ranks, join_ranks
from minivar.files import write_atomically
from minivar.machine import describe_machine
from minivar.tokenizer import Pixels
from minivar.tokenizer.losses import Perceptual

# Options that are for one of the two uses alone, with their defaults; None in the arguments: not given.
OF_A_MODEL = {"count": 2000, "seed": 0, "split": "heldout", "keep": None, "cfg": None, "accept": None}
OF_A_MODEL |= {"backbone_weights": None}
OF_TWO_SETS = {"reference": None, "judge": "inception", "inception_weights": None, "labels": None, "device": "cpu"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``minivar evaluate``."""
    model = parser.add_argument_group("a model", "of the digits or the emoji, by the judges of its images")
    folder = "folder with tokenizer and transformer (default: the shipped digits)"
    model.add_argument("--checkpoint", metavar="DIR", help=folder)
    model.add_argument("--count", type=int, help="images to draw (default: 2000)")
    model.add_argument("--seed", type=int, help="the same seed gives the same images (default: 0)")
    model.add_argument("--split", choices=("heldout", "validation"), help="what to compare with (default: heldout)")
    model.add_argument("--keep", metavar="DIR", help="write the images there: PNG files, and samples.npz")
    model.add_argument("--cfg", type=float, help="guidance (default: the preset's, as the other settings)")
    add_accept_argument(model)
    weights = "torchvision's vgg16 weights, for LPIPS, which is left out without them"
    model.add_argument("--backbone-weights", metavar="FILE", help=weights)
    sets = parser.add_argument_group("two sets of pictures", "each a folder, or an npz as --evaluator writes it")
    sets.add_argument("--samples", metavar="PATH", help="pictures to be judged")
    reference = "what they are compared with; if the npz brings mu and sigma, InceptionV3's, these are used"
    sets.add_argument("--reference", metavar="PATH", help=reference)
    judges = ("inception", *evaluation.WORLDS)
    sets.add_argument("--judge", choices=judges, help="whose features (default: inception)")
    network = "InceptionV3 as torch-fidelity keeps it (default: downloaded where needed)"
    sets.add_argument("--inception-weights", metavar="FILE", help=network)
    sets.add_argument("--labels", metavar="NPY", help="with --judge digits: what the pictures are meant to show")
    sets.add_argument("--device", help="of InceptionV3: cpu or cuda (default: cpu); under torchrun on every process")
    parser.add_argument("--bootstrap", type=int, default=0, metavar="DRAWS", help="for intervals (default: 0, none)")
    parser.add_argument("--json", metavar="FILE", help="also keep the scores, with seed, settings and machine")


def run(args: argparse.Namespace) -> None:
    """Score a model, or a set of pictures: Frechet distances, precision, recall and the rest, as a table."""
    check_use(args)
    check_number("--bootstrap", args.bootstrap, 0, 10_000)
    target = output(args.json) if args.json else None
    started, machine = time.time(), describe_machine(torch.device("cpu"))
    with join_ranks(args.device) as ranks:
        found = of_pictures(args, ranks) if args.samples else of_model(args, ranks)
        found |= {"minutes": (time.time() - started) / 60, "machine": machine}
        if ranks.leads:
            print(as_table(found))
            if target:
                text = json.dumps(found, indent=1) + "\n"
                write_atomically(target, lambda path: path.write_text(text))


def check_use(args: argparse.Namespace) -> None:
    """Fill in the defaults; ``ValueError`` for options of one use beside those of the other."""
    foreign = {"checkpoint": None, **OF_A_MODEL} if args.samples else OF_TWO_SETS
    given = [f"--{name.replace('_', '-')}" for name in foreign if getattr(args, name) is not None]
    if given:
        use = "two sets of pictures (--samples)" if args.samples else "a model (no --samples)"
        raise ValueError(f"Not an option for {use}: got {', '.join(given)}, which goes with the other use.")
    if args.samples and not args.reference:
        raise ValueError("Two sets of pictures are compared: expected --reference beside --samples, got none.")
    for name, default in {**OF_A_MODEL, **OF_TWO_SETS}.items():
        if getattr(args, name) is None:
            setattr(args, name, default)
    check_number("--count", args.count, 20, MOST_IMAGES)
    check_number("--seed", args.seed, 0, 2**64 - 1)
    if args.labels and args.judge != "digits":
        raise ValueError(f"--labels needs a judge who names classes: expected --judge digits, got {args.judge}.")


def of_pictures(args: argparse.Namespace, ranks: Ranks) -> dict[str, object]:
    """Scores of two sets; under torchrun each process reads a part of them."""
    samples, reference = evaluation.Pictures(args.samples), evaluation.Pictures(args.reference)
    found: dict[str, object] = {"samples": args.samples, "reference": args.reference, "judges": {}}
    if args.labels:
        found["accuracy"] = evaluation.share_of_labels(samples, args.labels)
    known = None
    if args.judge == "inception":
        judges = {"inception": evaluation.load_inception(args.inception_weights, ranks.device)}
        known = reference.statistics()
    else:
        judges = {name: evaluation.embedded_judge(args.judge, name) for name in evaluation.judges_of(args.judge)}
    for name, judge in judges.items():
        options = {"ranks": ranks, "draws": args.bootstrap, "known": known}
        found["judges"][name] = evaluation.compare_pictures(samples, reference, judge, **options)
    return found


def of_model(args: argparse.Namespace, ranks: Ranks) -> dict[str, object]:
    """Scores of samples, and of the tokenizer."""
    if ranks.count > 1:
        raise ValueError(
            f"A model is evaluated by one process; got {ranks.count}: draw with sample --evaluator first."
        )
    tokenizer, model, header = checkpoints.load_pair(Path(args.checkpoint or SHIPPED))
    dataset, world = images_of(header, args.checkpoint)
    train, heldout = data.load(dataset, evaluation.OTHERS[args.split]), data.load(dataset, args.split)
    settings = settings_of(args, model, header)
    perceptual = Perceptual(Path(args.backbone_weights)) if args.backbone_weights else None
    folder = output(str(Path(args.keep) / "samples.npz")).parent if args.keep else None
    labels = torch.arange(args.count) % model.config.num_classes
    if world != "digits":  # whose classes are not equally many
        there = presets.validation_set(presets.get(header["preset"])).labels
        labels = there[torch.randint(len(there), (args.count,), generator=torch.Generator().manual_seed(args.seed))]
    if args.accept is None:
        images = evaluation.draw(model, tokenizer, labels, args.seed, **settings)
    elif world == "digits":
        classifier = evaluation.load_digit_classifier()[0]
        images = evaluation.draw_accepted(model, tokenizer, labels, classifier, args.accept, args.seed, **settings)
    else:
        raise ValueError(f"--accept needs a classifier, and there is one of the digits alone; got {args.checkpoint}.")
    if folder:
        evaluation.write_pngs(images, folder)
        evaluation.write_npz(images, folder / "samples.npz")
    known = labels if world == "digits" else None
    found = evaluation.score_samples(images, known, train, heldout, world, args.bootstrap)
    found |= {"preset": header.get("preset"), "seed": args.seed, "count": args.count, "split": args.split}
    found["settings"] = settings if args.accept is None else {**settings, "accept": args.accept}
    if not isinstance(tokenizer, Pixels):
        found["tokenizer"] = evaluation.score_tokenizer(tokenizer, train, heldout, world, perceptual)
    return found


def images_of(header: dict, where: str | None) -> tuple[str, str]:
    """The data set that a model learned from, and whose judges look at it; ``ValueError`` where there are none."""
    preset = presets.PRESETS.get(header.get("preset", ""))
    dataset = header.get("dataset") or (preset.dataset if preset else "unknown images")
    worlds = {"digits": "digits", "emoji": "emoji", "emoji-32": "emoji"}
    if dataset not in worlds:
        raise ValueError(
            f"There are judges for {' and '.join(evaluation.WORLDS)} of 28 and 32 pixels; {where} is of {dataset}: "
            "expected --samples and --reference, with --judge inception."
        )
    return dataset, worlds[dataset]


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
