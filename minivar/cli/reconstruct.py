"""``minivar reconstruct``: images after tokens and back."""

import argparse
from pathlib import Path

import torch

from minivar import checkpoints, data
from minivar.book import plots
from minivar.cli.shared import SHIPPED_OPTION


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``minivar reconstruct``."""
    parser.add_argument("--checkpoint", **SHIPPED_OPTION)
    parser.add_argument("--dataset", default="digits", help="digits, emoji, fashion-mnist, cifar10, folder, shards")
    parser.add_argument("--data", metavar="DIR", help="folder of the dataset, where it is not embedded")
    parser.add_argument("--count", type=int, default=50, help="number of images (default: 50)")
    parser.add_argument("--out", default="reconstructions.png", metavar="PNG", help="default: reconstructions.png")


def run(args: argparse.Namespace) -> None:
    """Show images above what is left of them after tokens and back."""
    if args.count < 1:
        raise ValueError(f"--count must be at least 1; got {args.count}.")
    tokenizer, _ = checkpoints.load(Path(args.checkpoint) / "tokenizer.safetensors", "VQVAE")
    channels, side = tokenizer.config.nets.image_channels, (tokenizer.config.image_size or (256, 256))[0]
    images, _ = data.load(args.dataset, "heldout", args.data, side, channels).batch(slice(0, args.count))
    rebuilt = tokenizer.decode(tokenizer.encode(images))
    error = (rebuilt - images).square().mean().item()
    rows = torch.stack([images, rebuilt], 1).flatten(0, 1)  # each image beside its reconstruction
    plots.save_images((rows + 1) / 2, args.out, columns=10)
    print(f"{len(images)} images, each followed by its reconstruction, mean squared error {error:.4f}: {args.out}")
