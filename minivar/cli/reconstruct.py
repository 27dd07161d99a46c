"""``minivar reconstruct``: images after tokens and back."""

import argparse

import torch

from minivar import data, sampling
from minivar.cli.shared import (
    MOST_IMAGES,
    PICTURES,
    add_device_arguments,
    add_model_arguments,
    check_number,
    open_tokenizer,
    output,
)
from minivar.distributed import find_device
from minivar.precision import computing, convolution_order


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``minivar reconstruct``."""
    add_model_arguments(parser)
    parser.add_argument("--dataset", default="digits", help="digits, emoji, fashion-mnist, cifar10, folder, shards")
    parser.add_argument("--data", metavar="DIR", help="folder of the dataset, where it is not embedded")
    parser.add_argument("--count", type=int, default=50, help="number of images (default: 50)")
    parser.add_argument("--out", default="reconstructions.png", metavar="PNG", help="default: reconstructions.png")
    add_device_arguments(parser)
    parser.add_argument("--batch-size", type=int, default=100, help="images at a time (default: 100)")


def run(args: argparse.Namespace) -> None:
    """Show images above what is left of them after tokens and back."""
    device = find_device(args.device)
    computing(device, args.precision)  # an error, if it cannot, before the work
    check_number("--count", args.count, 1, MOST_IMAGES)
    check_number("--batch-size", args.batch_size, 1, MOST_IMAGES)
    tokenizer, side = open_tokenizer(args)
    dataset = data.load(args.dataset, "heldout", args.data, side, tokenizer.config.nets.image_channels)
    out = output(args.out, PICTURES)
    tokenizer = tokenizer.to(device, memory_format=convolution_order(device))
    if args.precision == "float32":
        tokenizer = sampling.packed(tokenizer)
    images, _ = dataset.batch(slice(0, args.count))
    parts = []
    for part in images.split(args.batch_size):
        with computing(device):  # in float32: a token is the nearest code, others would be found
            tokens = tokenizer.encode(part.to(device))
        with computing(device, args.precision):
            parts.append(tokenizer.decode(tokens).float().cpu())
    rebuilt = torch.cat(parts)
    error = (rebuilt - images).square().mean().item()
    rows = torch.stack([images, rebuilt], 1).flatten(0, 1)  # each image beside its reconstruction
    from minivar.book import plots  # here, because matplotlib takes a second

    plots.save_images((rows + 1) / 2, out, columns=10)
    print(f"{len(images)} images, each followed by its reconstruction, mean squared error {error:.4f}: {args.out}")
