"""How much of the numerical core the tests hold: small faults, made one at a time, and whether a test notices.

    make mutants                                          # 200 faults, about ten minutes on two cores
    python experiments/mutants.py --number 40 --seed 1
    python experiments/mutants.py --again                 # only what survived, or had no time, the last time

`cosmic-ray` knows where a fault can be made and makes it: another operator, a number one larger, a condition turned
round, a loop that does not run. This script draws some of them, runs the tests that concern the module
(``mutants_table.py``) on each, and writes the score to ``data/results/mutants.json``. It works in copies of the
repository in a temporary folder, one a worker; the folder that it is called from is read and, but for the result, not
written to.

Every mutant would pay some ten seconds for importing torch and pytest's plugins. A worker therefore imports them once
and forks for each mutant; ``minivar`` itself and the tests are imported anew by every fork.
"""

import argparse
import ast
import contextlib
import importlib
import json
import multiprocessing
import operator
import os
import queue
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mutants_table import DEAR, EQUIVALENT, NO_OPERATORS, TESTS

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "data" / "results" / "mutants.json"

LIMIT = 120  # seconds of computation after which a mutant counts as killed
PATIENCE = 10  # times longer by the clock, on a machine that has other work too
FATES = ("killed", "survived", "equivalent", "no mutant", "not run")
IDENTITY = operator.itemgetter("module", "operator", "occurrence")


# Which mutants there are --------------------------------------------------------------------------------------------


def spans_to_skip(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """From and to (line, column) of annotations, f-strings, assertions and raised errors: texts, no computation."""
    spans = []

    def skip(node: ast.AST | None) -> None:
        if node is not None:
            spans.append(((node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)))

    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.arg | ast.AnnAssign):
            skip(node.annotation)
        elif isinstance(node, ast.FunctionDef):
            skip(node.returns)
        elif isinstance(node, ast.Raise | ast.JoinedStr | ast.Assert):
            skip(node)
    return spans


def mutants_of(module: str) -> list[dict]:
    """Every fault that cosmic-ray can make in a module, but for those that ``NO_OPERATORS`` and spans leave out."""
    from cosmic_ray.commands import init
    from cosmic_ray.tools.filters.pragma_no_mutate import PragmaNoMutateFilter
    from cosmic_ray.work_db import WorkDB, use_db

    path = ROOT / "minivar" / f"{module}.py"
    source = path.read_text()
    spans = spans_to_skip(source)
    with tempfile.TemporaryDirectory() as folder, use_db(Path(folder) / "all.sqlite", WorkDB.Mode.create) as database:
        init([path], database, {})
        PragmaNoMutateFilter().filter(database, None)  # lines marked "# pragma: no mutate"
        items = database.pending_work_items
    found = []
    for (mutation,) in (item.mutations for item in items):
        begin, end = tuple(mutation.start_pos), tuple(mutation.end_pos)
        if NO_OPERATORS.match(mutation.operator_name) or any(a <= begin and end <= b for a, b in spans):
            continue
        found.append(
            {
                "module": module,
                "operator": mutation.operator_name,
                "occurrence": mutation.occurrence,
                "line": begin[0],
                "in": mutation.definition_name,
            }
        )
    return sorted(found, key=lambda mutant: (mutant["operator"], mutant["occurrence"]))


def draw(number: int, seed: int) -> tuple[list[dict], int]:
    """``number`` mutants, spread over modules by how many each has, two at least; and how many there are."""
    rng = random.Random(seed)
    every = {module: mutants_of(module) for module in TESTS}
    total = sum(map(len, every.values()))
    drawn = []
    for found in every.values():
        share = max(2, round(number * len(found) / total))
        drawn += rng.sample(found, min(share, len(found)))
    rng.shuffle(drawn)
    return drawn[:number], total


# One worker ---------------------------------------------------------------------------------------------------------


def copy_of_the_tree(folder: Path) -> Path:
    """The repository as it is on disk, without what tests do not read."""
    leave = shutil.ignore_patterns(
        ".git", ".venv", "runs", "__pycache__", ".*_cache", "*.egg-info", ".ipynb_checkpoints"
    )
    return Path(shutil.copytree(ROOT, folder, ignore=leave))


def where(name: str) -> str:
    """An entry of ``TESTS`` as pytest wants it."""
    file, _, test = name.partition("::")
    return f"tests/test_{file}.py" + (f"::{test}" if test else "")


def pytest_run(tests: list[str], log: Path) -> tuple[str, float]:
    """Run test files in a fork: "passed", "failed" or "timeout", and the seconds of computation that it took."""
    child = os.fork()
    if child == 0:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (LIMIT, LIMIT))  # the kernel ends what computes for longer
        with open(log, "w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        import pytest

        files = [where(name) for name in tests] + [f"--deselect=tests/test_{name}" for name in DEAR]
        quiet = ["-x", "-q", "--no-header", "-p", "no:cacheprovider", "-m", "not slow and not distributed"]
        os._exit(int(pytest.main([*quiet, f"--basetemp={log.parent}/pytest", *files])))
    deadline, ended = time.monotonic() + PATIENCE * LIMIT, 0
    while not ended and time.monotonic() < deadline:  # what waits for something that never comes computes nothing
        time.sleep(0.05)
        ended, status, used = os.wait4(child, os.WNOHANG)
    if not ended:
        os.killpg(child, signal.SIGKILL)
        _, status, used = os.wait4(child, 0)
    fate = {0: "passed"}.get(status, "timeout" if os.WIFSIGNALED(status) else "failed")
    return fate, round(used.ru_utime + used.ru_stime, 1)


def work(folder: Path, jobs, results) -> None:
    """Take mutants from ``jobs`` until there are no more; put each with its fate into ``results``."""
    os.nice(5)
    tree = copy_of_the_tree(folder / "tree")
    os.chdir(tree)
    os.environ.update(PYTHONDONTWRITEBYTECODE="1", OMP_NUM_THREADS="1", PYTHONPATH=str(tree))
    sys.path[:0] = [str(tree)]
    sys.dont_write_bytecode = True
    import lpips  # noqa: F401
    import pytest
    import torch.utils.tensorboard  # noqa: F401
    from cosmic_ray.mutating import use_mutation
    from cosmic_ray.plugins import get_operator

    # lpips and tensorboard are imported on use. Collecting imports all else that the tests need; what is ours is
    # forgotten again, so that every fork reads it from the disk.
    files = sorted({where(name.partition("::")[0]) for tests in TESTS.values() for name in tests})
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
        pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", *files])
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(tree)):
            del sys.modules[name]
    importlib.invalidate_caches()

    while (mutant := jobs.get()) is not None:
        if mutant["operator"] == "none":  # the tests must pass where nothing was changed
            fate, seconds = pytest_run(mutant["tests"], folder / "log")
            output = (folder / "log").read_text(errors="replace")[-2000:]
            results.put({**mutant, "fate": fate, "seconds": seconds, "output": output})
            continue
        path = tree / "minivar" / f"{mutant['module']}.py"
        seconds = 0.0
        with use_mutation(path, get_operator(mutant["operator"])(), mutant["occurrence"]) as (before, after):
            try:
                compile(after, str(path), "exec")
                fate, seconds = pytest_run(TESTS[mutant["module"]], folder / "log")
            except SyntaxError:
                fate = "no mutant"  # what cannot be compiled is no fault that anyone could make
        failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", (folder / "log").read_text(errors="replace"), re.M)
        pairs = zip(before.splitlines(), after.splitlines())
        line, was, now = next(((i, a, b) for i, (a, b) in enumerate(pairs, 1) if a != b), (mutant["line"], "", ""))
        results.put(
            {
                **mutant,
                "line": line,
                "was": was.strip(),
                "now": now.strip(),
                "fate": {"passed": "survived", "failed": "killed", "timeout": "killed"}.get(fate, fate),
                "by": failed[0] if failed and fate == "failed" else fate,
                "seconds": seconds,
            }
        )


def run(jobs: list[dict], workers: int, minutes: float) -> list[dict]:
    """``jobs`` in their order on so many workers, until the time is over; prints each as it is done."""
    context = multiprocessing.get_context("spawn")
    todo, done = context.Queue(), context.Queue()
    until = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        places = [Path(folder) / str(i) for i in range(workers)]
        for place in places:
            place.mkdir()
        processes = [context.Process(target=work, args=(place, todo, done)) for place in places]
        for process in processes:
            process.start()
        found, given = [], 0
        while given < len(jobs) or len(found) < given:
            if given < len(jobs) and given < len(found) + 2 * workers:  # few ahead, so that time can end it
                if time.monotonic() > until:
                    jobs = jobs[:given]
                else:
                    todo.put(jobs[given])
                    given += 1
                continue
            try:
                found.append(result := done.get(timeout=1))
            except queue.Empty:
                if not all(process.is_alive() for process in processes):
                    raise SystemExit("A worker ended before its work was done; what it said stands above.") from None
                continue
            what = f"{result['module']}:{result.get('line', '')} {result.get('was', '')} -> {result.get('now', '')}"
            print(f"{len(found):4}/{len(jobs)} {result['fate']:9} {result['seconds']:6.1f} s  {what}", flush=True)
        for _ in processes:
            todo.put(None)
        for process in processes:
            process.join()
    return found


# The score ----------------------------------------------------------------------------------------------------------


def commit() -> str:
    """The commit that is checked out, with a plus sign where files differ from it; "unknown" without git."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        command = {"cwd": ROOT, "capture_output": True, "text": True, "check": True}
        changed = subprocess.run(["git", "status", "--porcelain", "minivar", "tests"], **command).stdout
        head = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], **command).stdout.strip()
        return head + "+" * bool(changed)
    return "unknown"


def report(mutants: list[dict], header: dict) -> dict:
    """What is written: the score, survivors with their line before and after, and every mutant that was run."""
    for mutant in mutants:
        if mutant["fate"] in ("survived", "equivalent"):
            reason = EQUIVALENT.get((mutant["module"], mutant["now"]))
            mutant |= {"fate": "equivalent", "reason": reason} if reason else {"fate": "survived"}
    mutants = sorted(mutants, key=lambda m: (m["module"], m["line"], m["operator"], m["occurrence"]))
    count = {fate: sum(mutant["fate"] == fate for mutant in mutants) for fate in FATES}
    by_module = {}
    for module in TESTS:
        fates = [m["fate"] for m in mutants if m["module"] == module]
        by_module[module] = f"{fates.count('killed')}/{fates.count('killed') + fates.count('survived')}"
    score = round(count["killed"] / max(count["killed"] + count["survived"], 1), 4)
    return {**header, **count, "score": score, "killed_of_each_module": by_module, "mutants": mutants}


def shown(mutant: dict) -> str:
    """One mutant as a person reads it."""
    return f"minivar/{mutant['module']}.py:{mutant['line']}\n  - {mutant['was']}\n  + {mutant['now']}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Mutation test of the numerical core.")
    parser.add_argument("--number", type=int, default=200, help="mutants to draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=60, help="no mutant is begun after so long")
    parser.add_argument("--again", action="store_true", help="survivors and what was not run, from the last result")
    options = parser.parse_args()
    began = time.monotonic()
    if options.again:
        old = json.loads(RESULT.read_text())
        if subprocess.run(
            ["git", "diff", "--quiet", old["commit"], "--", "minivar"], cwd=ROOT, check=False
        ).returncode:
            sys.exit(f"minivar/ is not what it was at {old['commit']}, the commit of the last result: draw anew.")
        drawn = [mutant for mutant in old["mutants"] if mutant["fate"] in ("survived", "equivalent", "not run")]
        kept = [mutant for mutant in old["mutants"] if mutant not in drawn]
        header = {name: old[name] for name in ("seed", "of")}
    else:
        (drawn, total), kept = draw(options.number, options.seed), []
        header = {"seed": options.seed, "of": total}
    print(f"{len(drawn)} of {header['of']} mutants, seed {header['seed']}", flush=True)
    needed = sorted({name for mutant in drawn for name in TESTS[mutant["module"]]})
    whole = [{"module": f"unchanged: {name}", "operator": "none", "tests": [name]} for name in needed]
    found = run([*whole, *drawn], options.workers, options.minutes)
    for result in found:
        if result["operator"] == "none" and result["fate"] != "passed":
            sys.exit(f"The tests do not pass without a fault ({result['module']}): {result['output']}")
    found = [result for result in found if result["operator"] != "none"]
    done = set(map(IDENTITY, found))
    found += [{**mutant, "fate": "not run"} for mutant in drawn if IDENTITY(mutant) not in done]
    result = report(found + kept, {"commit": commit(), **header, "minutes": round((time.monotonic() - began) / 60)})
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    for mutant in result["mutants"]:
        if mutant["fate"] in ("survived", "equivalent"):
            print(mutant["fate"], shown(mutant), *([mutant["reason"]] if "reason" in mutant else []))
    print(
        f"{result['killed']} killed, {result['survived']} survived, {result['equivalent']} equivalent, "
        f"{result['no mutant']} no mutants, {result['not run']} not run: "
        f"{result['score']:.1%} of those that a test could notice"
    )


if __name__ == "__main__":
    main()
