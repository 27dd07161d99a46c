"""``minivar plan``: what a training run will need."""

import argparse

from minivar.analysis import planner
from minivar.distributed import STRATEGIES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``minivar plan``."""
    parser.add_argument("--preset", default="var-d16", help="whose transformer to plan for (default: var-d16)")
    parser.add_argument("--gpus", type=int, default=8, help="how many (default: 8)")
    parser.add_argument("--gpu", choices=tuple(planner.PEAK), default="a100", help="which kind (default: a100)")
    parser.add_argument("--strategy", choices=STRATEGIES, default="fsdp", help="default: fsdp")
    share = "share of the GPU's peak that a run achieves; published runs imply 0.2 to 0.5 (default: 0.3)"
    parser.add_argument("--utilisation", type=float, default=0.3, help=share)
    parser.add_argument("--recompute", action="store_true", help="compute activations again in the backward pass")
    parser.add_argument("--accumulate", type=int, help="parts of each GPU's share of a batch (default: the preset's)")
    parser.add_argument("--slurm", action="store_true", help="print a batch script for SLURM instead")


def run(args: argparse.Namespace) -> None:
    """Print what training a preset's transformer will need: memory, arithmetic, days, data."""
    numbers = {"gpu": args.gpu, "strategy": args.strategy, "utilisation": args.utilisation}
    options = {"recompute": args.recompute or None, "accumulate": args.accumulate}
    found = planner.plan(args.preset, args.gpus, **numbers, **options)
    print(planner.slurm_script(args.preset, args.gpus, args.strategy) if args.slurm else planner.as_text(found))
