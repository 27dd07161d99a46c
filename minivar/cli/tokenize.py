"""``minivar tokenize``: a dataset as tokens on disk."""

import argparse
import dataclasses
from pathlib import Path

from minivar import checkpoints, data, presets
from minivar.cli.shared import SHIPPED, add_workers_argument
from minivar.data import CROPS, SPLITS
from minivar.distributed import join_ranks
from minivar.precision import tf32
from minivar.tokenizer import VQVAE, TokenCache, write_cache


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``minivar tokenize``."""
    parser.add_argument("--checkpoint", default=str(SHIPPED), metavar="DIR", help="folder with tokenizer.safetensors")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--preset", help="whose images to take (default: the preset that the tokenizer is from)")
    what.add_argument("--dataset", help="take digits, emoji, fashion-mnist, cifar10, folder or shards instead")
    parser.add_argument("--data", metavar="DIR", help="folder of the dataset, where it is not embedded")
    parser.add_argument("--split", choices=SPLITS, default="train", help="default: train")
    crops = "of folders and shards: how a square is cut out (default: as the preset's transformer is trained; random "
    crops += "and zoom need --views)"
    parser.add_argument("--crop", choices=tuple(CROPS), help=crops)
    parser.add_argument("--views", type=int, help="random crops of each image; training takes them in turn")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the tokens")
    parser.add_argument("--batch-size", type=int, default=64, help="images encoded at a time (default: 64)")
    parser.add_argument("--shard-size", type=int, default=10_000, help="images in a file (default: 10000)")
    add_workers_argument(parser)
    device = "cpu or cuda (default: cpu); under torchrun each process does a part"
    parser.add_argument("--device", default="cpu", help=device)


def run(args: argparse.Namespace) -> None:
    """Write the tokens of a dataset into a folder, for train --tokens; the same command resumes."""
    tokenizer, header = checkpoints.load(Path(args.checkpoint) / "tokenizer.safetensors", "VQVAE")
    with join_ranks(args.device) as ranks:
        images = images_to_tokenize(args, tokenizer, header.get("preset"))
        numbers = {"shard_size": args.shard_size, "batch_size": args.batch_size, "workers": args.workers}
        with tf32(ranks.device, "float32"):  # tokens are made once: let them be the nearest codes
            complete = write_cache(tokenizer, images, args.out, ranks=ranks, progress=ranks.leads, **numbers)
        if complete:
            cache = TokenCache(args.out, verify=False)
            lost = f"; {len(cache.unreadable)} could not be read, see cache.json" if cache.unreadable else ""
            print(f"The tokens of {len(cache):,} images x {cache.views} views are in {args.out}{lost}.")


def images_to_tokenize(args: argparse.Namespace, tokenizer: VQVAE, trained_as: str | None):
    """The dataset that was asked for; without --dataset that of --preset, or of the preset the tokenizer is from."""
    if not (args.dataset or args.preset or trained_as):
        raise ValueError(f"{args.checkpoint} does not say what to tokenize: expected --dataset or --preset.")
    preset = None if args.dataset else presets.get(args.preset or trained_as)
    config, options = tokenizer.config, {key: v for key in ("crop", "views") if (v := getattr(args, key)) is not None}
    if preset and args.split in ("train", "validation") and not options:  # as minivar train reads it, at this size
        preset = dataclasses.replace(preset, tokenizer=config) if config.image_size else preset
        if args.split == "train":
            return presets.training_set(preset, args.data, "model")
        if (validation := presets.validation_set(preset, args.data)) is not None:
            return validation
    height, _ = config.image_size or (preset and preset.tokenizer.image_size) or (256, 256)
    name, channels = args.dataset or preset.dataset, config.nets.image_channels
    return data.load(name, args.split, args.data, height, channels, **options)
