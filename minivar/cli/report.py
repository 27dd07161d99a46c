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
    for key, value in scores_in(out / "scores.json").items():
        print(f"  {key:20}{value:.4f}" if isinstance(value, float) else f"  {key:20}{value}")


def scores_in(path: Path) -> dict[str, object]:
    """What a run scored, by name; nothing where it was not scored, ``ValueError`` where the file is damaged."""
    if not path.is_file():
        return {}
    try:
        scores = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): expected JSON with scores by name.") from error
    if not isinstance(scores, dict):
        raise ValueError(f"{path} is damaged: expected JSON with scores by name, got {type(scores).__name__}.")
    return scores
