"""Exercises of chapter 15a: waiting in a line, batches that are joined, rows at different positions, and guests."""

from functools import partial

import torch

from minivar.book.exercises.exercise import Exercise

# One by one -------------------------------------------------------------------------------------------------------


def one_by_one(arrivals, seconds):
    """Seconds at which requests come, ascending, and how long each takes alone -> seconds at which each is done."""
    done, free = [], 0.0
    for arrival in arrivals:
        free = max(free, arrival) + seconds
        done.append(free)
    return done


def _line(arrivals, seconds, idle: bool = True, line: bool = True, latency: bool = False) -> list[float]:
    done, free = [], 0.0
    for arrival in arrivals:
        begin = max(free, arrival) if idle else free
        free = (begin if line else arrival) + seconds
        done.append(free - arrival if latency else free)
    return done


def _ask_line(arrivals: list[float], seconds: float):
    return lambda function: [round(float(value), 9) for value in function(list(arrivals), seconds)]


ONE_BY_ONE = Exercise(
    one_by_one,
    title="A line",
    stars=1,
    minutes=6,
    way_in="a request begins when it is there and the one before it is done",
    hint="Keep the second at which the model is free again.",
    cases=(
        ("nobody has to wait", _ask_line([0.0, 5.0, 9.0], 2.0)),
        ("everybody comes at once", _ask_line([1.0, 1.0, 1.0], 2.0)),
        ("a line that forms and dissolves", _ask_line([0.0, 1.0, 1.5, 10.0], 2.0)),
    ),
    mistakes=(
        ("The model cannot begin before the request is there.", partial(_line, idle=False)),
        ("One at a time: a request waits for the one before it.", partial(_line, line=False)),
        ("Return when each is done, not how long it took.", partial(_line, latency=True)),
    ),
)

# Batches ----------------------------------------------------------------------------------------------------------


def served(arrivals, tokens, slots, step, join):
    """Seconds at which requests come, ascending; tokens of a picture; slots of the batch; step(n), the seconds of a
    step with n pictures; whether a batch may be joined that has begun -> seconds at which each is done.

    A step draws a token for every picture in the batch. Newcomers join before a step, in the order of their coming.
    """
    done, left, clock, came = {}, {}, 0.0, 0
    while len(done) < len(arrivals):
        if not left:
            clock = max(clock, arrivals[came])
        begun = bool(left) and not join
        while came < len(arrivals) and arrivals[came] <= clock and len(left) < slots and not begun:
            left[came] = tokens
            came += 1
        clock += step(len(left))
        left = {who: count - 1 for who, count in left.items()}
        done |= {who: clock for who, count in left.items() if count == 0}
        left = {who: count for who, count in left.items() if count}
    return [done[who] for who in range(len(arrivals))]


def _served(arrivals, tokens, slots, step, join, always=None, endless=False, full=False, alone=False, early=False):
    join = join if always is None else always
    done, left, clock, came = {}, {}, 0.0, 0
    while len(done) < len(arrivals):
        if not left:
            wanted = min(came + slots, len(arrivals)) - 1 if full else came
            clock = max(clock, arrivals[wanted])
        begun, most = bool(left) and not join, len(arrivals) if endless else slots
        while came < len(arrivals) and (arrivals[came] <= clock or early) and len(left) < most and not begun:
            left[came] = tokens
            came += 1
        clock += step(1) if alone else step(len(left))
        left = {who: count - 1 for who, count in left.items()}
        done |= {who: clock for who, count in left.items() if count == 0}
        left = {who: count for who, count in left.items() if count}
    return [done[who] for who in range(len(arrivals))]


def _ask_served(arrivals: list[float], tokens: int, slots: int, join: bool):
    def ask(function):
        done = function(list(arrivals), tokens, slots, lambda n: 1.0 + 0.25 * n, join)
        return [round(float(value), 9) for value in done]

    return ask


RUSH = [0.0, 1.0, 1.5, 9.0, 9.0, 9.5, 40.0]

SERVED = Exercise(
    served,
    title="Batches that may be joined",
    stars=3,
    minutes=25,
    way_in="a clock, how many tokens each picture in the batch lacks, and who comes next",
    hint="Four thoughts in a loop: if nobody is there, the clock jumps to the next arrival; whoever has come joins, "
    "if there is a slot and joining is allowed now; the clock goes on by one step; who lacks no token leaves.",
    remark="`serving.ContinuousBatch` is this with a transformer in it, and `static=True` forbids joining.",
    cases=(
        ("one request", _ask_served([2.0], 3, 4, True)),
        ("a batch that is joined", _ask_served(RUSH, 4, 2, True)),
        ("a batch that is not", _ask_served(RUSH, 4, 2, False)),
        ("more slots than guests", _ask_served(RUSH, 4, 8, True)),
        ("more slots than guests, not joined", _ask_served(RUSH, 4, 8, False)),
    ),
    mistakes=(
        (
            "Where joining is not allowed, who comes while a batch is drawn waits for its end.",
            partial(_served, always=True),
        ),
        ("Where joining is allowed, a free slot is taken before the next step.", partial(_served, always=False)),
        ("There are only so many slots: the others wait.", partial(_served, endless=True)),
        ("A batch need not be full to begin: nobody waits for guests who may not come.", partial(_served, full=True)),
        ("A step with more pictures takes longer: step(n).", partial(_served, alone=True)),
        ("Nobody joins before they have come.", partial(_served, early=True)),
    ),
)

# Rows at different positions --------------------------------------------------------------------------------------


def visible(at):
    """Positions (B,), int64, at which rows of a batch have just written a key -> bool (B, longest): what each sees.

    longest: so many positions as the row that is furthest has keys.
    """
    return torch.arange(int(at.max()) + 1) <= at[:, None]


def _visible(at, shift: int = 0, turned: bool = False, length: int = 1):
    positions = torch.arange(int(at.max()) + length)
    return positions >= at[:, None] if turned else positions + shift <= at[:, None]


def _everything(at):
    return torch.ones(len(at), int(at.max()) + 1, dtype=torch.bool)


def _ask_visible(*at: int):
    return lambda function: function(torch.tensor(at)).int().tolist()


VISIBLE = Exercise(
    visible,
    title="What a row sees",
    stars=1,
    minutes=6,
    way_in="compare torch.arange(...) with the positions",
    hint="`at[:, None]` is a column; a row of positions against a column of numbers gives a table.",
    cases=(
        ("all at the same place", _ask_visible(2, 2)),
        ("a newcomer beside an old hand", _ask_visible(0, 3)),
        ("three places", _ask_visible(4, 1, 2)),
    ),
    mistakes=(
        ("A row sees its own key as well: position `at` is written.", partial(_visible, shift=1)),
        ("A row sees what is behind it, not what is ahead.", partial(_visible, turned=True)),
        ("Row B must not see what lies beyond its position: that is empty, or a former guest's.", _everything),
        ("The row that is furthest has at.max() + 1 keys.", partial(_visible, length=2)),
    ),
)

# Who leaves -------------------------------------------------------------------------------------------------------


def moved_up(cache, stays):
    """Keys (B, L) of all rows, and bool (B,): who stays -> keys (B, L) with those who stay in front, in their order.

    The rows behind them may hold anything: nobody will look there before it is written.
    """
    kept = stays.nonzero()[:, 0]
    cache = cache.clone()
    cache[: len(kept)] = cache[kept]
    return cache


def _moved(cache, stays, turned: bool = False, sort: bool = False):
    kept = (~stays if turned else stays).nonzero()[:, 0]
    cache = cache.clone()
    cache[: len(kept)] = cache[kept.flip(0) if sort else kept]
    return cache


def _holes(cache, stays):
    return cache * stays[:, None]


def _overwritten(cache, stays):
    cache = cache.clone()
    for gap in (~stays).nonzero()[:, 0].tolist():  # the last row fills the gap
        cache[gap] = cache[-1]
    return cache


def _ask_moved(*stays: int):
    def ask(function):
        cache = torch.arange(len(stays))[:, None] * 10 + torch.arange(3)
        return function(cache, torch.tensor(stays).bool())[: sum(stays)].tolist()

    return ask


MOVED_UP = Exercise(
    moved_up,
    title="Closing the gaps",
    stars=1,
    minutes=8,
    way_in="stays.nonzero()[:, 0] are the rows to keep",
    hint="Indexing on the right makes a copy, so that no row is overwritten before it has been read.",
    remark="`RowCache.keep` does this, and leaves alone the rows in front of the first gap.",
    cases=(
        ("two of five leave", _ask_moved(1, 0, 1, 0, 1)),
        ("the first leaves", _ask_moved(0, 1, 1)),
        ("the last leaves", _ask_moved(1, 1, 0)),
        ("nobody leaves", _ask_moved(1, 1)),
    ),
    mistakes=(
        ("Those who stay are kept, not those who leave.", partial(_moved, turned=True)),
        (
            "They keep their order: other tables (whose row it is, its class) know them by it.",
            partial(_moved, sort=True),
        ),
        ("A row of zeros is still a row: the batch would never get smaller.", _holes),
        ("Filling a gap with the last row leaves that one twice, and the next gap unfilled.", _overwritten),
    ),
)
