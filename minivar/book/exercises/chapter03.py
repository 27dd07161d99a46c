"""Exercises of chapter 03: queries and keys of a step, pairs in closed form, FLOPs, exponents, the crossover."""

import math
from functools import partial

from minivar.book.exercises.exercise import Exercise
from minivar.models import GPTConfig

# Queries and keys -------------------------------------------------------------------------------------------------


def queries_and_keys(tokens, cache):
    """Tokens of an image, and whether keys and values are kept -> [(queries, keys), ...], one pair a step."""
    return [(1 if cache else i, i) for i in range(1, tokens + 1)]


def _steps(tokens, cache, first: int = 1, everything: bool = False, kept: bool | None = None, one: bool = False):
    cache = cache if kept is None else kept
    steps = [(1 if cache else i, i) for i in range(first, tokens + first)]
    if everything:
        steps = [(1 if cache else tokens, tokens)] * tokens
    return [(1, 1) if cache else step for step in steps] if one else steps


def _ask_steps(tokens: int, cache: bool):
    return lambda function: [tuple(step) for step in function(tokens, cache)]


QUERIES_AND_KEYS = Exercise(
    queries_and_keys,
    title="Queries and keys of a step",
    stars=1,
    minutes=6,
    way_in="step i = 1, ..., tokens: how many positions run, and how many do they look at?",
    hint="In step $i$ there are $i$ positions: the class and the $i - 1$ tokens so far. Without a cache all run.",
    cases=(
        ("four tokens, nothing kept", _ask_steps(4, False)),
        ("four tokens with a cache", _ask_steps(4, True)),
        ("a single token, nothing kept", _ask_steps(1, False)),
    ),
    mistakes=(
        ("The class is a position too, so that the first step has one and not none.", partial(_steps, first=0)),
        ("The last token is drawn and never read: no step has so many positions.", partial(_steps, first=2)),
        ("Tokens that are not drawn yet are no positions.", partial(_steps, everything=True)),
        ("Without a cache every position runs again, not the newest alone.", partial(_steps, kept=True)),
        ("What a cache saves is queries: the newest position still meets all keys.", partial(_steps, one=True)),
        ("With a cache the older positions do not run again.", partial(_steps, kept=False)),
    ),
)

# Pairs in closed form ---------------------------------------------------------------------------------------------


def count_pairs(tokens, prefix, cache):
    """Pairs of query and key over one image of ``tokens`` after ``prefix`` positions, an integer, without a loop."""

    def squares(m):
        return m * (m + 1) * (2 * m + 1) // 6

    last = prefix + tokens - 1
    if cache:
        return prefix**2 + (last * (last + 1) - prefix * (prefix + 1)) // 2
    return squares(last) - squares(prefix - 1)


def _pairs(
    tokens, prefix, cache, end: int = -1, alone: bool = False, all_steps: bool = False, half: bool = False
) -> int:
    last, before = prefix + tokens + end, 0 if all_steps else prefix - 1
    if cache:
        first = 0 if all_steps else prefix if alone or half else prefix**2
        first = prefix * (prefix + 1) // 2 if half and not all_steps else first
        return first + (last * (last + 1) - (before + (not all_steps)) * (before + (not all_steps) + 1)) // 2
    if half:  # of each step the triangle
        return (last * (last + 1) * (last + 2) - before * (before + 1) * (before + 2)) // 6
    return (last * (last + 1) * (2 * last + 1) - before * (before + 1) * (2 * before + 1)) // 6


def _rounded(tokens, prefix, cache) -> float:
    return float(_pairs(tokens, prefix, cache))


def _ask_pairs(tokens: int, prefix: int, cache: bool):
    return lambda function: function(tokens, prefix, cache)


COUNT_PAIRS = Exercise(
    count_pairs,
    title="Pairs after a caption, in closed form",
    stars=2,
    minutes=15,
    way_in="a sum from prefix to prefix + tokens - 1; with a cache the first step apart",
    hint="A sum from $a$ to $b$ is a sum from 1 to $b$ less a sum from 1 to $a - 1$, and both of those are in closed "
    "form above. With a cache the first step is apart. Use `//` rather than `/`, to stay with exact integers.",
    cases=(
        ("2 x 2 tokens after a class, nothing kept", _ask_pairs(4, 1, False)),
        ("the same with a cache", _ask_pairs(4, 1, True)),
        ("3 x 3 tokens after a caption of 5, nothing kept", _ask_pairs(9, 5, False)),
        ("the same with a cache", _ask_pairs(9, 5, True)),
        ("a million by a million tokens after a caption of 120, nothing kept", _ask_pairs(10**12, 120, False)),
        ("the same with a cache", _ask_pairs(10**12, 120, True)),
    ),
    mistakes=(
        ("The last token is drawn and never read: the last step has one position less.", partial(_pairs, end=0)),
        ("There are no steps before the prefix is there.", partial(_pairs, all_steps=True)),
        ("In the first step all of the prefix is new: it meets itself, squared.", partial(_pairs, alone=True)),
        ("Of the first step, and of every step without a cache, the full square counts.", partial(_pairs, half=True)),
        ("A count is an integer: `//` in place of `/`, which rounds.", _rounded),
    ),
)

# FLOPs ------------------------------------------------------------------------------------------------------------


def raster_flops(config, queries, pairs, drawn):
    """Queries, pairs and drawn tokens of one sequence -> (FLOPs of attention, FLOPs of all), two integers."""
    D, M = config.width, config.mlp_width
    attention = config.depth * 2 * 2 * D * pairs  # scores, and the weighted sum of values
    layers = config.depth * 2 * (4 * D * D + 3 * D * M) * queries
    head = 2 * D * config.codebook_size * drawn
    return attention, attention + layers + head


def _flops(
    config, queries, pairs, drawn, each: int = 2, products: int = 2, square=4, mlp: int = 3, deep=True, every=False
):
    D, M, depth = config.width, config.mlp_width, config.depth
    attention = (depth if deep else 1) * products * each * D * pairs
    layers = depth * each * (square * D * D + mlp * D * M) * queries
    return attention, attention + layers + each * D * config.codebook_size * (queries if every else drawn)


def _apart(*arguments):
    attention, everything = _flops(*arguments)
    return attention, everything - attention


def _ask_flops(depth: int, width: int, hidden: int, codes: int, *work: int):
    config = GPTConfig(depth, width, 1, grid=None, codebook_size=codes, hidden=hidden)
    return lambda function: tuple(function(config, *work))


RASTER_FLOPS = Exercise(
    raster_flops,
    title="FLOPs of an image",
    stars=2,
    minutes=15,
    way_in="for each pair, for each query, for each token that is drawn",
    hint="Every query passes through every matrix of every layer. The head is the only matrix that fewer pass.",
    cases=(
        ("one layer of width 4, one query that sees itself", _ask_flops(1, 4, 3, 5, 1, 1, 1)),
        ("three layers, 10 queries, 30 pairs, 4 tokens", _ask_flops(3, 8, 12, 6, 10, 30, 4)),
    ),
    mistakes=(
        ("A multiplication and an addition are two.", partial(_flops, each=1)),
        ("A pair has two products: its score, and the weighted value.", partial(_flops, products=1)),
        ("Attention has four matrices: query, key, value, and output.", partial(_flops, square=3)),
        ("SwiGLU has three matrices.", partial(_flops, mlp=2)),
        ("Every layer has its own attention.", partial(_flops, deep=False)),
        ("Logits are made for the tokens that are drawn, not for every query.", partial(_flops, every=True)),
        ("The second number is of all: it includes attention.", _apart),
    ),
)

# Exponents --------------------------------------------------------------------------------------------------------


def exponent_between(small, cost, large, larger_cost):
    """Two sides n and the costs there -> the power p of the law c n^p through both, a float."""
    return math.log(larger_cost / cost) / math.log(large / small)


def _octaves(small, cost, large, larger_cost) -> float:
    return math.log2(larger_cost / cost)


def _factor(small, cost, large, larger_cost) -> float:
    return larger_cost / cost


def _through_one(small, cost, large, larger_cost) -> float:
    return math.log(larger_cost) / math.log(large)


def _straight(small, cost, large, larger_cost) -> float:
    return (larger_cost - cost) / (large - small)


def _ask_exponent(*points: float):
    return lambda function: function(*points)


EXPONENT_BETWEEN = Exercise(
    exponent_between,
    title="The exponent between two points",
    stars=1,
    minutes=6,
    way_in="the slope of a line through two points, on logarithmic axes",
    hint="A law $c\\,n^p$ has the logarithm $\\log c + p \\log n$. What remains if two of these are subtracted?",
    cases=(
        ("n from 2 to 4, cost from 12 to 48", _ask_exponent(2, 12, 4, 48)),
        ("n from 3 to 12, cost from 5 to 320", _ask_exponent(3, 5, 12, 320)),
        ("a cost that does not grow", _ask_exponent(8, 7.5, 16, 7.5)),
    ),
    mistakes=(
        ("That is right where n is doubled; here it grows by another factor.", _octaves),
        ("That is the factor by which the cost grows, not the power of n.", _factor),
        ("The law has a constant, so that its cost at n = 1 need not be 1.", _through_one),
        ("Take the slope on logarithmic axes.", _straight),
    ),
)

# The crossover ----------------------------------------------------------------------------------------------------


def crossover(width, mlp_width, cache):
    """The smallest n at which attention does half of the layers' work or more, over one n x n image."""
    ratio = 4 * width + 3 * mlp_width  # an average query has to see half as many keys
    tokens = ratio - 1 if cache else -(-(3 * ratio - 2) // 4)  # the smallest whole N
    return math.isqrt(tokens - 1) + 1  # the smallest n with n * n >= N


def _crossing(
    width, mlp_width, cache, products: int = 2, mlp: int = 3, kept: bool | None = None, down=False, whole=False
) -> int:
    ratio = 2 * (4 * width + mlp * mlp_width) // products
    tokens = ratio - 1 if (cache if kept is None else kept) else -(-(3 * ratio - 2) // 4)
    return tokens if whole else math.isqrt(tokens) if down else math.isqrt(tokens - 1) + 1


def _ask_crossover(width: int, mlp_width: int, cache: bool):
    return lambda function: function(width, mlp_width, cache)


CROSSOVER = Exercise(
    crossover,
    title="Where attention takes over",
    stars=2,
    minutes=20,
    way_in="an inequality for N = n * n; then round up, to a whole N and to a whole n",
    hint="Divide both sides of the inequality by the number of queries: what must the average number of keys reach? "
    "Then round up twice. `-(-a // b)` rounds a quotient up, and `math.isqrt` is a root, rounded down.",
    cases=(
        ("width 64 and MLP 170, with a cache", _ask_crossover(64, 170, True)),
        ("the same, nothing kept", _ask_crossover(64, 170, False)),
        ("an MLP as wide as the model, with a cache", _ask_crossover(128, 128, True)),
        ("LlamaGen-L, width 1024 and MLP 2816, with a cache", _ask_crossover(1024, 2816, True)),
        ("LlamaGen-L, nothing kept", _ask_crossover(1024, 2816, False)),
    ),
    mistakes=(
        ("That is the number of tokens; asked is the side of the grid.", partial(_crossing, whole=True)),
        ("There attention does not do half yet: round up.", partial(_crossing, down=True)),
        ("Without a cache an average query sees more keys than with one.", partial(_crossing, kept=True)),
        ("With a cache queries arrive evenly: the average query sees fewer keys.", partial(_crossing, kept=False)),
        ("A pair has two products: its score, and the weighted value.", partial(_crossing, products=1)),
        ("SwiGLU has three matrices.", partial(_crossing, mlp=2)),
    ),
)
