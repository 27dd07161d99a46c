"""Published ImageNet results, as the papers' tables give them, beside those of a run.

Explained in ``notebooks/13_imagenet.ipynb``.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


class ProtocolError(ValueError):
    """Samples that cannot be drawn or scores that cannot be read."""


@dataclass(frozen=True)
class Result:
    """One row of the papers' tables; None where nothing was published."""

    name: str
    pixels: int
    millions: float | None  # of parameters, tokenizer or decoder not counted
    steps: int | None  # forward passes for an image
    fid: float
    inception_score: float | None = None
    precision: float | None = None
    recall: float | None = None
    preset: str = ""  # whose full run fills the last column


# VAR, arXiv 2404.02905: table 1, and for 512 pixels table 2.
# LlamaGen, arXiv 2406.06525: 384 pixels reduced to 256 for the evaluator, each at its best guidance; B and L at 256.
RESULTS = (
    Result("BigGAN", 256, 112, 1, 6.95, 224.5, 0.89, 0.38),
    Result("ADM", 256, 554, 250, 10.94, 101.0, 0.69, 0.63),
    Result("DiT-XL/2", 256, 675, 250, 2.27, 278.2, 0.83, 0.57),
    Result("MaskGIT", 256, 227, 8, 6.18, 182.1, 0.80, 0.51),
    Result("VQGAN, raster", 256, 227, 256, 18.65, 80.4, 0.78, 0.26),
    Result("VAR-d16", 256, 310, 10, 3.30, 274.4, 0.84, 0.51, "var-d16"),
    Result("VAR-d20", 256, 600, 10, 2.57, 302.6, 0.83, 0.56, "var-d20"),
    Result("VAR-d24", 256, 1000, 10, 2.09, 312.9, 0.82, 0.59, "var-d24"),
    Result("VAR-d30", 256, 2000, 10, 1.92, 323.1, 0.82, 0.59, "var-d30"),
    Result("LlamaGen-B", 256, 111, 256, 5.46, preset="llamagen-b-256"),
    Result("LlamaGen-L", 256, 343, 256, 3.80, preset="llamagen-l-256"),
    Result("LlamaGen-B", 384, 111, 576, 6.09, 182.5, 0.845, 0.416, "llamagen-b-384"),
    Result("LlamaGen-L", 384, 343, 576, 3.07, 256.1, 0.83, 0.52, "llamagen-l-384"),
    Result("LlamaGen-XL", 384, 775, 576, 2.62, 244.1, 0.80, 0.57, "llamagen-xl-384"),
    Result("LlamaGen-XXL", 384, 1411, 576, 2.34, 253.9, 0.80, 0.59, "llamagen-xxl-384"),
    Result("LlamaGen-3B", 384, 3097, 576, 2.18, 263.3, 0.81, 0.58, "llamagen-3b-384"),
    Result("validation images", 256, None, None, 1.78, 236.9, 0.75, 0.67),
    Result("DiT-XL/2", 512, 675, 250, 3.04, 240.8),
    Result("VAR-d36-s", 512, 2354, 10, 2.63, 303.2, preset="var-d36-s"),
)

# FID of the files that VAR's authors released, from the README of their code
RELEASED = {"var-d16": 3.55, "var-d20": 2.95, "var-d24": 2.33, "var-d30": 1.97, "var-d36-s": 2.63}

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
