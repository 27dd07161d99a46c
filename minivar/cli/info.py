"""``minivar info``: what a preset or a checkpoint is made of."""

import argparse

import torch

from minivar import checkpoints, models, presets
from minivar.analysis import drawing
from minivar.analysis.summary import describe
from minivar.tokenizer import VQVAE, Pixels
from minivar.training import draws_pixels


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``minivar info``."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--preset", default="digits", help=f"one of {', '.join(presets.PRESETS)}")
    what.add_argument("--checkpoint", metavar="DIR", help="folder with tokenizer and transformer")
    what.add_argument(
        "--published", metavar="NAME", help=f"nothing is downloaded; one of {', '.join(checkpoints.MODELS)}"
    )
    share = "share of a GPU's peak that drawing with --published achieves, which is assumed (default: 0.3)"
    parser.add_argument("--utilisation", type=float, default=0.3, help=share)


def run(args: argparse.Namespace) -> None:
    """Print what a preset or a checkpoint is made of, and what drawing from a published one takes."""
    needed = None
    if args.published:
        needed = drawing.drawing(args.published, args.utilisation)
        tokenizer, model = drawing.shapes(needed["model"])
        row = needed["model"]
        print(f"published {row.name}, with code under the {row.licence} licence: {row.address}")
    elif args.checkpoint:
        tokenizer, model, header = checkpoints.load_pair(args.checkpoint)
        print(f"{args.checkpoint} (preset {header.get('preset', 'unknown')})")
    else:
        preset = presets.get(args.preset)
        with torch.device("meta"):
            model = models.build(preset.model).eval().to("meta")  # constants too
            tokenizer = Pixels() if draws_pixels(preset) else VQVAE(preset.tokenizer).eval()
        print(f"preset {preset.name}")
    for key, value in describe(tokenizer, model).items():
        print(f"  {key:34}{value:,}" if isinstance(value, int) else f"  {key:34}{value}")
    if needed:
        print(drawing.as_text(needed, drawing.calibrate()))
