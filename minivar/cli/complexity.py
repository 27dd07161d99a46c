"""``minivar complexity``: what an image costs, in every order."""

import argparse
import json

from minivar.analysis import complexity


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``minivar complexity``."""
    parser.add_argument("--json", action="store_true", help="everything, as JSON")
    parser.add_argument("--sides", default="4,8,16,32", help="grids n x n, powers of two (default: 4,8,16,32)")
    parser.add_argument("--no-timing", action="store_true", help="derive and count only")


def run(args: argparse.Namespace) -> None:
    """Print what an image costs in raster and in next-scale order: derived, counted, timed."""
    if not all(part.strip().isdigit() for part in args.sides.split(",")):
        raise ValueError(f"--sides is a list of powers of two, as in 4,8,16; got {args.sides!r}.")
    report = complexity.report([int(part) for part in args.sides.split(",")], timing=not args.no_timing)
    print(json.dumps(report, indent=1) if args.json else complexity.as_text(report))
