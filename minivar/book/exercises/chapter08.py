"""Checks of the exercises of chapter 08."""

from collections.abc import Callable
from fractions import Fraction

from minivar.analysis.complexity import next_scale_steps
from minivar.book.exercises.verdict import verdict
from minivar.scales import VAR_256, VAR_1024, ScaleSchedule


def check_schedule_pairs(fn: Callable[[tuple[tuple[int, int], ...], bool], int]) -> bool:
    """``fn(grids, cache)`` -> pairs of query and key that one image takes; grids are pairs (h, w), coarse to fine."""

    def case(schedule: ScaleSchedule, cache: bool):
        steps = next_scale_steps(schedule, cache)
        return lambda: fn(schedule.grids, cache), sum(s.queries * s.keys for s in steps)

    return verdict(
        "schedule pairs",
        (
            ("sides 1, 2, 4 without a cache: 1 + 25 + 441", *case(ScaleSchedule((1, 2, 4)), False)),
            ("the same with a cache: 1 + 20 + 336", *case(ScaleSchedule((1, 2, 4)), True)),
            ("one scale of 5 x 5 with a cache (which then holds nothing)", *case(ScaleSchedule((5,)), True)),
            ("grids that are not square", *case(ScaleSchedule(((1, 2), (2, 3), (4, 6))), True)),
            ("the published schedule at 256 pixels, no cache", *case(VAR_256, False)),
            ("the published schedule at 1024 pixels, with a cache", *case(VAR_1024, True)),
        ),
    )


def check_leading_constant(fn: Callable[[float, bool], float]) -> bool:
    """``fn(a, cache)`` -> c such that a schedule of sides 1, a, a^2, ..., n takes c n^4 pairs for large n."""

    def case(a: Fraction, cache: bool):
        so_far, pairs, tokens = Fraction(0), Fraction(0), Fraction(1)
        for _ in range(400):  # exact sums, so large that the leading term is all that a float can see
            so_far += tokens
            pairs += (tokens if cache else so_far) * so_far
            tokens *= a * a
        return lambda: fn(float(a), cache), float(pairs / (tokens / (a * a)) ** 2)

    return verdict(
        "leading constant",
        (
            ("a = 2, no cache: 256 / 135", *case(Fraction(2), False)),
            ("a = 2 with a cache: 64 / 45", *case(Fraction(2), True)),
            ("a = 3, no cache", *case(Fraction(3), False)),
            ("a = 3/2 with a cache", *case(Fraction(3, 2), True)),
            ("a = 5/4, no cache (slow growth, many scales)", *case(Fraction(5, 4), False)),
            ("a = 100 with a cache (almost a single scale)", *case(Fraction(100), True)),
        ),
    )


def check_smallest_batch(fn: Callable[[int, int, int, int], int | None]) -> bool:
    """``fn(flops, weights, cache, needed)`` -> smallest batch of that arithmetic intensity, None if there is none.

    ``flops`` and ``cache``, bytes read, are those of one sequence; ``weights``, bytes, are read once for all.
    """
    cases = (
        ("no cache to read: twice the work, twice the intensity", 100, 100, 0, 10, 10),
        ("one sequence is enough", 5000, 100, 10, 20, 1),
        ("the cache takes half of the gain", 40, 100, 2, 10, 50),
        ("an intensity that is reached exactly", 30, 60, 1, 10, 30),
        ("one that is just missed by a smaller batch", 30, 61, 1, 10, 31),
        ("a cache that no batch can outgrow", 100, 50, 10, 10, None),
        ("LlamaGen-L on an A100", 169_663_791_104, 166_429_982_720, 3_233_808_384, 153, None),
        ("VAR-d16 on an A100", 300_379_865_088, 6_123_683_840, 112_066_560, 153, 4),
    )
    rows = [(name, lambda a=args: fn(*a), expected) for name, *args, expected in cases]
    return verdict("smallest batch", rows)
