"""The command: every workload is compared, then timed, and the table printed.

python -m experiments.bench                                # all but the largest; half an hour on two quiet cores
python -m experiments.bench --only sample-digits encode    # those whose names begin so; --list names all
python -m experiments.bench --again                        # those that the last run found the machine too busy for
python -m experiments.bench --device cuda --full
"""

import argparse
import functools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from experiments.bench import measuring, memory, report
from experiments.bench.old import COMMIT, OldPackage
from experiments.bench.workloads import MINIVAR, OLD, REFERENCE, Built, Outputs, Workload, build, one_side, workloads
from minivar.allocation import keep_memory
from minivar.data import DATA_ROOT
from minivar.distributed import find_device
from minivar.files import write_atomically
from minivar.machine import describe_machine
from minivar.precision import computing

RESULTS = DATA_ROOT / "results" / "bench.json"
NEAR = 1e-4  # how far images, losses and norms may lie apart, relative to what is above 1


class Setting(NamedTuple):
    """How all workloads are run."""

    device: torch.device
    quick: bool
    tf32: bool
    old: OldPackage | None


def main(arguments: list[str] | None = None) -> int:
    """0; 1 where the reference and minivar differ; 2 for a device or a name that is not there."""
    args = parse(arguments)
    if args.list:
        print("\n".join(f"{w.name:20} {w.about}{' (--full)' if w.full else ''}" for w in workloads()))
        return 0
    try:
        device = find_device(args.device)
        before = json.loads(RESULTS.read_text()) if args.again and RESULTS.is_file() else None
        chosen = disturbed(before, device) if args.again else choose(args.only, args.full)
        if args.threads is not None and args.threads < 1:
            raise ValueError(f"PyTorch needs at least 1 thread; got {args.threads}.")
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if args.threads:
        torch.set_num_threads(args.threads)
    found = {"machine": describe_machine(device), "old": COMMIT, "quick": args.quick, "tf32": args.tf32}
    found["memory_kept"] = keep_memory()  # of all sides: minivar's commands do so, and rounds are steadier
    with tempfile.TemporaryDirectory() as folder:
        try:
            old, no_old = OldPackage(Path(folder)), None
        except ValueError as error:
            old, no_old = None, str(error)
        setting = Setting(device, args.quick, args.tf32, old)
        found["rows"] = [row_for(workload, setting) for workload in chosen]
    if before:
        fresh = {row["name"]: row for row in found["rows"]}
        found = {**before, "rows": [fresh.get(row["name"], row) for row in before["rows"]]}
    print(report.table(found["rows"]), "", report.NOTES, *report.remarks(found["rows"], no_old), sep="\n")
    write(found, args.out or (None if args.quick or args.only else RESULTS))
    return 1 if any("error" in row for row in found["rows"]) else 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="experiments.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="workloads whose names begin so")
    parser.add_argument("--full", action="store_true", help="d16 at batch 64 too: 10 minutes a call on two cores")
    parser.add_argument("--quick", action="store_true", help="miniature shapes, to see that it runs")
    parser.add_argument("--tf32", action="store_true", help="time with TF32 on CUDA; outputs are compared without")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of PyTorch (default: its own choice)")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help=f"JSON (default: {RESULTS.name}, of a run of all workloads)"
    )
    parser.add_argument(
        "--again",
        action="store_true",
        help=f"what was disturbed in the run that {RESULTS.name} is of, on its machine",
    )
    parser.add_argument("--list", action="store_true", help="name the workloads")
    return parser.parse_args(arguments)


def choose(only: list[str] | None, full: bool) -> list[Workload]:
    """The workloads whose names begin with one of ``only``; the largest where ``full`` or named in full."""
    only = only or [""]
    chosen = [w for w in workloads() if w.name.startswith(tuple(only)) and (full or not w.full or w.name in only)]
    if not chosen:
        raise ValueError(f"No workload's name begins with {' or '.join(only)}: --list names them.")
    return chosen


def disturbed(before: dict | None, device: torch.device) -> list[Workload]:
    """The workloads whose ratio to the reference is missing from a run on this machine; ``ValueError`` if there are
    none, or it was another machine's."""
    if before is None:
        raise ValueError(f"There is no {RESULTS.name} whose disturbed workloads could be timed again.")
    here, there = (
        {k: v for k, v in m.items() if k != "load_before"} for m in (describe_machine(device), before["machine"])
    )
    if here != there:
        raise ValueError(f"{RESULTS.name} is of another machine: got {here}, expected {there}.")
    names = [row["name"] for row in before["rows"] if row.get("against_reference") is None]
    if not names:
        raise ValueError(f"No workload of {RESULTS.name} was disturbed.")
    return [w for w in workloads() if w.name in names]


def write(found: dict, out: Path | None) -> None:
    """The JSON, if it is wanted."""
    if out is None:
        print("Nothing was written: this was not all of it, and no --out was given.")
        return
    text = json.dumps(found, indent=1, allow_nan=False) + "\n"
    write_atomically(out, lambda path: path.write_text(text))
    print(f"Written to {out}.")


def row_for(workload: Workload, setting: Setting) -> dict:
    """Compare and time one workload; where the outputs differ, why it was not timed."""
    print(f"{workload.name} ...", file=sys.stderr, flush=True)
    device, quick = setting.device, setting.quick
    peaks = {}
    with computing(device, "float32"):  # no autocast, no TF32
        for side in (MINIVAR, REFERENCE):
            alone = functools.partial(one_side, workload, side, device, quick)
            peaks[side] = memory.peak_of(alone, device)
        built = build(workload, device, quick, setting.old)
        called = compare(built, measuring.waiting(device))
    row = {"name": workload.name, "about": workload.about, "images": workload.images(quick), "peak_bytes": peaks}
    wrong = called[REFERENCE].differing
    if wrong:
        return {**row, "error": f"{workload.name} was not timed, since minivar and the reference disagree: {wrong}."}
    functions = {name: f for name, f in built.functions.items() if not called[name].differing}
    with computing(device, "tf32" if setting.tf32 else "float32"):
        functions[measuring.SHAPES] = called[MINIVAR].products
        rounds, yardsticks = time_all(functions, workload, setting, called[REFERENCE].seconds)
    row |= report.row_of(called[MINIVAR].work, rounds, yardsticks)
    row["reference_gflop"] = called[REFERENCE].work.flop / 1e9
    return {**row, "old_differs": called[OLD].differing if OLD in called else None}


class Called(NamedTuple):
    """The first call of a side."""

    work: measuring.Work
    products: Callable[[], None]  # computes its products, convolutions and attention alone
    seconds: float  # with all that is done for the first time only
    differing: str | None  # in what its outputs differ from minivar's


def compare(built: Built, wait: Callable[[], None]) -> dict[str, Called]:
    """Call every side once; each finds the weights and the random state as the first one found them."""
    kept = [parameter.detach().clone() for parameter in built.changes]
    ours, called = None, {}
    for name, function in built.functions.items():
        torch.manual_seed(0)
        started = time.perf_counter()
        work, outputs, products = measuring.count(function)
        wait()
        ours = ours or outputs
        called[name] = Called(work, products, time.perf_counter() - started, difference(ours, outputs))
        with torch.no_grad():
            for parameter, before in zip(built.changes, kept):
                parameter.copy_(before)
    return called


def difference(ours: Outputs, theirs: Outputs) -> str | None:
    """What two sides disagree about: tokens at all, anything else by more than ``NEAR``."""
    for name, mine in ours.items():
        other = theirs[name]
        if mine.shape != other.shape:
            return f"{name} have the shapes {tuple(mine.shape)} and {tuple(other.shape)}"
        if not mine.is_floating_point():
            wrong = int((mine != other).sum())
            if wrong:
                return f"{wrong} of {mine.numel()} {name} differ"
        else:
            apart = ((mine - other).abs() / other.abs().clamp_min(1)).max().item()
            if not apart <= NEAR:
                return f"{name} lie {apart:.1e} apart, more than {NEAR:.0e},"
    return None


def time_all(
    functions: dict, workload: Workload, setting: Setting, first: float
) -> tuple[measuring.Rounds, measuring.Yardsticks]:
    """The rounds of all sides, which are warm, and of the yardsticks; ``first``: seconds of a first call."""
    wait = measuring.waiting(setting.device)
    yardsticks = measuring.Yardsticks.on(setting.device, setting.quick)
    long = setting.quick or first > 10 * measuring.AT_LEAST
    calls = 1 if long else measuring.calls_a_round(functions[REFERENCE], wait)
    for function in yardsticks.functions.values():
        function()
    everything = {**functions, **yardsticks.functions}
    each = {**dict.fromkeys(functions, calls), **dict.fromkeys(yardsticks.functions, 1)}
    return measuring.interleave(everything, 3 if setting.quick else workload.rounds, each, wait), yardsticks
