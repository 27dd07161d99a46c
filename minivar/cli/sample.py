"""``minivar sample``: images of classes."""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from minivar import checkpoints, sampling
from minivar.book import plots
from minivar.cli.shared import SHIPPED_OPTION
from minivar.files import write_atomically
from minivar.models import GPT


def parse_classes(text: str, num_classes: int) -> list[int]:
    """ "0-3,7" -> [0, 1, 2, 3, 7]; ``ValueError`` unless all lie in 0..num_classes - 1."""
    classes: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdigit() or not (last or first).isdigit():
            raise ValueError(f"Classes are written as 3, 0-9 or 1,4-6; got {text!r}.")
        classes += range(int(first), int(last or first) + 1)
    if not classes or max(classes) >= num_classes:
        raise ValueError(f"Classes must lie in 0..{num_classes - 1}; got {text!r}.")
    return classes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``minivar sample``."""
    parser.add_argument("--checkpoint", **SHIPPED_OPTION)
    parser.add_argument("--classes", default="0-9", help="for instance 7, 0-9 or 1,3-5; used in rotation")
    parser.add_argument("--count", type=int, default=100, help="number of images (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same images (default: 0)")
    parser.add_argument("--out", default="grid.png", metavar="PNG", help="where the grid goes (default: grid.png)")
    parser.add_argument("--npz", metavar="NPZ", help="also write images in [0, 1] and labels")
    parser.add_argument("--cfg", type=float, help="guidance; none is 0 for VAR, 1 for raster (default: the preset's)")
    parser.add_argument("--top-k", type=int, help="keep this many codes, 0: all (default: the preset's)")
    parser.add_argument("--top-p", type=float, help="keep this probability mass; all is 0 for VAR, 1 for raster")
    parser.add_argument("--smooth", action="store_true", default=None, help="mix codes softly (VAR only)")
    parser.add_argument("--temperature", type=float, help="divides the logits (raster only; default: the preset's)")


def run(args: argparse.Namespace) -> None:
    """Draw images of the given classes, in rotation."""
    tokenizer, model, header = checkpoints.load_pair(args.checkpoint)
    classes = parse_classes(args.classes, model.config.num_classes)
    if args.count < 1:
        raise ValueError(f"--count must be at least 1; got {args.count}.")
    settings = dict(header.get("sampling", {}))
    options = ("cfg", "top_k", "top_p", "temperature", "smooth")
    settings |= {k: v for k in options if (v := getattr(args, k)) is not None}
    foreign = "smooth" if isinstance(model, GPT) else "temperature"
    if foreign in settings:
        raise ValueError(f"--{foreign} is not for {type(model).__name__} models; got one in {args.checkpoint}.")
    labels = torch.tensor([classes[i % len(classes)] for i in range(args.count)])
    generator = torch.Generator().manual_seed(args.seed)
    started = time.time()
    parts = [sampling.generate(model, tokenizer, part, generator, **settings).images for part in labels.split(100)]
    images = torch.cat(parts)
    plots.save_images(images, args.out, columns=len(classes) if len(classes) > 1 else 10)
    if args.npz:
        pixels = images.squeeze(1) if images.shape[1] == 1 else images
        arrays = {"images": pixels.numpy().astype(np.float32), "labels": labels.numpy()}
        write_atomically(Path(args.npz), lambda path: _save_npz(path, arrays))
    print(f"{args.count} images in {time.time() - started:.1f} s with {settings}: {args.out}")


def _save_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with open(path, "wb") as file:
        np.savez_compressed(file, **arrays)
