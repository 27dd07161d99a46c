"""``minivar complexity``: what an image costs, in every order."""

import argparse
import json

from minivar.analysis import complexity

POWERS = [str(2**k) for k in range(8)]  # beyond them raster order, without a cache, takes hours


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``minivar complexity``."""
    parser.add_argument("--json", action="store_true", help="everything, as JSON")
    parser.add_argument("--sides", default="4,8,16,32", help="grids n x n, 1, 2, 4 ... 128 (default: 4,8,16,32)")
    parser.add_argument("--no-timing", action="store_true", help="derive and count only")


def run(args: argparse.Namespace) -> None:
    """Print what an image costs in raster and in next-scale order: derived, counted, timed."""
    words = [word.strip() for word in args.sides.split(",")]
    if not all(word in POWERS for word in words):
        raise ValueError(f"--sides is a list of powers of two up to {POWERS[-1]}, as in 4,8,16; got {args.sides!r}.")
    report = complexity.report([int(word) for word in words], timing=not args.no_timing)
    print(json.dumps(report, indent=1) if args.json else complexity.as_text(report))
