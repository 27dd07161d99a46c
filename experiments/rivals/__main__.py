"""The command line of ``experiments.rivals``."""

import argparse
import dataclasses
import json
import math
import time

from experiments import rivals
from experiments.rivals import scoring
from experiments.rivals.plan import claim, plan, ready
from experiments.rivals.runs import RESULTS, results
from minivar import files
from minivar.training import Interrupted, TrainingError


def train_all(part: str | None) -> None:
    """Every run of the plan, or of one part of it, that is not done and that no other process works on."""
    while waiting := [run for run in plan(results()) if part in (None, run.part, "tokenizers")]:
        run = next((run for run in waiting if ready(run) and claim(run.folder)), None)
        if run is None:
            time.sleep(10)  # the others wait for what another process does
            continue
        try:
            result = {**dataclasses.asdict(run), **run.train()}
        except Interrupted:
            raise
        except TrainingError as error:  # too high a rate: no other is as good as none
            if run.part not in ("rates", "rungs"):
                raise
            result = {**dataclasses.asdict(run), "validation_loss": math.inf, "error": str(error)}
        if run.part in scoring.SCORED and "error" not in result:
            result["scores"] = scoring.scores_of(run)
        text = json.dumps(result)
        files.write_atomically(run.folder / "result.json", lambda path, text=text: path.write_text(text))
        shown = {key: result[key] for key in ("minutes", "validation_loss", "mse") if key in result}
        if "scores" in result:
            shown["ratio"], shown["settings"] = scoring.mean_ratio(result["scores"]), result["scores"]["settings"]
        print(run.name, run.part, shown, flush=True)


def collect() -> None:
    """Results of all runs into one file, beside what is there."""
    found = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    found["runs"] = results()
    text = json.dumps(found, indent=1) + "\n"
    files.write_atomically(RESULTS, lambda path: path.write_text(text))


def main() -> None:
    parser = argparse.ArgumentParser(description=rivals.__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    parts = ("tokenizers", "rates", "seeds", "depth", "rungs", "variants")
    commands.add_parser("train").add_argument("part", nargs="?", choices=parts)
    others = {"collect": collect, "frontier": scoring.frontier, "seconds": scoring.seconds}
    for name in others:
        commands.add_parser(name)
    args = parser.parse_args()
    if args.command == "train":
        train_all(args.part)
    else:
        others[args.command]()


if __name__ == "__main__":
    main()
