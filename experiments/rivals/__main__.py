"""The command line of ``experiments.rivals``."""

import argparse
import json

from experiments import rivals
from experiments.jobs import work_off, write_json
from experiments.rivals import measures
from experiments.rivals.plan import plan
from experiments.rivals.runs import RESULTS, SCORED, results


def train(part: str | None) -> None:
    """Every run of the plan, or of one part of it."""
    work_off(lambda: [run for run in plan(results()) if part in (None, run.part) or run.part == "tokenizers"])


def collect() -> None:
    """Results of all runs into one file, beside what is there."""
    found = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    write_json(RESULTS, {**found, "runs": results()})


def main() -> None:
    parser = argparse.ArgumentParser(description=rivals.__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("train").add_argument("part", nargs="?", choices=("rates", *SCORED))
    measured = (measures.frontier, measures.reconstructions, measures.rejection, measures.seconds)
    others = {"collect": collect, **{measure.__name__: measure for measure in measured}}
    for name in others:
        commands.add_parser(name)
    args = parser.parse_args()
    train(args.part) if args.command == "train" else others[args.command]()


if __name__ == "__main__":
    main()
