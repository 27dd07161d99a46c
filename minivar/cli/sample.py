"""``minivar sample``: images of classes."""

import argparse
import dataclasses
import re
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from minivar import checkpoints, presets, sampling
from minivar.cli.shared import (
    MOST_IMAGES,
    PICTURES,
    add_accept_argument,
    add_device_arguments,
    add_model_arguments,
    check_number,
    open_models,
    output,
    save_npz,
)
from minivar.data import class_names, find_class
from minivar.distributed import find_device, join_ranks
from minivar.evaluation import candidates, in_batches, load_digit_classifier, surest, write_samples
from minivar.models import VAR, caption_shape
from minivar.precision import computing, convolution_order

MOST_FORMING = 10  # pictures of --gif


def parse_classes(text: str, num_classes: int, find: Callable[[str], int] | None = None) -> list[int]:
    """ "0-3,7" -> [0, 1, 2, 3, 7]; ``ValueError`` unless all lie in 0..num_classes - 1.

    ``find`` gives the number of a class that is named, "3, golden retriever", where the classes have names.
    """
    classes: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*([0-9]{1,9})(?:-([0-9]{1,9}))?\s*", part)
        if not found and find and re.search("[A-Za-z]", part):
            classes.append(find(part))
            continue
        if not found:
            raise ValueError(f"Classes are written as 3, 0-9 or 1,4-6; got {text!r}.")
        first, last = int(found[1]), int(found[2] or found[1])
        if first > last:
            raise ValueError(f"A range of classes has the smaller one first, as in 0-9; got {text!r}.")
        if last >= num_classes:
            raise ValueError(f"Classes must lie in 0..{num_classes - 1}; got {text!r}.")
        classes += range(first, last + 1)
    return classes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``minivar sample``."""
    add_model_arguments(parser)
    classes = "for instance 7, 0-9, 1,3-5 or, of ImageNet, golden retriever; in rotation (default: the first ten)"
    parser.add_argument("--classes", help=classes)
    texts = 'of models of captions, for instance "red apple, openmoji"; repeatable, in rotation'
    parser.add_argument("--text", action="append", metavar="TEXT", help=texts)
    encoder = "of --published models of captions: folder or name of FLAN-T5 (default: google/flan-t5-xl, of the Hub)"
    parser.add_argument("--text-encoder", metavar="DIR", help=encoder)
    parser.add_argument("--count", type=int, default=100, help="number of images (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same images (default: 0)")
    parser.add_argument("--out", default="grid.png", metavar="PNG", help="where the grid goes (default: grid.png)")
    parser.add_argument("--npz", metavar="NPZ", help="also write images in [0, 1] and labels")
    forming = "also write the first ten as they form, scale by scale or row by row"
    parser.add_argument("--gif", metavar="GIF", help=forming)
    beside = "folder of a second model, whose pictures of the same classes form beside those of --gif"
    parser.add_argument("--beside", metavar="DIR", help=beside)
    evaluator = "in place of the grid: equally many images of each class, uint8, as FID's evaluator reads them;"
    evaluator += " goes on where it was stopped, and under torchrun each process draws a part"
    parser.add_argument("--evaluator", metavar="NPZ", help=evaluator)
    parser.add_argument("--random-labels", action="store_true", help="for --evaluator: random classes, as LlamaGen")
    resized = "side in pixels to which --evaluator resizes the images (default: as they are)"
    parser.add_argument("--size", type=int, help=resized)
    parser.add_argument("--cfg", type=float, help="guidance; none is 0 for VAR, 1 for raster (default: the preset's)")
    parser.add_argument("--top-k", type=int, help="keep this many codes, 0: all (default: the preset's)")
    parser.add_argument("--top-p", type=float, help="keep this probability mass; all is 0 for VAR, 1 for raster")
    parser.add_argument("--smooth", action="store_true", default=None, help="mix codes softly (VAR only)")
    parser.add_argument("--temperature", type=float, help="divides the logits (raster only; default: the preset's)")
    parser.add_argument("--steps", type=int, help="passes for an image (MaskGIT and DiT only; default: the preset's)")
    noise = "of the choice which tokens are kept (MaskGIT only; default: the preset's)"
    parser.add_argument("--choice-temperature", type=float, help=noise)
    parser.add_argument("--method", choices=("ancestral", "ddim"), help="of DiT only (default: the preset's)")
    add_accept_argument(parser)
    add_device_arguments(parser)
    together = "images drawn at a time; another number, like another device, draws other images (default: 100, or"
    together += " fewer where their key-value caches would take more than 8 GB)"
    parser.add_argument("--batch-size", type=int, help=together)
    add_economies(parser)


def add_economies(parser: argparse.ArgumentParser) -> None:
    """What may be left out of drawing (``sampling.Economy``)."""
    group = parser.add_argument_group("less arithmetic", "for VAR; chapter 07a measures what each saves and costs")
    group.add_argument(
        "--guided-scales", type=int, metavar="N", help="guide the first N scales; the others cost half"
    )
    group.add_argument("--scales", type=int, metavar="N", help="draw the first N scales")
    group.add_argument("--kept-tokens", type=float, metavar="SHARE", help="of the last scale, to be computed")
    group.add_argument("--refined-from", type=int, metavar="N", help="scales before the model of --refiner goes on")
    group.add_argument("--refiner", metavar="DIR", help="folder with the var.safetensors of a small model")
    parts = "parts in which the last scale is drawn, for models trained with model.revealed"
    group.add_argument("--sub-steps", type=int, metavar="N", help=parts)
    group.add_argument("--int8", action="store_true", help="the matrices of the blocks in 8 bits, on a CPU")


def run(args: argparse.Namespace) -> None:
    """Draw images of classes or texts, in rotation; or, with --evaluator, equally many of each class in a file."""
    if args.evaluator:
        draw_for_evaluator(args)
        return
    if args.random_labels:
        raise ValueError("--random-labels is for --evaluator; got it without.")
    if args.size is not None:
        raise ValueError(f"--size is for --evaluator; got --size {args.size} without it.")
    check_gif(args)
    if args.text_encoder and not args.text:
        raise ValueError(f"--text-encoder is for --text; got {args.text_encoder} without it.")
    device = find_device(args.device)
    numbers = computing(device, args.precision)
    check_numbers(args)
    tokenizer, model, header = open_models(args, args.text is not None)
    classes = range(len(args.text)) if args.text else find_classes(args, model, header)
    features = features_of(args, model, header) if args.text else None
    settings = settings_of(args, model, header)
    economies = _economies(args, model, device)
    out, npz = output(args.out, PICTURES), output(args.npz) if args.npz else None
    wanted = torch.tensor([classes[i % len(classes)] for i in range(args.count)])
    labels = to_be_drawn(args, header, wanted)
    lanes = lanes_of(args, (tokenizer, model, settings), wanted[:MOST_FORMING])
    generator = torch.Generator(device).manual_seed(args.seed)
    tokenizer, model = tokenizer.to(device, memory_format=convolution_order(device)), model.to(device)
    if args.precision == "float32":
        tokenizer, model = sampling.packed(tokenizer), model if args.int8 else sampling.packed(model)
    if args.int8:
        model = sampling.eight_bits(model)
    generate = sampling.sample_economically if economies else sampling.generate
    started = time.time()
    parts = []
    with numbers:
        for part in labels.split(args.batch_size or sampling.images_at_once(model.config, args.precision)):
            cond = (part if features is None else features[part]).to(device)
            drawn = generate(model, tokenizer, cond, generator=generator, **economies, **settings)
            parts.append(drawn.images.float().cpu())
    from minivar.book import plots  # here, because matplotlib takes a second

    images = torch.cat(parts)
    if args.accept is not None:
        images = images[surest(in_batches(load_digit_classifier()[0], images * 2 - 1), labels, wanted)]
    plots.save_images(images, out, columns=len(classes) if len(classes) > 1 else 10)
    if npz:
        save_npz(npz, images, labels=wanted)
    print(f"{args.count} images in {time.time() - started:.1f} s with {settings}: {args.out}")
    if lanes:
        with computing(device, args.precision):
            write_gif(args, lanes, wanted[:MOST_FORMING].to(device))


def check_gif(args: argparse.Namespace) -> None:
    """Raise ``ValueError`` for what does not go with --gif, or needs it."""
    if args.gif is None:
        if args.beside is not None:
            raise ValueError(f"--beside is for --gif; got {args.beside} without.")
        return
    others = [*_given_economies(args), *(["--accept"] if args.accept is not None else [])]
    if others:
        raise ValueError(f"--gif shows pictures that are drawn in full, and all of them; got {', '.join(others)}.")
    output(args.gif, (".gif",))


def lanes_of(args: argparse.Namespace, first: tuple, labels: Tensor) -> dict[str, tuple]:
    """For --gif: (tokenizer, model, settings) of the model and of the one beside it, by a name; else nothing."""
    if args.gif is None:
        return {}
    lanes = [(args.checkpoint, *first)]
    if args.beside is not None:
        tokenizer, model, header = checkpoints.load_pair(args.beside)
        if int(labels.max()) >= (classes := model.config.num_classes):
            raise ValueError(
                f"{args.beside} has the classes 0..{classes - 1}; got class {int(labels.max())} to draw."
            )
        lanes.append((args.beside, tokenizer, model, dict(header.get("sampling", {}))))
    for _, _, model, _ in lanes:
        sampling.check_forming(model)
    named = {}
    for folder, tokenizer, model, how in lanes:
        name = f"{'next scale' if isinstance(model, VAR) else 'raster order'}: {Path(folder).name}"
        named[f"{name} (2)" if name in named else name] = (tokenizer, model, how)
    return named


def write_gif(args: argparse.Namespace, lanes: dict[str, tuple], labels: Tensor) -> None:
    """The pictures of --gif, those that ``--count 10`` draws with this seed, as they form."""
    from minivar.book import animations

    stages = {}
    for name, (tokenizer, model, settings) in lanes.items():
        generator = torch.Generator(labels.device).manual_seed(args.seed)
        pair = (model.to(labels.device), tokenizer.to(labels.device))
        drawn = sampling.forming(*pair, labels, generator, **settings)
        stages[name] = [stage._replace(images=stage.images.float().cpu()) for stage in drawn]
    animations.side_by_side(stages).save(args.gif)
    print(f"The first {len(labels)} as they form: {args.gif}")


def find_classes(args: argparse.Namespace, model, header: dict) -> list[int]:
    """The numbers of ``--classes``, or of the first ten."""
    first_ten = f"0-{min(model.config.num_classes, 10) - 1}"
    named = header.get("classes") == "imagenet" and model.config.num_classes == len(class_names())
    find = find_class if named else None
    return parse_classes(first_ten if args.classes is None else args.classes, model.config.num_classes, find)


def features_of(args: argparse.Namespace, model, header: dict) -> Tensor:
    """What the model reads of ``--text``, (texts, T, caption_dim); ``ValueError`` for a text that cannot be read."""
    if args.classes is not None:
        raise ValueError(f"--text and --classes each say what to draw: expected one of them, got {args.classes} too.")
    if args.published and not (Path(args.published) / checkpoints.TEXT_FILE).is_file():
        tokens, dim = caption_shape(model.config)
        name = args.text_encoder or checkpoints.flan_t5.MODEL
        return checkpoints.caption_features(args.text, name, tokens, dim, args.offline)
    if args.text_encoder:
        raise ValueError(f"{args.checkpoint} has its own text encoder: expected no --text-encoder.")
    return checkpoints.load_text(Path(args.checkpoint), model, header).read(args.text)


def to_be_drawn(args: argparse.Namespace, header: dict, wanted: Tensor) -> Tensor:
    """The classes to draw: those that are wanted, with ``--accept`` more; ``ValueError`` where nobody can choose."""
    if args.accept is None:
        return wanted
    preset = presets.PRESETS.get(header.get("preset", ""))
    if (header.get("dataset") or (preset and preset.dataset)) != "digits":
        raise ValueError(f"--accept needs a classifier, and there is one of the digits alone; got {args.checkpoint}.")
    if args.accept > 0:
        check_number("--count / --accept", round(len(wanted) / args.accept), 1, MOST_IMAGES)
    return candidates(wanted, args.accept, args.seed)


def check_numbers(args: argparse.Namespace) -> None:
    """Raise ``ValueError`` for numbers that no images can be drawn with."""
    check_number("--count", args.count, 1, MOST_IMAGES)
    check_number("--seed", args.seed, 0, 2**64 - 1)
    for option, value, most in (("--batch-size", args.batch_size, MOST_IMAGES), ("--size", args.size, 65_536)):
        if value is not None:
            check_number(option, value, 1, most)


def draw_for_evaluator(args: argparse.Namespace) -> None:
    """Equally many images of each class into one file, by one process or, under torchrun, by all of them together."""
    if args.classes or args.text or args.npz or args.gif or args.beside or args.accept is not None:
        raise ValueError(
            "--evaluator draws all classes into one file; got --classes, --text, --npz, --gif or --accept."
        )
    if given := _given_economies(args):
        raise ValueError(f"--evaluator draws with all the arithmetic there is; got {', '.join(given)}.")
    check_numbers(args)
    with join_ranks(args.device) as ranks:
        tokenizer, model, header = open_models(args)
        settings = settings_of(args, model, header)
        path = output(args.evaluator, (".npz",))
        tokenizer = tokenizer.to(ranks.device, memory_format=convolution_order(ranks.device))
        model = model.to(ranks.device)
        how = {"seed": args.seed, "progress": ranks.leads, "precision": args.precision, "ranks": ranks}
        how["random_labels"] = args.random_labels
        write_samples(tokenizer, model, path, args.count, args.batch_size, args.size, **how, **settings)
        if ranks.leads:
            print(f"{args.count} images with {settings}: {path}")


def settings_of(args: argparse.Namespace, model, header: dict) -> dict[str, float]:
    """The sampling settings in the checkpoint, but for those that were given; ``ValueError`` for another model's."""
    settings = dict(header.get("sampling", {}))
    options = ("cfg", "top_k", "top_p", "temperature", "smooth", "steps", "choice_temperature", "method")
    settings |= {k: v for k in options if (v := getattr(args, k, None)) is not None}
    known = {field.name for field in dataclasses.fields(sampling.SETTINGS[type(model.config)])}
    foreign = [name for name in settings if name not in known | ({"smooth"} if isinstance(model, VAR) else set())]
    if foreign:
        option, kind = foreign[0].replace("_", "-"), type(model).__name__
        raise ValueError(f"--{option} is not for {kind} models; got one in {args.checkpoint}.")
    return settings


def _given_economies(args: argparse.Namespace) -> list[str]:
    """The options of ``add_economies`` that were given."""
    names = ("guided_scales", "scales", "kept_tokens", "refined_from", "refiner", "sub_steps", "int8")
    return [f"--{name.replace('_', '-')}" for name in names if getattr(args, name) not in (None, False)]


def _economies(args: argparse.Namespace, model, device: torch.device) -> dict[str, object]:
    """What ``sample_economically`` takes besides settings, if any; ``ValueError`` for what does not go together."""
    given = _given_economies(args)
    if not given:
        return {}
    if not isinstance(model, VAR) or args.smooth:
        what = "--smooth" if args.smooth else f"a {type(model).__name__} in {args.checkpoint}"
        raise ValueError(f"{', '.join(given)} can only draw with a VAR model and without --smooth; got {what}.")
    if args.int8 and (device.type != "cpu" or args.precision != "float32"):
        raise ValueError(f"--int8 is for a CPU and --precision float32; got {device} and {args.precision}.")
    fields = [field.name for field in dataclasses.fields(sampling.Economy)]
    economy = sampling.Economy(**{name: value for name in fields if (value := getattr(args, name)) is not None})
    refiner = None
    if args.refiner:
        refiner = checkpoints.load(Path(args.refiner) / "var.safetensors", "VAR")[0].to(device)
    economy.check_for(model, refiner)
    return {"economy": economy, "refiner": refiner and sampling.packed(refiner)}
