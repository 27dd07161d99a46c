"""``minivar evaluate``: how good a model is, or a set of pictures."""

import argparse
import json
import time
from pathlib import Path

import torch

from minivar import checkpoints, data, evaluation, presets
from minivar.cli.sample import settings_of
from minivar.cli.shared import (
    MOST_IMAGES,
    add_accept_argument,
    add_model_arguments,
    check_number,
    open_models,
    output,
)
from minivar.distributed import Ranks, join_ranks
from minivar.files import write_atomically
from minivar.machine import describe_machine
from minivar.tokenizer import Pixels
from minivar.tokenizer.losses import Perceptual

# Options by the use that they are for, with their defaults; None in the arguments: not given.
WHICH_MODEL = {"checkpoint": None, "published": None, "folder": None, "offline": False}
DRAWN = {"count": 2000, "seed": 0, "keep": None, "cfg": None}
OF_A_MODEL = {"split": "heldout", "accept": None, "backbone_weights": None}
OF_A_REFERENCE = {"reference": None, "judge": "inception", "inception_weights": None, "device": "cpu"}
OF_TWO_SETS = {"labels": None}
USES = {  # what is said of a use, and what goes with it
    "two sets of pictures (--samples)": OF_A_REFERENCE | OF_TWO_SETS,
    "a model beside a reference (--reference, no --samples)": WHICH_MODEL | DRAWN | OF_A_REFERENCE,
    "a model (no --samples)": WHICH_MODEL | DRAWN | OF_A_MODEL,
}
PROTOCOL = 50_000  # images beside a reference


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``minivar evaluate``."""
    about = (
        "of the digits or the emoji, by the judges of its images; any other, such as the published, by InceptionV3"
    )
    model = parser.add_argument_group("a model", f"{about} beside a --reference")
    add_model_arguments(model)
    many = "images to draw (default: 2000; beside a --reference 50,000, equally many of each class)"
    model.add_argument("--count", type=int, help=many)
    model.add_argument("--seed", type=int, help="the same seed gives the same images (default: 0)")
    model.add_argument("--split", choices=("heldout", "validation"), help="what to compare with (default: heldout)")
    keep = "write the images there: PNG files and samples.npz; beside a --reference the latter, and a call goes on"
    model.add_argument("--keep", metavar="DIR", help=keep)
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
    device = "of InceptionV3, and of the model beside a --reference: cpu or cuda (default: cpu); under torchrun on"
    sets.add_argument("--device", help=f"{device} every process")
    parser.add_argument("--bootstrap", type=int, default=0, metavar="DRAWS", help="for intervals (default: 0, none)")
    parser.add_argument("--json", metavar="FILE", help="also keep the scores, with seed, settings and machine")


def run(args: argparse.Namespace) -> None:
    """Score a model, or a set of pictures: Frechet distances, precision, recall and the rest, as a table."""
    check_use(args)
    check_number("--bootstrap", args.bootstrap, 0, 10_000)
    target = output(args.json) if args.json else None
    started, machine = time.time(), describe_machine(torch.device("cpu"))
    with join_ranks(args.device) as ranks:
        work = dict(zip(USES, (of_pictures, of_a_model_beside, of_model), strict=True))[use_of(args)]
        found = work(args, ranks)
        found |= {"minutes": (time.time() - started) / 60, "machine": machine}
        if ranks.leads:
            print(as_table(found))
            if target:
                text = json.dumps(found, indent=1) + "\n"
                write_atomically(target, lambda path: path.write_text(text))


def use_of(args: argparse.Namespace) -> str:
    """Which of ``USES`` is asked for."""
    both, beside, alone = USES
    return both if args.samples else beside if args.reference else alone


def check_use(args: argparse.Namespace) -> None:
    """Fill in the defaults; ``ValueError`` for options of one use beside those of another, and for missing ones."""
    use, defaults = use_of(args), {**WHICH_MODEL, **DRAWN, **OF_A_MODEL, **OF_TWO_SETS, **OF_A_REFERENCE}
    foreign = [name for name in defaults if name not in USES[use] and getattr(args, name) not in (None, False)]
    if foreign:
        given = ", ".join("--from" if name == "folder" else f"--{name.replace('_', '-')}" for name in foreign)
        raise ValueError(f"Not an option for {use}: got {given}, which goes with the other use.")
    if args.samples and not args.reference:
        raise ValueError("Two sets of pictures are compared: expected --reference beside --samples, got none.")
    if not args.samples and args.reference and not args.keep:
        raise ValueError(
            "Drawing thousands of images can be stopped and goes on from what it kept: expected --keep DIR beside "
            "--reference, got none."
        )
    if args.published in checkpoints.MODELS and not args.reference:  # before anything is downloaded
        raise ValueError(
            f"No judge of minivar's knows ImageNet, whose classes {args.published} draws: expected --reference, a "
            "folder of pictures or an npz such as VIRTUAL_imagenet256_labeled.npz; got none."
        )
    if args.count is None and args.reference:
        args.count = PROTOCOL
    for name, default in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, default)
    check_number("--count", args.count, 20, MOST_IMAGES)
    check_number("--seed", args.seed, 0, 2**64 - 1)
    if args.labels and args.judge != "digits":
        raise ValueError(f"--labels needs a judge who names classes: expected --judge digits, got {args.judge}.")


def of_a_model_beside(args: argparse.Namespace, ranks: Ranks) -> dict[str, object]:
    """Scores of equally many images of each class, as the published protocol draws them, against a reference."""
    reference = evaluation.Pictures(args.reference)  # an error, if there is none, before the work
    size = reference.shape[1]
    if reference.shape[2] != size:
        raise ValueError(
            f"Models draw squares: expected a --reference of squares, got {reference.shape[2]} x {size}."
        )
    tokenizer, model, header = open_models(args)
    settings = settings_of(args, model, header)
    path = output(str(Path(args.keep) / "samples.npz"), (".npz",))
    tokenizer, model = (module.to(ranks.device) for module in (tokenizer, model))
    how = {"size": size, "seed": args.seed, "progress": ranks.leads, "ranks": ranks}
    evaluation.write_samples(tokenizer, model, path, args.count, **how, **settings)
    args.samples = str(path)
    found = of_pictures(args, ranks)
    return found | {"model": args.checkpoint, "seed": args.seed, "count": args.count, "settings": settings}


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
    tokenizer, model, header = open_models(args)
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
            "expected --reference beside it, which is compared by InceptionV3."
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
