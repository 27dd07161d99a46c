"""Exercises of chapter 08a: equal parameters, choosing without looking, the four corners, and how sure a mean is."""

from functools import partial

import numpy as np

from minivar.book.exercises.exercise import Exercise

# Equal parameters -------------------------------------------------------------------------------------------------


def matching_width(parameters, target):
    """A rising function width -> number of parameters, and a number of them -> the width that comes nearest."""
    width = 1
    while parameters(width + 1) <= target:
        width += 1
    return min(width, width + 1, key=lambda w: abs(parameters(w) - target))


def _width(parameters, target, above: bool = False) -> int:
    width = 1
    while parameters(width + 1) <= target:
        width += 1
    return width + 1 if above and parameters(width) < target else width


def _ask_width(slope: int, rest: int, target: int):
    return lambda function: int(function(lambda width: rest + slope * width, target))


MATCHING_WIDTH = Exercise(
    matching_width,
    title="Equal parameters",
    stars=1,
    minutes=8,
    way_in="widen until the next width would have too many, then take the nearer of the two",
    hint="`min(..., key=lambda w: abs(parameters(w) - target))` picks the nearer one.",
    remark="The presets `duel-...` were found in this way; their numbers are on this page.",
    cases=(
        ("a width that hits the number", _ask_width(10, 100, 200)),
        ("nearer from below", _ask_width(10, 100, 203)),
        ("nearer from above", _ask_width(10, 100, 207)),
        ("the MLP of a raster transformer of three blocks", _ask_width(3 * 2 * 128, 620_000, 1_000_000)),
    ),
    mistakes=(
        ("The next width may be nearer: a few parameters too many are as bad as too few.", _width),
        (
            "The width before may be nearer: a few parameters too few are as bad as too many.",
            partial(_width, above=True),
        ),
        (
            "That is the width per parameter: divide what is left by what a unit of width costs.",
            lambda p, t: t // p(1),
        ),
    ),
)

# Choosing ---------------------------------------------------------------------------------------------------------


def reported(validation, heldout):
    """Scores of one model at the same settings (M,), lower is better, on two kinds of images -> the one to report."""
    return heldout[int(np.argmin(validation))]


def _ask_reported(validation: list[float], heldout: list[float]):
    return lambda function: round(float(function(np.array(validation), np.array(heldout))), 9)


REPORTED = Exercise(
    reported,
    title="Choose, then look",
    stars=1,
    minutes=4,
    way_in="np.argmin says where the lowest is",
    hint="The choice is made on one kind of images, what is reported comes from the other.",
    cases=(
        ("both are lowest at the same setting", _ask_reported([3.0, 1.0, 2.0], [3.1, 1.2, 2.2])),
        ("lowest at different settings", _ask_reported([3.0, 1.0, 1.1], [3.2, 1.3, 0.9])),
        ("the last setting", _ask_reported([3.0, 2.0, 1.0], [2.0, 2.5, 3.0])),
    ),
    mistakes=(
        (
            "The best on the images that are reported: whoever looks there first reports luck.",
            lambda v, h: min(h),
        ),
        ("That score belongs to the images that the setting was chosen on: it is too good.", lambda v, h: min(v)),
        ("Lower is better.", lambda v, h: h[int(np.argmax(v))]),
        ("One setting is reported, not the mean of all.", lambda v, h: float(np.mean(h))),
    ),
)

# Four corners -----------------------------------------------------------------------------------------------------


def two_effects(corners):
    """(order, conditioning) -> score, orders "scale" and "raster", conditionings "adaln" and "prefix" -> 3 floats.

    What "scale" changes and what "adaln" changes, each averaged over the other, and how much more "adaln" changes
    with "scale" than with "raster".
    """
    with_scale = corners["scale", "adaln"] - corners["scale", "prefix"]
    with_raster = corners["raster", "adaln"] - corners["raster", "prefix"]
    with_adaln = corners["scale", "adaln"] - corners["raster", "adaln"]
    with_prefix = corners["scale", "prefix"] - corners["raster", "prefix"]
    return (with_adaln + with_prefix) / 2, (with_scale + with_raster) / 2, with_scale - with_raster


def _effects(corners, one_corner: bool = False, half: float = 2, sign: int = 1, diagonal: bool = False):
    def score(order: str, conditioning: str) -> float:
        return corners[order, conditioning]

    with_adaln = score("scale", "adaln") - score("raster", "adaln")
    with_prefix = score("scale", "prefix") - score("raster", "prefix")
    with_scale = score("scale", "adaln") - score("scale", "prefix")
    with_raster = score("raster", "adaln") - score("raster", "prefix")
    order = with_adaln if one_corner else (with_adaln + with_prefix) / half
    order = score("scale", "adaln") - score("raster", "prefix") if diagonal else order
    conditioning = with_scale if one_corner else (with_scale + with_raster) / half
    return sign * order, sign * conditioning, sign * (with_scale - with_raster)


def _ask_effects(a: float, b: float, c: float, d: float):
    corners = {("scale", "adaln"): a, ("scale", "prefix"): b, ("raster", "adaln"): c, ("raster", "prefix"): d}
    return lambda function: tuple(round(float(value), 9) for value in function(corners))


TWO_EFFECTS = Exercise(
    two_effects,
    title="Four corners, three answers",
    stars=2,
    minutes=10,
    way_in="four differences along the sides of the square",
    hint="Along each side of the square one thing changes. Two sides answer the same question: average them. Where "
    "they differ, the answer depends on the other thing.",
    cases=(
        ("order alone matters", _ask_effects(1.0, 1.0, 3.0, 3.0)),
        ("conditioning alone matters", _ask_effects(1.0, 3.0, 1.0, 3.0)),
        ("both matter, independently of each other", _ask_effects(1.0, 2.0, 4.0, 5.0)),
        ("AdaLN helps one of them only", _ask_effects(1.0, 4.0, 5.0, 5.0)),
    ),
    mistakes=(
        (
            "Opposite corners differ in both things: the confusion that the square is to end.",
            partial(_effects, diagonal=True),
        ),
        (
            "One side of the square is half of the answer: average it with the opposite one.",
            partial(_effects, one_corner=True),
        ),
        ("The two sides are averaged, not added.", partial(_effects, half=1)),
        ('"scale" less "raster" and "adaln" less "prefix": negative where lower.', partial(_effects, sign=-1)),
    ),
)

# How sure ---------------------------------------------------------------------------------------------------------


def paired_interval(a, b, picks):
    """Scores of two models by seed (S,), and for each of R draws S seeds, int (R, S) -> mean of a - b, low, high.

    low and high: the middle 95 per cent of the mean differences of the draws.
    """
    differences = a - b
    low, high = np.quantile(differences[picks].mean(1), [0.025, 0.975])
    return differences.mean(), low, high


def _interval(
    a, b, picks, paired: bool = True, fixed: bool = False, level: float = 0.95
) -> tuple[float, float, float]:
    of_b = b.mean() if fixed else b[picks if paired else picks[::-1]].mean(1)
    low, high = np.quantile(a[picks].mean(1) - of_b, [(1 - level) / 2, (1 + level) / 2])
    return (a - b).mean(), low, high


def _spread(a, b, picks) -> tuple[float, float, float]:
    differences = a - b
    return differences.mean(), differences.min(), differences.max()


PICKS = np.random.default_rng(3).integers(5, size=(400, 5))


def _ask_interval(a: list[float], b: list[float]):
    return lambda function: tuple(round(float(v), 6) for v in function(np.array(a), np.array(b), PICKS))


PAIRED_INTERVAL = Exercise(
    paired_interval,
    title="How sure is a difference?",
    stars=2,
    minutes=12,
    way_in="differences[picks] has a row of S differences for every draw",
    hint="Subtract first: equal seeds share the order of the images. Then draw seeds, not scores.",
    remark="`rivals.difference` does this, with 10,000 draws.",
    cases=(
        ("five seeds that all say the same", _ask_interval([3.0, 4.0, 5.0, 6.0, 7.0], [2.0, 3.0, 4.0, 5.0, 6.0])),
        (
            "a difference that is small beside what seeds do",
            _ask_interval([3.1, 7.9, 5.2, 6.4, 9.0], [3.0, 7.5, 5.3, 6.0, 8.8]),
        ),
        ("no difference", _ask_interval([1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 1.0, 3.5, 3.5, 5.0])),
    ),
    mistakes=(
        ("Equal seeds belong together: draw a seed, and take both of its scores.", partial(_interval, paired=False)),
        ("The other model has seeds too: draw its scores with those of the first.", partial(_interval, fixed=True)),
        ("95 per cent leave 2.5 on either side.", partial(_interval, level=0.9)),
        ("How far single differences lie apart is not how sure their mean is: average each draw.", _spread),
    ),
)
