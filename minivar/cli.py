"""The command line: ``minivar train | tokenize | sample | reconstruct | info | complexity | plan | report``.

Also ``python -m minivar.cli``. Every error that a user can cause is one sentence on standard error and exit code 2.
"""

import argparse
import dataclasses
import json
import math
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import torch

from minivar import caches, checkpoints, complexity, data, parallel, planner, plots, presets, sampler, train
from minivar.raster import GPT, GPTConfig
from minivar.tokenizer import VQVAE
from minivar.transformer import VAR

SHIPPED = data.DATA_ROOT / "checkpoints" / "digits"


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


def cmd_train(args: argparse.Namespace) -> None:
    """Train a tokenizer and a transformer, next-scale or raster; the same command resumes."""
    overrides = dict(part.partition("=")[::2] for part in args.set)
    preset = presets.get(args.preset, {key: presets.parse_value(value) for key, value in overrides.items()})
    if args.stage == "tokenizer" and (args.tokens or args.tokenizer):
        raise ValueError("--stage tokenizer learns from pixels; got --tokens or --tokenizer, which are made already.")
    out = Path(args.out or f"runs/{preset.name}")
    with parallel.workers(args.device, args.strategy) as these:
        if args.tokens:
            images = caches.TokenCache(args.tokens, verify=not args.no_verify, these=these)
        else:
            images = data.training_set(preset, args.data)
        if args.tokens or args.tokenizer:
            tokenizer = take_tokenizer(Path(args.tokenizer or out), out, preset, images, these)
        else:
            check_run(preset, images, args.stage, these)
            weights = args.backbone_weights and Path(args.backbone_weights)
            tokenizer = train.train_tokenizer(
                preset, images, out, progress=these.leads, these=these, backbone_weights=weights
            )
        if args.stage == "all":
            train.train_model(preset, tokenizer, images, out, progress=these.leads, these=these)
        if these.leads:
            print(f"Checkpoints and metrics.jsonl are in {out}.")


def cmd_plan(args: argparse.Namespace) -> None:
    """Print what training a preset's transformer will need: memory, arithmetic, days, data."""
    numbers = {"gpu": args.gpu, "strategy": args.strategy, "utilisation": args.utilisation}
    options = {"recompute": args.recompute or None, "accumulate": args.accumulate}
    found = planner.plan(args.preset, args.gpus, **numbers, **options)
    print(planner.slurm_script(args.preset, args.gpus, args.strategy) if args.slurm else planner.as_text(found))


def check_run(preset: presets.Preset, images, stage: str, these: parallel.Workers) -> None:
    """Raise ``ValueError`` before hours of training for what would only fail after them."""
    if stage == "tokenizer":
        return
    got, expected = len(images.class_names), preset.model.num_classes
    if got != expected:
        raise ValueError(f"The preset has {expected} classes, the data has {got}: add --set model.num_classes={got}.")
    checkpoints.check_pair(preset.tokenizer, preset.model)
    train.check_config(preset.model_train, these, len(images))


def take_tokenizer(folder: Path, out: Path, preset: presets.Preset, images, these: parallel.Workers) -> VQVAE:
    """A tokenizer that is trained already; a run that takes it from elsewhere gets a copy.

    Raises ``ValueError`` unless preset, data and tokenizer belong together.
    """
    given, own = folder / "tokenizer.safetensors", out / "tokenizer.safetensors"
    tokenizer, _ = checkpoints.load(given, "VQVAE")
    check_run(dataclasses.replace(preset, tokenizer=tokenizer.config), images, "all", these)
    if isinstance(images, caches.TokenCache):
        images.check(tokenizer, preset.model)
    if own.is_file():
        there, _ = checkpoints.load(own, "VQVAE")
        if caches.weights_fingerprint(there) != caches.weights_fingerprint(tokenizer):
            raise ValueError(f"{out} has a tokenizer of its own, another than {folder} has: choose another --out.")
    elif these.leads:
        checkpoints.write_atomically(own, lambda temporary: shutil.copyfile(given, temporary))
    return tokenizer


def cmd_tokenize(args: argparse.Namespace) -> None:
    """Write the tokens of a dataset into a folder, for train --tokens; the same command resumes."""
    tokenizer, header = checkpoints.load(Path(args.checkpoint) / "tokenizer.safetensors", "VQVAE")
    with parallel.workers(args.device) as these:
        images = images_to_tokenize(args, tokenizer, header.get("preset"))
        sizes = {"shard_size": args.shard_size, "batch_size": args.batch_size}
        if caches.write_cache(tokenizer, images, args.out, these=these, progress=these.leads, **sizes):
            cache = caches.TokenCache(args.out, verify=False)
            lost = f"; {len(cache.unreadable)} could not be read, see cache.json" if cache.unreadable else ""
            print(f"The tokens of {len(cache):,} images x {cache.views} views are in {args.out}{lost}.")


def images_to_tokenize(args: argparse.Namespace, tokenizer: VQVAE, trained_as: str | None):
    """The dataset that was asked for; without --dataset that of --preset, or of the preset the tokenizer is from."""
    if not (args.dataset or args.preset or trained_as):
        raise ValueError(f"{args.checkpoint} does not say what to tokenize: expected --dataset or --preset.")
    preset = None if args.dataset else presets.get(args.preset or trained_as)
    config, options = tokenizer.config, {key: v for key in ("crop", "views") if (v := getattr(args, key)) is not None}
    if preset and args.split == "train" and not options:  # as minivar train reads it, at the size of this tokenizer
        preset = dataclasses.replace(preset, tokenizer=config) if config.image_size else preset
        return data.training_set(preset, args.data)
    height, _ = config.image_size or (preset and preset.tokenizer.image_size) or (256, 256)
    name, channels = args.dataset or preset.dataset, config.nets.image_channels
    return data.load(name, args.split, args.data, height, channels, **options)


def cmd_sample(args: argparse.Namespace) -> None:
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
    parts = [sampler.draw(model, tokenizer, part, generator, **settings).images for part in labels.split(100)]
    images = torch.cat(parts)
    plots.save_images(images, args.out, columns=len(classes) if len(classes) > 1 else 10)
    if args.npz:
        pixels = images.squeeze(1) if images.shape[1] == 1 else images
        arrays = {"images": pixels.numpy().astype(np.float32), "labels": labels.numpy()}
        checkpoints.write_atomically(Path(args.npz), lambda path: _save_npz(path, arrays))
    print(f"{args.count} images in {time.time() - started:.1f} s with {settings}: {args.out}")


def _save_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with open(path, "wb") as file:
        np.savez_compressed(file, **arrays)


def cmd_reconstruct(args: argparse.Namespace) -> None:
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


def describe(tokenizer: VQVAE, model: VAR | GPT) -> dict[str, object]:
    """Parameters, tokens and forward FLOPs of one image; the models may be on the meta device."""
    device = next(model.parameters()).device
    config = tokenizer.config
    grid = config.latent_grid or model.config.grid or (16, 16)
    pixels = config.image_size or tuple(side * config.nets.stride for side in grid)
    images = torch.zeros(1, config.nets.image_channels, *pixels, device=device)
    f_hat = torch.zeros(1, config.code_dim, *grid, device=device)
    if isinstance(model, GPT):
        order, tokens = f"{grid[0]} x {grid[1]} in raster order", math.prod(grid)
        inputs = torch.zeros(1, tokens - 1, dtype=torch.int64, device=device)
    else:
        order, tokens = str(tokenizer.schedule), model.schedule.num_tokens
        inputs = torch.zeros(1, tokens - model.schedule.counts[0], config.code_dim, device=device)
    labels = torch.zeros(1, dtype=torch.int64, device=device)

    return {
        "tokenizer parameters": sum(p.numel() for p in tokenizer.parameters()),
        "transformer parameters": sum(p.numel() for p in model.parameters()),
        "image": f"{config.nets.image_channels} x {pixels[0]} x {pixels[1]}",
        "schedule": order,
        "tokens": tokens,
        "codebook": f"{config.codebook_size} codes of {config.code_dim} dimensions",
        "FLOPs to encode one image": complexity.count_flops(lambda: tokenizer.features(images))["all"],
        "FLOPs to decode one image": complexity.count_flops(lambda: tokenizer.decode_features(f_hat))["all"],
        "FLOPs of one teacher-forced pass": complexity.count_flops(lambda: model(labels, inputs))["all"],
    }


def cmd_info(args: argparse.Namespace) -> None:
    """Print what a preset or a checkpoint is made of."""
    if args.checkpoint:
        tokenizer, model, header = checkpoints.load_pair(args.checkpoint)
        print(f"{args.checkpoint} (preset {header.get('preset', 'unknown')})")
    else:
        preset = presets.get(args.preset)
        with torch.device("meta"):
            model = (GPT if isinstance(preset.model, GPTConfig) else VAR)(preset.model).eval()
            tokenizer = VQVAE(preset.tokenizer).eval()
        print(f"preset {preset.name}")
    for key, value in describe(tokenizer, model).items():
        print(f"  {key:34}{value:,}" if isinstance(value, int) else f"  {key:34}{value}")


def cmd_complexity(args: argparse.Namespace) -> None:
    """Print what an image costs in raster and in next-scale order: derived, counted, timed."""
    if not all(part.strip().isdigit() for part in args.sides.split(",")):
        raise ValueError(f"--sides is a list of powers of two, as in 4,8,16; got {args.sides!r}.")
    report = complexity.report([int(part) for part in args.sides.split(",")], timing=not args.no_timing)
    print(json.dumps(report, indent=1) if args.json else complexity.as_text(report))


def cmd_report(args: argparse.Namespace) -> None:
    """Print where a run's files are and what it scored."""
    out = Path(args.run)
    if not out.is_dir():
        raise ValueError(f"No run at {out}: expected the folder that training filled.")
    for path in sorted(p for p in out.iterdir() if p.is_file() and not p.name.startswith(".")):
        print(f"  {path}  ({path.stat().st_size / 1e6:.2f} MB)")
    scores = out / "scores.json"
    if scores.is_file():
        for key, value in json.loads(scores.read_text()).items():
            print(f"  {key:20}{value:.4f}" if isinstance(value, float) else f"  {key:20}{value}")


def build_parser() -> argparse.ArgumentParser:
    """The parser, with help for a newcomer on every option."""
    parser = argparse.ArgumentParser(
        prog="minivar",
        description="Train autoregressive image models, next-scale and raster, and draw from them.",
        epilog="Start with: minivar sample --classes 0-9 --count 100 --out grid.png",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, function) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
        sub.set_defaults(function=function)
        return sub

    where = "folder with tokenizer.safetensors and var.safetensors or gpt.safetensors (default: the shipped digits)"
    shipped = {"default": str(SHIPPED), "help": where, "metavar": "DIR"}

    sub = command("train", cmd_train)
    sub.add_argument("--preset", default="digits", help=f"one of {', '.join(presets.PRESETS)} (default: digits)")
    sub.add_argument("--out", metavar="DIR", help="folder for checkpoints and logs (default: runs/PRESET)")
    source = sub.add_mutually_exclusive_group()
    source.add_argument("--data", metavar="DIR", help="folder of the dataset, where it is not embedded")
    cached = "train the transformer on the tokens that minivar tokenize wrote there; the tokenizer is not trained"
    source.add_argument("--tokens", metavar="DIR", help=cached)
    sub.add_argument("--no-verify", action="store_true", help="do not compare the checksums of --tokens")
    taken = "folder with the tokenizer.safetensors to use as it is (default with --tokens: the folder --out)"
    sub.add_argument("--tokenizer", metavar="DIR", help=taken)
    weights = "torchvision's vgg16 weights, for the perceptual term of the loss (default: downloaded where needed)"
    sub.add_argument("--backbone-weights", metavar="FILE", help=weights)
    sub.add_argument("--stage", choices=("all", "tokenizer"), default="all", help="what to train (default: all)")
    sub.add_argument("--device", default="cpu", help="cpu, cuda, mps (default: cpu)")
    strategies = "under torchrun: ddp, the model whole on each GPU, or fsdp, spread over them (default: ddp)"
    sub.add_argument("--strategy", choices=parallel.STRATEGIES, default="ddp", help=strategies)
    override = "override one number of the preset, for instance model_train.epochs=5; repeatable"
    sub.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help=override)

    sub = command("tokenize", cmd_tokenize)
    sub.add_argument("--checkpoint", default=str(SHIPPED), metavar="DIR", help="folder with tokenizer.safetensors")
    what = sub.add_mutually_exclusive_group()
    what.add_argument("--preset", help="whose images to take (default: the preset that the tokenizer is from)")
    what.add_argument("--dataset", help="take digits, emoji, fashion-mnist, cifar10, folder or shards instead")
    sub.add_argument("--data", metavar="DIR", help="folder of the dataset, where it is not embedded")
    sub.add_argument("--split", choices=("train", "heldout"), default="train", help="default: train")
    crops = "of folders and shards: how a square is cut out (default: random for train, which needs --views)"
    sub.add_argument("--crop", choices=("center", "random", "ten"), help=crops)
    sub.add_argument("--views", type=int, help="random crops of each image; training takes them in turn")
    sub.add_argument("--out", required=True, metavar="DIR", help="folder for the tokens")
    sub.add_argument("--batch-size", type=int, default=64, help="images encoded at a time (default: 64)")
    sub.add_argument("--shard-size", type=int, default=10_000, help="images in a file (default: 10000)")
    sub.add_argument("--device", default="cpu", help="cpu, cuda, mps (default: cpu); under torchrun each does a part")

    sub = command("sample", cmd_sample)
    sub.add_argument("--checkpoint", **shipped)
    sub.add_argument("--classes", default="0-9", help="for instance 7, 0-9 or 1,3-5; used in rotation")
    sub.add_argument("--count", type=int, default=100, help="number of images (default: 100)")
    sub.add_argument("--seed", type=int, default=0, help="the same seed gives the same images (default: 0)")
    sub.add_argument("--out", default="grid.png", metavar="PNG", help="where the grid goes (default: grid.png)")
    sub.add_argument("--npz", metavar="NPZ", help="also write images in [0, 1] and labels")
    sub.add_argument("--cfg", type=float, help="guidance; none is 0 for VAR, 1 for raster (default: the preset's)")
    sub.add_argument("--top-k", type=int, help="keep this many codes, 0: all (default: the preset's)")
    sub.add_argument("--top-p", type=float, help="keep this probability mass; all is 0 for VAR, 1 for raster")
    sub.add_argument("--smooth", action="store_true", default=None, help="mix codes softly (VAR only)")
    sub.add_argument("--temperature", type=float, help="divides the logits (raster only; default: the preset's)")

    sub = command("reconstruct", cmd_reconstruct)
    sub.add_argument("--checkpoint", **shipped)
    sub.add_argument("--dataset", default="digits", help="digits, emoji, fashion-mnist, cifar10, folder, shards")
    sub.add_argument("--data", metavar="DIR", help="folder of the dataset, where it is not embedded")
    sub.add_argument("--count", type=int, default=50, help="number of images (default: 50)")
    sub.add_argument("--out", default="reconstructions.png", metavar="PNG", help="default: reconstructions.png")

    sub = command("info", cmd_info)
    what = sub.add_mutually_exclusive_group()
    what.add_argument("--preset", default="digits", help=f"one of {', '.join(presets.PRESETS)}")
    what.add_argument("--checkpoint", metavar="DIR", help="folder with tokenizer and transformer")

    sub = command("complexity", cmd_complexity)
    sub.add_argument("--json", action="store_true", help="everything, as JSON")
    sub.add_argument("--sides", default="4,8,16,32", help="grids n x n, powers of two (default: 4,8,16,32)")
    sub.add_argument("--no-timing", action="store_true", help="derive and count only")

    sub = command("plan", cmd_plan)
    sub.add_argument("--preset", default="var-d16", help="whose transformer to plan for (default: var-d16)")
    sub.add_argument("--gpus", type=int, default=8, help="how many (default: 8)")
    sub.add_argument("--gpu", choices=tuple(planner.PEAK), default="a100", help="which kind (default: a100)")
    sub.add_argument("--strategy", choices=parallel.STRATEGIES, default="fsdp", help="default: fsdp")
    share = "share of the GPU's peak that a run achieves; published runs imply 0.2 to 0.5 (default: 0.3)"
    sub.add_argument("--utilisation", type=float, default=0.3, help=share)
    sub.add_argument("--recompute", action="store_true", help="compute activations again in the backward pass")
    sub.add_argument("--accumulate", type=int, help="parts of each GPU's share of a batch (default: the preset's)")
    sub.add_argument("--slurm", action="store_true", help="print a batch script for SLURM instead")

    sub = command("report", cmd_report)
    sub.add_argument("run", metavar="DIR", help="folder of a run")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = build_parser().parse_args(argv)
    try:
        args.function(args)
    except (ValueError, OSError) as error:
        print(f"minivar: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("minivar: stopped; the same command goes on from the last checkpoint.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
