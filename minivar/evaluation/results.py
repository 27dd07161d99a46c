"""Published ImageNet results, as the papers' tables give them, beside those of a run.

Explained in ``notebooks/13_imagenet.ipynb``.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from minivar.evaluation.published import RELEASED, RESULTS


class ProtocolError(ValueError):
    """Samples that cannot be drawn or scores that cannot be read."""


SCORES = {"fid": "FID", "inception_score": "IS", "precision": "prec.", "recall": "recall"}


def table(runs: Mapping[str, Mapping[str, object]]) -> str:
    """The published results, and beside them the scores of ``runs``, {preset: scores}; a dash where there are none.

    A run whose preset was not published gets a row of its own.
    """
    known = {result.preset for result in RESULTS}
    rows = [(r.name, r.pixels, r.millions, r.steps, vars(r), RELEASED.get(r.preset), r.preset) for r in RESULTS]
    for preset, scores in runs.items():
        if preset not in known:
            shape = (scores.get("pixels"), scores.get("parameters", 0) / 1e6, scores.get("steps"))
            rows.append((preset, *shape, {}, None, preset))
    heads = "".join(f"{head:>7}" for head in SCORES.values())
    lines = [
        f"{'':18}{'':>6}{'':>9}{'':>6}{'as published':>20}{'':>8}{'released':>10}{'this run':>20}",
        f"{'':18}{'pixels':>6}{'millions':>9}{'steps':>6}{heads}{'FID':>10}{heads}",
    ]
    for name, pixels, millions, steps, published, released, preset in rows:
        shape = f"{name:18}{_cell(pixels, 0, 6)}{_cell(millions, 0 if (millions or 0) >= 10 else 1, 9)}"
        shape += _cell(steps, 0, 6)
        lines.append(f"{shape}{_scores(published)}{_cell(released, 2, 10)}{_scores(runs.get(preset, {}))}")
    return "\n".join(line.rstrip() for line in lines)


def _cell(value: float | None, decimals: int, width: int) -> str:
    if value is None:
        return f"{'-':>{width}}"
    text = f"{value:{width},.{decimals}f}"
    return text[:-1] + " " if decimals == 3 and text.endswith("0") else text  # most shares have two digits


def _scores(scores: Mapping[str, object]) -> str:
    decimals = {"fid": 2, "inception_score": 1, "precision": 3, "recall": 3}
    return "".join(_cell(scores.get(key), digits, 7) for key, digits in decimals.items())


def read_evaluator(text: str) -> dict[str, float]:
    """The numbers that guided diffusion's ``evaluator.py`` printed; ``ProtocolError`` if there are none."""
    names = {"FID": "fid", "Inception Score": "inception_score", "Precision": "precision", "Recall": "recall"}
    found = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in names:
            try:
                found[names[name.strip()]] = float(value)
            except ValueError as error:
                raise ProtocolError(f"The evaluator's {name.strip()} is no number: {value.strip()!r:.60}.") from error
    if not found:
        raise ProtocolError(
            f"No scores in the evaluator's output: expected lines such as 'FID: 3.3', got {text!r:.60}."
        )
    return found


def scores_of(run: Path | str) -> dict[str, object]:
    """What is known of the run in a folder: ``scores.json``, and ``evaluator.txt``, the evaluator's output.

    Either file may be missing.
    """
    run, scores = Path(run), {}
    if (run / "scores.json").is_file():
        try:
            scores = dict(json.loads((run / "scores.json").read_text()))
        except (ValueError, TypeError) as error:
            raise ProtocolError(f"{run / 'scores.json'} is damaged ({error}): expected a JSON object.") from error
    if (run / "evaluator.txt").is_file():
        scores |= read_evaluator((run / "evaluator.txt").read_text(errors="replace"))
    return scores
