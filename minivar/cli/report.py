"""``minivar report``: what a run left and scored."""

import argparse
import json
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``minivar report``."""
    parser.add_argument("run", metavar="DIR", help="folder of a run")


def run(args: argparse.Namespace) -> None:
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
