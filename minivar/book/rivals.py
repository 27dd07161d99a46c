"""The runs of ``data/results/rivals.json`` as tables: which sides, which seeds, how sure their means are.

For chapters 04, 08a and 12, and the README; ``experiments/rivals`` says how the runs were made.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from minivar.data import DATA_ROOT
from minivar.evaluation import agreement

RESULTS = DATA_ROOT / "results" / "rivals.json"
NAMES = {
    "var": "next scale (VAR)",
    "var-prefix": "next scale, no AdaLN",
    "raster": "raster, VAR's blocks",
    "raster-prefix": "raster, no AdaLN",
    "llamagen": "raster, LlamaGen style",
    "gpt2": "raster, GPT-2 style",
    "maskgit": "MaskGIT",
    "dit": "DiT in latents",
    "dit-pixels": "DiT in pixels",
}
DRAWS = 10_000  # of the bootstrap
Run = dict


def load(path: Path = RESULTS) -> dict[str, object]:
    """All that was measured."""
    return json.loads(path.read_text())


def runs_of(results: Mapping[str, object], part: str = "seeds", world: str = "digits") -> dict[str, list[Run]]:
    """The runs of a part by side (or variant), in the order of ``NAMES``, each side's in that of their seeds."""
    found: dict[str, list[Run]] = {}
    for run in sorted(results["runs"].values(), key=lambda run: run["seed"]):
        if (run["part"], run.get("world", "digits")) == (part, world):
            found.setdefault(run.get("variant") or run["side"], []).append(run)
    order = list(NAMES)
    return dict(sorted(found.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order)))


def score(metric: str, judge: str | None = None, of: str | None = None) -> Callable[[Run], float]:
    """A number of a run: of its scores, or of what one judge says in them; ``of`` other samples, such as "plain"."""

    def read(run: Run) -> float:
        scores = run["scores"] if of is None else run["scores"][of]
        return scores["judges"][judge][metric] if judge else scores[metric]

    return read


def mean_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """Mean over seeds, and the middle ``level`` of the means of as many seeds drawn with replacement."""
    values = np.asarray(values, dtype=float)
    random = np.random.default_rng(0)
    means = values[random.integers(len(values), size=(DRAWS, len(values)))].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(values.mean()), float(low), float(high)


def difference(a: Sequence[Run], b: Sequence[Run], read: Callable[[Run], float]) -> tuple[float, float, float]:
    """Mean of ``read`` of a less b over the seeds that both have, and its interval: equal seeds share a tokenizer
    where the two sides do, and the order of the images."""
    of_b = {run["seed"]: read(run) for run in b}
    pairs = [read(run) - of_b[run["seed"]] for run in a if run["seed"] in of_b]
    if not pairs:
        raise ValueError("The two sides have no seed in common: expected at least one, got none.")
    return mean_interval(pairs)


def table(rows: Mapping[str, Sequence[Run]], columns: Mapping[str, Callable[[Run], float]], digits: int = 2) -> str:
    """Mean and interval over the seeds of each side, a column for each number."""
    width = 22
    lines = [f"{'':26}{'seeds':>6}" + "".join(f"{name:>{width}}" for name in columns)]
    for side, runs in rows.items():
        cells = ""
        for read in columns.values():
            mean, low, high = mean_interval([read(run) for run in runs])
            cells += f"{f'{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})':>{width}}"
        lines.append(f"{NAMES.get(side, side):26}{len(runs):6}{cells}")
    return "\n".join(lines)


def judges_agree(rows: Mapping[str, Sequence[Run]], metric: str = "frechet_ratio") -> str:
    """In which order each judge puts the sides by their mean, and of how many pairs of sides they say the same."""
    judges = list(next(iter(rows.values()))[0]["scores"]["judges"])
    means = {
        judge: {side: np.mean([score(metric, judge)(run) for run in runs]) for side, runs in rows.items()}
        for judge in judges
    }
    same = agreement({judge: list(of_sides.values()) for judge, of_sides in means.items()})
    orders = [f"{judge}: {', '.join(sorted(rows, key=means[judge].get))}" for judge in judges]
    return "\n".join([*orders, f"The judges put {same:.0%} of all pairs of sides in the same order."])
