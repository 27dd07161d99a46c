"""Exercises of chapter 08: pairs of any schedule, the constant of n^4, the shortest wait, and the smallest batch."""

from functools import partial

from minivar.book.exercises.exercise import Exercise
from minivar.scales import VAR_256, VAR_1024

# Pairs of any schedule ----------------------------------------------------------------------------------------------


def schedule_pairs(grids, cache):
    """K grids (h, w), coarse to fine, and whether there is a KV cache -> pairs of query and key of one image."""
    so_far = pairs = 0
    for height, width in grids:
        new = height * width
        so_far += new
        pairs += (new if cache else so_far) * so_far
    return pairs


def _pairs(
    grids,
    cache,
    queries: str = "by cache",
    before: bool = False,
    alone: bool = False,
    square: bool = False,
) -> int:
    so_far = pairs = 0
    for height, width in grids:
        new = height * (height if square else width)
        if alone:
            pairs += new * new
            continue
        keys = so_far + new * (not before)
        so_far += new
        only_new = {"by cache": cache, "new": True, "all": False}[queries]
        pairs += (new if only_new else so_far) * keys
    return pairs


def _ask_pairs(grids, cache: bool):
    return lambda function: int(function(grids, cache))


SCHEDULE_PAIRS = Exercise(
    schedule_pairs,
    title="Pairs of any schedule",
    stars=1,
    minutes=10,
    way_in="a running total of tokens; keys are all so far, queries depend on the cache",
    hint="The keys of a step are the running total after its scale was added. The queries are that total, or the new "
    "scale alone.",
    cases=(
        ("sides 1, 2, 4 without a cache", _ask_pairs(((1, 1), (2, 2), (4, 4)), False)),
        ("the same with a cache", _ask_pairs(((1, 1), (2, 2), (4, 4)), True)),
        ("one scale of 5 x 5 with a cache, which then holds nothing", _ask_pairs(((5, 5),), True)),
        ("grids that are not square", _ask_pairs(((1, 2), (2, 3), (4, 6)), True)),
        ("the published schedule at 256 pixels, no cache", _ask_pairs(VAR_256.grids, False)),
        ("the published schedule at 1024 pixels, with a cache", _ask_pairs(VAR_1024.grids, True)),
    ),
    mistakes=(
        (
            "Without a cache nothing is kept: all tokens so far are queries again.",
            partial(_pairs, queries="new"),
        ),
        ("With a cache only the tokens of the new scale are queries.", partial(_pairs, queries="all")),
        ("A scale attends to itself too: add it to the total first.", partial(_pairs, before=True)),
        ("A scale attends to the coarser ones too, not only to itself.", partial(_pairs, alone=True)),
        ("A grid of h x w has h w cells: not every grid is square.", partial(_pairs, square=True)),
    ),
)

# The constant at any ratio ------------------------------------------------------------------------------------------


def leading_constant(a, cache):
    """The ratio of the sides, a > 1, and whether there is a KV cache -> c of c n^4 pairs, for large n."""
    b = a * a  # the ratio of the token counts
    all_steps = 1 / (1 - b**-2)
    tokens = b / (b - 1)  # of all scales, in units of the last one's
    return all_steps * (tokens if cache else tokens**2)


def _constant(a, cache, power: int = 2, squared: bool | None = None, last: bool = False, fine: bool = False) -> float:
    b = a**power
    tokens = 1 if fine else b / (b - 1)
    twice = not cache if squared is None else squared
    return (1 if last else 1 / (1 - b**-2)) * (tokens**2 if twice else tokens)


def _ask_constant(a: float, cache: bool):
    return lambda function: float(function(a, cache))


LEADING_CONSTANT = Exercise(
    leading_constant,
    title="The constant at any ratio",
    stars=2,
    minutes=20,
    way_in="what the last step costs, in units of n^4, times what all steps are to the last",
    hint="Write $b = a^2$, the ratio of the token counts. The last step has $n^2$ new tokens and about "
    "$n^2\\, b/(b-1)$ in all. From step to step either cost grows by $b^2$.",
    remark="As $a \\to 1$ both constants grow without bound. As $a \\to \\infty$ both tend to 1: the cheapest "
    "pyramid has one scale, all tokens at once and independent of each other, and is no better than noise.",
    cases=(
        ("a = 2, no cache", _ask_constant(2.0, False)),
        ("a = 2 with a cache", _ask_constant(2.0, True)),
        ("a = 3, no cache", _ask_constant(3.0, False)),
        ("a = 3/2 with a cache", _ask_constant(1.5, True)),
        ("a = 5/4, no cache (slow growth, many scales)", _ask_constant(1.25, False)),
        ("a = 100 with a cache (almost a single scale)", _ask_constant(100.0, True)),
    ),
    mistakes=(
        ("The sides grow by a, but the tokens by a^2.", partial(_constant, power=1)),
        (
            "Without a cache all tokens so far are queries as well as keys: their factor comes twice.",
            partial(_constant, squared=False),
        ),
        (
            "With a cache the queries of the last step are its own n^2 tokens: one factor falls away.",
            partial(_constant, squared=True),
        ),
        ("That is the last step alone: the ones before it cost something too.", partial(_constant, last=True)),
        ("The last step attends to the coarser scales too.", partial(_constant, fine=True)),
    ),
)

# The shortest wait --------------------------------------------------------------------------------------------------


def shortest_wait(steps, weights, speed, bandwidth, batch):
    """Steps, each (FLOPs, bytes of cache read) of one sequence, bytes of weights, FLOPs a second, bytes a second.

    Returns the seconds that a batch of sequences takes at least.
    """
    seconds = 0.0
    for flops, cache in steps:
        arithmetic = batch * flops / speed
        reading = (weights + batch * cache) / bandwidth
        seconds += max(arithmetic, reading)
    return seconds


def _wait(
    steps,
    weights,
    speed,
    bandwidth,
    batch,
    added: bool = False,
    together: bool = False,
    own: bool = False,
    shared: bool = False,
    once: bool = False,
) -> float:
    arithmetic = [batch * flops / speed for flops, _ in steps]
    heavy = [weights * (batch if own else 1) * (i == 0 or not once) for i in range(len(steps))]
    caches = [cache * (1 if shared else batch) for _, cache in steps]
    reading = [(w + c) / bandwidth for w, c in zip(heavy, caches, strict=True)]
    if together:
        return max(sum(arithmetic), sum(reading))
    return sum(x + y if added else max(x, y) for x, y in zip(arithmetic, reading, strict=True))


def _ask_wait(*arguments):
    return lambda function: float(function(*arguments))


SHORTEST_WAIT = Exercise(
    shortest_wait,
    title="The shortest wait",
    stars=2,
    minutes=12,
    way_in="step by step: the batch's arithmetic, or reading, whichever takes longer",
    hint="Within a step both can go on at the same time. The next step cannot begin before both are done.",
    cases=(
        (
            "one step that waits for memory, one that waits for arithmetic, three sequences",
            _ask_wait([(10, 5), (600, 20)], 100, 10.0, 2.0, 3),
        ),
        ("a single sequence and no cache", _ask_wait([(50, 0), (50, 0), (900, 0)], 100, 10.0, 2.0, 1)),
    ),
    mistakes=(
        ("Reading and arithmetic overlap: a step takes the longer of the two, not both.", partial(_wait, added=True)),
        (
            "Steps follow one another: each waits for its own bottleneck. Compare step by step, then add.",
            partial(_wait, together=True),
        ),
        ("Weights are read once for all sequences of a batch.", partial(_wait, own=True)),
        ("Every sequence has a cache of its own.", partial(_wait, shared=True)),
        ("Each step reads the weights again.", partial(_wait, once=True)),
    ),
)

# The smallest batch -------------------------------------------------------------------------------------------------


def smallest_batch(flops, weights, cache, needed):
    """FLOPs and bytes of cache of one sequence, bytes of weights, FLOPs per byte needed -> batch, or None."""
    gain = flops - needed * cache
    if gain <= 0:
        return None
    return -(-needed * weights // gain)  # rounded up


def _batch(
    flops,
    weights,
    cache,
    needed,
    down: bool = False,
    free: bool = False,
    shared: bool = False,
    endless: bool = False,
    own: bool = False,
):
    if own:
        return 1 if flops >= needed * (weights + cache) else None
    gain = flops - needed * cache * (not free and not shared)
    if gain <= 0 and not endless:
        return None
    to_read = needed * (weights + cache * shared)
    gain = abs(gain) or 1
    return to_read // gain if down else -(-to_read // gain)


def _ask_batch(*arguments: int):
    return lambda function: function(*arguments)


SMALLEST_BATCH = Exercise(
    smallest_batch,
    title="When is a processor busy?",
    stars=2,
    minutes=15,
    way_in="a batch of b has the intensity b F / (W + b C): solve for b, in integers",
    hint="Bring the denominator of $b F / (W + b C)$ to the other side. Each sequence contributes $F$ less needed "
    "times $C$, and this may be negative.",
    cases=(
        ("no cache to read: twice the work, twice the intensity", _ask_batch(100, 100, 0, 10)),
        ("one sequence is enough", _ask_batch(5000, 100, 10, 20)),
        ("the cache takes half of the gain", _ask_batch(40, 100, 2, 10)),
        ("an intensity that is reached exactly", _ask_batch(30, 60, 1, 10)),
        ("one that a smaller batch just misses", _ask_batch(30, 61, 1, 10)),
        ("a cache that eats all of the gain", _ask_batch(100, 50, 10, 10)),
        ("a cache that eats more than that", _ask_batch(90, 50, 10, 10)),
    ),
    mistakes=(
        ("That batch just misses the intensity: round up.", partial(_batch, down=True)),
        ("Each sequence reads its own cache: that takes part of its gain away.", partial(_batch, free=True)),
        ("The caches are read for each sequence, not once for the batch.", partial(_batch, shared=True)),
        ("Weights are read once for all sequences: a larger batch helps.", partial(_batch, own=True)),
        (
            "Where a sequence's cache eats what it gains, no batch is large enough: None.",
            partial(_batch, endless=True),
        ),
    ),
)
