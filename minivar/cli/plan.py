"""``minivar plan``: what a training run will need, and how it is started."""

import argparse

from minivar import checkpoints, presets
from minivar.analysis import launch, planner
from minivar.cli.shared import add_set_argument, check_number
from minivar.distributed import STRATEGIES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``minivar plan``."""
    parser.add_argument("--preset", default="var-d16", help="what to train (default: var-d16)")
    parser.add_argument("--gpus", type=int, default=8, help="how many (default: 8)")
    parser.add_argument("--gpu", choices=tuple(planner.PEAK), default="a100", help="which kind (default: a100)")
    parser.add_argument("--strategy", choices=STRATEGIES, default="fsdp", help="default: fsdp")
    share = "share of the GPU's peak that a run achieves; VAR-d16's published days imply 0.22 (default: 0.3)"
    parser.add_argument("--utilisation", type=float, default=0.3, help=share)
    count = "to train on (default: those of the preset's data set; of a folder, as many as ImageNet has)"
    parser.add_argument("--images", type=int, metavar="COUNT", help=count)
    parser.add_argument("--recompute", action="store_true", help="compute activations again in the backward pass")
    parser.add_argument(
        "--accumulate", type=int, help="parts of each GPU's share of the transformer's batch (default: the preset's)"
    )
    add_set_argument(parser)
    parser.add_argument("--slurm", action="store_true", help="print a batch script for SLURM instead")


def run(args: argparse.Namespace) -> None:
    """Print what training a preset will need: memory, arithmetic, days, data; or a script that does it."""
    if args.images is not None:
        check_number("--images", args.images, 1, 10**12)
    numbers = {"gpu": args.gpu, "strategy": args.strategy, "utilisation": args.utilisation, "images": args.images}
    options = {"recompute": args.recompute or None, "accumulate": args.accumulate}
    if args.slurm and args.set:
        raise ValueError(f"--slurm prints the command of the preset as it is; got --set {args.set[0]}: add it there.")
    if args.set:
        preset = presets.get(args.preset, args.set)
        checkpoints.check_pair(preset.tokenizer, preset.model)
        options["overrides"] = args.set
    found = planner.plan(args.preset, args.gpus, **numbers, **options)
    print(launch.slurm_script(args.preset, args.gpus, args.strategy) if args.slurm else planner.as_text(found))
