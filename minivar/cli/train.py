"""``minivar train``: a tokenizer and a transformer, by the numbers of a preset."""

import argparse
from pathlib import Path

from minivar import presets, training
from minivar.distributed import STRATEGIES, join_ranks
from minivar.tokenizer import TokenCache


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``minivar train``."""
    parser.add_argument("--preset", default="digits", help=f"one of {', '.join(presets.PRESETS)} (default: digits)")
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
    parser.add_argument("--stage", choices=("all", "tokenizer"), default="all", help="what to train (default: all)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps (default: cpu)")
    strategies = "under torchrun: ddp, the model whole on each GPU, or fsdp, spread over them (default: ddp)"
    parser.add_argument("--strategy", choices=STRATEGIES, default="ddp", help=strategies)
    override = "change one field of the preset, as in model_train.epochs=5, model.schedule=1,2,4,8; repeatable"
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help=override)


def run(args: argparse.Namespace) -> None:
    """Train a tokenizer and a transformer, next-scale or raster; the same command resumes."""
    preset = presets.get(args.preset, args.set)
    if args.stage == "tokenizer" and (args.tokens or args.tokenizer):
        raise ValueError("--stage tokenizer learns from pixels; got --tokens or --tokenizer, which are made already.")
    out = Path(args.out or f"runs/{preset.name}")
    with join_ranks(args.device, args.strategy) as ranks:
        common = {"ranks": ranks, "progress": ranks.leads}

        def tokens_in(folder: str) -> TokenCache:
            return TokenCache(folder, verify=not args.no_verify, ranks=ranks)

        images = tokens_in(args.tokens) if args.tokens else presets.training_set(preset, args.data, "model")
        heldout_images = presets.validation_set(preset, args.data)
        heldout = tokens_in(args.validation_tokens) if args.validation_tokens else heldout_images
        if args.tokens or args.tokenizer:
            tokenizer = training.take_tokenizer(Path(args.tokenizer or out), out, preset, images, ranks, heldout)
        else:
            training.check_run(preset, images, args.stage, ranks, heldout)
            weights = args.backbone_weights and Path(args.backbone_weights)
            options = {"backbone_weights": weights, "validation": heldout_images, **common}
            same = preset.tokenizer_crop == preset.model_crop
            pixels = images if same else presets.training_set(preset, args.data, "tokenizer")
            tokenizer = training.train_tokenizer(preset, pixels, out, **options)
        if args.stage == "all":
            training.train_model(preset, tokenizer, images, out, validation=heldout, **common)
        if ranks.leads:
            print(f"Checkpoints and metrics.jsonl are in {out}.")
