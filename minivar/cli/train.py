"""``minivar train``: a tokenizer and a transformer, by the numbers of a preset."""

import argparse
import dataclasses
from pathlib import Path

import torch

from minivar import checkpoints, presets, training
from minivar.cli.shared import SHIPPED_TEXT, add_set_argument, add_workers_argument
from minivar.distributed import STRATEGIES, join_ranks
from minivar.models import TextEncoder, caption_shape
from minivar.tokenizer import TokenCache


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``minivar train``."""
    names = f"one of {', '.join(presets.PRESETS)} (default: digits, or with --init the one of that checkpoint)"
    parser.add_argument("--preset", help=names)
    begin = (
        "fine-tune: folder with a trained pair, minivar's or published files of VAR or LlamaGen, to start from; the"
    )
    begin += " classes are those of the data, and epochs and base_lr had better be lower than in training"
    parser.add_argument("--init", metavar="DIR", help=begin)
    parser.add_argument("--out", metavar="DIR", help="folder for checkpoints and logs (default: runs/PRESET)")
    folder = "folder of the dataset, where it is not embedded; with --tokens, of its held-out images alone"
    parser.add_argument("--data", metavar="DIR", help=folder)
    cached = "train the transformer on the tokens that minivar tokenize wrote there; the tokenizer is not trained"
    parser.add_argument("--tokens", metavar="DIR", help=cached)
    heldout = "what minivar tokenize --split validation wrote, for the held-out loss (default: from the images)"
    parser.add_argument("--validation-tokens", metavar="DIR", help=heldout)
    parser.add_argument("--no-verify", action="store_true", help="do not compare the checksums of --tokens")
    taken = "folder with the tokenizer.safetensors to use as it is (default with --tokens: the folder --out)"
    parser.add_argument("--tokenizer", metavar="DIR", help=taken)
    weights = "torchvision's vgg16 weights, for the perceptual term of the loss (default: downloaded where needed)"
    parser.add_argument("--backbone-weights", metavar="FILE", help=weights)
    encoder = "for presets that draw from captions (default: the one in --out, else the shipped one)"
    parser.add_argument("--text-encoder", metavar="FILE", help=encoder)
    parser.add_argument("--stage", choices=("all", "tokenizer"), default="all", help="what to train (default: all)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    strategies = "under torchrun: ddp, the model whole on each GPU, or fsdp, spread over them (default: ddp)"
    parser.add_argument("--strategy", choices=STRATEGIES, default="ddp", help=strategies)
    add_workers_argument(parser)
    add_set_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Train a tokenizer and a transformer, next-scale or raster; the same command resumes."""
    if args.stage == "tokenizer" and (args.tokens or args.tokenizer or args.init):
        raise ValueError("--stage tokenizer learns from pixels; got --tokens, --tokenizer or --init, which have one.")
    if args.init and args.tokenizer:
        raise ValueError("--init brings its tokenizer along; got --tokenizer as well.")
    if args.init:
        tokenizer, model, name = checkpoints.load_any_pair(args.init)
        if caption_shape(model.config):
            raise ValueError(f"{args.init} draws from captions, expected a model of classes to fine-tune.")
        preset = presets.get(args.preset or _preset_of(model, name), args.set)
        preset, tokenizer = training.adapted(preset, tokenizer, model)
    else:
        preset = presets.get(args.preset or "digits", args.set)
    out = Path(args.out or f"runs/{preset.name}")
    text = _text_encoder(args, preset, out)
    with join_ranks(args.device, args.strategy) as ranks:
        common = {"ranks": ranks, "progress": ranks.leads, "workers": args.workers}

        def tokens_in(folder: str) -> TokenCache:
            return TokenCache(folder, verify=not args.no_verify, ranks=ranks)

        images = tokens_in(args.tokens) if args.tokens else presets.training_set(preset, args.data, "model")
        heldout_images = presets.validation_set(preset, args.data, "model")
        heldout = tokens_in(args.validation_tokens) if args.validation_tokens else heldout_images
        start = None
        if args.init:
            classes = len(images.class_names)
            preset = dataclasses.replace(preset, model=dataclasses.replace(preset.model, num_classes=classes))
            start = training.starting_weights(model, classes, preset.model_train.seed)
            training.check_run(preset, images, args.stage, ranks, heldout)
            if args.tokens:
                images.check(tokenizer, preset.model)
            training.keep_tokenizer(tokenizer, Path(args.init), out, ranks)
        elif args.tokens or args.tokenizer:  # refused where a preset draws pixels
            tokenizer = training.take_tokenizer(
                Path(args.tokenizer or out), out, preset, images, ranks, heldout, text
            )
        else:
            training.check_run(preset, images, args.stage, ranks, heldout, text)
            weights = args.backbone_weights and Path(args.backbone_weights)
            options = {"backbone_weights": weights, "validation": heldout_images, **common}
            same = preset.tokenizer_crop == preset.model_crop
            pixels = images if same else presets.training_set(preset, args.data, "tokenizer")
            tokenizer = training.train_tokenizer(preset, pixels, out, **options)
        if args.stage == "all":
            more = {"validation": heldout, "start": start, "text": text}
            training.train_model(preset, tokenizer, images, out, **more, **common)
        if ranks.leads:
            print(f"Checkpoints and metrics.jsonl are in {out}.")


def _text_encoder(args: argparse.Namespace, preset: training.Preset, out: Path) -> TextEncoder | None:
    """The frozen encoder of a preset that draws from captions; ``ValueError`` where one is given to another."""
    if caption_shape(preset.model) is None:
        if args.text_encoder:
            raise ValueError(f"{preset.name} draws classes: expected no --text-encoder, got {args.text_encoder}.")
        return None
    own = out / checkpoints.TEXT_FILE
    return checkpoints.load(Path(args.text_encoder or (own if own.is_file() else SHIPPED_TEXT)), "TextEncoder")[0]


def _preset_of(model: torch.nn.Module, name: str | None) -> str:
    """The preset that a checkpoint was trained by, or else the first one with a transformer of that shape."""
    if name in presets.PRESETS:
        return name
    shape = (type(model.config), model.config.depth, model.config.width)
    for each, preset in presets.PRESETS.items():
        if preset.dataset == "quartets":  # the ladder of chapter 11, which is no recipe for anything else
            continue
        if (type(preset.model), preset.model.depth, preset.model.width) == shape:
            return each
    raise ValueError(f"No preset has a transformer of depth {shape[1]} and width {shape[2]}: expected --preset.")
