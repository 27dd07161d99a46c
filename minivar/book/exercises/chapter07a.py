"""Exercises of chapter 07a: fair times, arithmetic intensity, the roof, what guidance may skip, the frontier."""

from collections.abc import Callable
from functools import partial
from statistics import fmean, median

from minivar.book.exercises.exercise import Exercise
from minivar.book.exercises.pretend import PretendMachine

# Fair times ---------------------------------------------------------------------------------------------------------


def fair_times(calls, rounds, clock):
    """Calls by name -> median seconds of each over the rounds, in which all have their turn, after one untimed."""
    for call in calls.values():
        call()
    seconds = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            started = clock()
            call()
            seconds[name].append(clock() - started)
    return {name: median(taken) for name, taken in seconds.items()}


def _fair(calls, rounds, clock, warm=True, interleaved=True, summary=median, nested=False) -> dict[str, float]:
    for call in calls.values() if warm else ():
        call()
    seconds = {name: [] for name in calls}
    turns = [name for _ in range(rounds) for name in calls]
    round_started = clock()
    for i, name in enumerate(turns if interleaved else sorted(turns, key=list(calls).index)):
        if i % len(calls) == 0:
            round_started = clock()
        started = round_started if nested else clock()
        calls[name]()
        seconds[name].append(clock() - started)
    return {name: summary(taken) for name, taken in seconds.items()}


def _ask_times(rounds: int, costs: dict[str, float], **machine):
    def answer(function: Callable) -> list[tuple[str, float]]:
        pretend = PretendMachine(costs, **machine)
        found = function(pretend.calls, rounds, pretend.clock)
        return [(name, round(float(found[name]), 6)) for name in costs]

    return answer


def _asked_of(rounds: int, costs: dict[str, float]):
    """How often each call was made."""

    def answer(function: Callable) -> list[int]:
        pretend = PretendMachine(costs)
        made: list[str] = []
        calls = {name: lambda n=name: (made.append(n), pretend.work(n)) for name in costs}
        function(calls, rounds, pretend.clock)
        return [made.count(name) for name in costs]

    return answer


def _busy_from(moment: float):
    return lambda now: 1.0 if now < moment else 2.0


FAIR = Exercise(
    fair_times,
    title="A fair clock",
    stars=2,
    minutes=20,
    way_in="an untimed call of each, then rounds in which each has its turn, then medians",
    hint="Two loops, one inside the other: which of them goes over the rounds? `clock()` is read before and after "
    "one call, and `statistics.median` takes a list.",
    cases=(
        ("two calls of 1 and 3 seconds", _ask_times(3, {"a": 1.0, "b": 3.0})),
        ("a first call that takes 9 seconds more, of a single round", _ask_times(1, {"a": 1.0, "b": 3.0}, first=9.0)),
        (
            "five rounds, one of which somebody disturbs",
            _ask_times(5, {"a": 1.0, "b": 3.0}, busy=lambda now: 7.0 if 108 <= now < 109 else 1.0),
        ),
        (
            "two equal calls on a machine that is busy from the third round on",
            _ask_times(6, {"a": 1.0, "b": 1.0}, busy=_busy_from(106.0)),
        ),
        ("how often each of three was called, in four rounds", _asked_of(4, {"a": 1.0, "b": 2.0, "c": 3.0})),
    ),
    mistakes=(
        ("The first calls are timed too; they pay for what the others find ready.", partial(_fair, warm=False)),
        ("A mean lets one disturbed round speak for all.", partial(_fair, summary=fmean)),
        ("This is the fastest call: a median is asked for.", partial(_fair, summary=min)),
        (
            "One call has all its turns before the next has any: who was on the machine then?",
            partial(_fair, interleaved=False),
        ),
        ("The clock runs from the beginning of the round: read it before each call.", partial(_fair, nested=True)),
        (
            "This is the sum of all rounds.",
            lambda calls, rounds, clock: _fair(calls, rounds, clock, summary=sum),
        ),
    ),
)

# Arithmetic intensity -----------------------------------------------------------------------------------------------


def intensity(rows, inputs, outputs, number_bytes):
    """FLOPs a byte of (rows, inputs) times (inputs, outputs), if each number moves once."""
    flops = 2 * rows * inputs * outputs
    numbers = inputs * outputs + rows * inputs + rows * outputs
    return flops / (number_bytes * numbers)


def _intensity(rows, inputs, outputs, number_bytes, flops=2.0, weights=1, read=1, written=1) -> float:
    numbers = weights * inputs * outputs + read * rows * inputs + written * rows * outputs
    return flops * rows * inputs * outputs / (number_bytes * numbers)


def _ask_intensity(*product: int):
    return lambda function: function(*product)


INTENSITY = Exercise(
    intensity,
    title="FLOPs a byte",
    stars=1,
    minutes=8,
    way_in="multiplications and additions, over three matrices that move",
    hint="An output is `inputs` multiplications and as many additions. Which three matrices are read or written?",
    cases=(
        ("2 rows, 3 inputs, 4 outputs, 1 byte a number", _ask_intensity(2, 3, 4, 1)),
        ("one row of a d16's MLP in float32", _ask_intensity(1, 1024, 4096, 4)),
        ("512 rows of it", _ask_intensity(512, 1024, 4096, 4)),
        ("512 rows of it in 16 bits", _ask_intensity(512, 1024, 4096, 2)),
        ("a square product of 2,048", _ask_intensity(2048, 2048, 2048, 4)),
    ),
    mistakes=(
        ("A multiplication and an addition are two FLOPs.", partial(_intensity, flops=1.0)),
        ("The weights alone are counted: rows come in and go out too.", partial(_intensity, read=0, written=0)),
        ("What comes out has to be written.", partial(_intensity, written=0)),
        ("What comes in has to be read.", partial(_intensity, read=0)),
        ("The weights have to be read as well.", partial(_intensity, weights=0)),
        ("These are FLOPs a number: how many bytes has one?", lambda r, i, o, n: _intensity(r, i, o, 1)),
        ("These are bytes a FLOP: the other way round.", lambda *product: 1 / _intensity(*product)),
    ),
)

# The roof -----------------------------------------------------------------------------------------------------------


def roof_seconds(products, peak, bandwidth, number_bytes):
    """Least seconds of products (rows, inputs, outputs), done one after the other: FLOP/s and bytes/s are given."""
    seconds = 0.0
    for rows, inputs, outputs in products:
        flops = 2 * rows * inputs * outputs
        moved = number_bytes * (inputs * outputs + rows * inputs + rows * outputs)
        seconds += max(flops / peak, moved / bandwidth)
    return seconds


def _parts(products, peak, bandwidth, number_bytes) -> tuple[list[float], list[float]]:
    """Seconds of arithmetic, and of moving, of each product."""
    flops = [2 * r * i * o / peak for r, i, o in products]
    return flops, [number_bytes * (i * o + r * i + r * o) / bandwidth for r, i, o in products]


def _at_once(*given) -> float:
    return max(sum(part) for part in _parts(*given))


def _one_after_the_other(*given) -> float:
    return sum(sum(part) for part in _parts(*given))


def _slowest(*given) -> float:
    return max(max(both) for both in zip(*_parts(*given), strict=True))


THIN, WIDE = (2, 1024, 4096), (512, 1024, 4096)


def _ask_roof(products: list[tuple[int, int, int]], peak: float, bandwidth: float, number_bytes: int = 4):
    return lambda function: function(list(products), peak, bandwidth, number_bytes)


ROOF = Exercise(
    roof_seconds,
    title="Under the roof",
    stars=2,
    minutes=15,
    way_in="for each product the longer of two times",
    hint="Arithmetic and moving go on side by side, so that a product takes the longer of the two. The next product "
    "begins when this one has ended.",
    cases=(
        ("a product of 2 rows", _ask_roof([THIN], 2e11, 3e10)),
        ("a product of 512 rows", _ask_roof([WIDE], 2e11, 3e10)),
        ("both, one after the other", _ask_roof([THIN, WIDE], 2e11, 3e10)),
        ("both on a GPU, in 16 bits", _ask_roof([THIN, WIDE], 9.89e14, 3.35e12, 2)),
        ("ten products of two rows", _ask_roof([THIN] * 10, 2e11, 3e10)),
    ),
    mistakes=(
        ("The times are added: a processor reads on while it multiplies.", _one_after_the_other),
        (
            "All arithmetic is set against all moving: what one product has to spare does not help the next.",
            _at_once,
        ),
        (
            "This is the time of the arithmetic alone: which takes longer with two rows, that or reading?",
            lambda *given: sum(_parts(*given)[0]),
        ),
        (
            "This is the time of moving alone: which takes longer with 512 rows, that or the arithmetic?",
            lambda *given: sum(_parts(*given)[1]),
        ),
        ("This is the slowest product alone.", _slowest),
    ),
)

# What guidance may skip ---------------------------------------------------------------------------------------------


def guidance_saved(counts, strengths):
    """Tokens and guidance of each scale -> share that is saved of the tokens that pass the blocks, both halves."""
    guided = [k for k, strength in enumerate(strengths) if strength > 0]
    end = max(guided) + 1 if guided else 0
    return sum(counts[end:]) / (2 * sum(counts))


def _saved(counts, strengths, scattered=False, halves=2, shift=1, scales=False) -> float:
    guided = [k for k, strength in enumerate(strengths) if strength > 0]
    end = max(guided) + shift if guided else 0
    counts = [1] * len(counts) if scales else counts
    left = [count for k, count in enumerate(counts) if (strengths[k] == 0 if scattered else k >= end)]
    return sum(left) / (halves * sum(counts))


def _remaining(counts, strengths) -> float:
    return 1 - _saved(counts, strengths)


def _ask_saved(counts: list[int], strengths: list[float]):
    return lambda function: float(function(list(counts), list(strengths)))


DIGITS, FOUR = [1, 4, 9, 16], [0.0, 0.5, 1.0, 1.5]

SAVED = Exercise(
    guidance_saved,
    title="What guidance may skip",
    stars=2,
    minutes=10,
    way_in="which of the null class's tokens does nobody read?",
    hint="A scale that is guided reads the keys and values of all coarser scales, in both halves. From which scale "
    "on does nothing read the null half any more?",
    cases=(
        ("the ramp over 1, 4, 9 and 16 tokens", _ask_saved(DIGITS, FOUR)),
        ("no guidance at the last scale", _ask_saved(DIGITS, [0.0, 0.5, 1.0, 0.0])),
        ("no guidance at the last two scales", _ask_saved(DIGITS, [0.0, 0.5, 0.0, 0.0])),
        ("guidance at the last scale alone", _ask_saved(DIGITS, [0.0, 0.0, 0.0, 1.5])),
        ("no guidance at all", _ask_saved(DIGITS, [0.0, 0.0, 0.0, 0.0])),
    ),
    mistakes=(
        (
            "A scale without guidance is left out though a later one is guided, and reads its keys and values.",
            partial(_saved, scattered=True),
        ),
        ("This is the share of the null half: of both halves it is less.", partial(_saved, halves=1)),
        ("The last scale that is guided needs its null half.", partial(_saved, shift=0)),
        ("Scales are counted: their tokens are what passes the blocks.", partial(_saved, scales=True)),
        ("This is what remains; what is saved is asked for.", _remaining),
    ),
)

# The frontier -------------------------------------------------------------------------------------------------------


def unbeaten(points):
    """Names of the points, name -> (time, distance), that no other beats in both, quickest first."""
    left = []
    for name, (time, distance) in points.items():
        if not any(t < time and d < distance for t, d in points.values()):
            left.append(name)
    return sorted(left, key=lambda name: points[name])


def _unbeaten(points, both=True, order=True) -> list[str]:
    def beaten(time, distance):
        better = [(t < time, d < distance) for t, d in points.values()]
        return any(all(pair) if both else any(pair) for pair in better)

    left = [name for name, point in points.items() if not beaten(*point)]
    return sorted(left, key=points.get) if order else left


def _upwards(points) -> list[str]:
    return _unbeaten({name: (time, -distance) for name, (time, distance) in points.items()})


def _by_product(points) -> list[str]:
    return [min(points, key=lambda name: points[name][0] * points[name][1])]


def _neighbours(points) -> list[str]:
    """Each against the next quicker alone."""
    names = sorted(points, key=points.get)
    return names[:1] + [b for a, b in zip(names, names[1:], strict=False) if points[b][1] <= points[a][1]]


def _ask_points(points: dict[str, tuple[float, float]]):
    return lambda function: function(dict(points))


CLOUD = {"slow": (1.0, 1.2), "quick": (0.4, 2.0), "worse": (0.9, 2.5), "both": (0.7, 1.3), "late": (1.5, 1.25)}

FRONTIER = Exercise(
    unbeaten,
    title="The frontier",
    stars=2,
    minutes=15,
    way_in="whom does somebody beat in time and in distance?",
    hint="For each point ask whether *any* other has less of both. Whoever is best at one thing is always left.",
    cases=(
        ("two of which each is better at one thing", _ask_points({"a": (1.0, 2.0), "b": (2.0, 0.9)})),
        ("one that is worse at both", _ask_points({"a": (1.0, 1.0), "b": (2.0, 2.0)})),
        ("five", _ask_points(CLOUD)),
        ("one that is beaten by the best, and not by its neighbour", _ask_points({**CLOUD, "near": (1.6, 1.24)})),
        ("a single one", _ask_points({"a": (1.0, 1.0)})),
        ("two that are alike", _ask_points({"a": (1.0, 1.0), "b": (1.0, 1.0)})),
    ),
    mistakes=(
        ("All of them come back, beaten or not.", lambda points: sorted(points, key=points.get)),
        ("To be beaten at one thing is no shame: both are asked for.", partial(_unbeaten, both=False)),
        ("They are not in the order of time.", partial(_unbeaten, order=False)),
        ("Large distances are taken for good ones.", _upwards),
        ("One number is made of two; the frontier keeps every bargain.", _by_product),
        ("Each is compared with its neighbour alone: what of the others?", _neighbours),
    ),
)
