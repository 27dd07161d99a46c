"""Exercises of chapter 03a: the price of a step, bytes read, the size of a cache, and how many images fit."""

from functools import partial

import torch

from minivar.book.exercises.exercise import Exercise
from minivar.models import GPTConfig

# The price of a step ----------------------------------------------------------------------------------------------


def price_and_rate(one, other):
    """Two images, each (steps, FLOPs, seconds) -> (seconds that a step costs besides its FLOPs, FLOPs a second)."""
    (steps_1, flops_1, seconds_1), (steps_2, flops_2, seconds_2) = one, other
    # seconds = price * steps + flops / rate, twice; multiply each with the other's steps, and the price cancels
    rate = (flops_2 * steps_1 - flops_1 * steps_2) / (seconds_2 * steps_1 - seconds_1 * steps_2)
    return (seconds_1 - flops_1 / rate) / steps_1, rate


def _priced(one, other, inverse: bool = False, swapped: bool = False, whole: bool = False):
    (s1, f1, t1), (s2, f2, t2) = one, other
    rate = (f2 * s1 - f1 * s2) / (t2 * s1 - t1 * s2)
    price = t1 - f1 / rate if whole else (t1 - f1 / rate) / s1
    pair = price, 1 / rate if inverse else rate
    return pair[::-1] if swapped else pair


def _only_steps(one, other) -> tuple[float, float]:
    """All of the smaller image's time is its steps'; the rest of the larger one's is work."""
    (s1, _, t1), (s2, f2, t2) = one, other
    return t1 / s1, f2 / (t2 - s2 * t1 / s1)


def _only_work(one, other) -> tuple[float, float]:
    """The rate of the larger image, as if its steps were free."""
    (s1, f1, t1), (_, f2, t2) = one, other
    return (t1 - f1 * t2 / f2) / s1, f2 / t2


def _ask_price(price: float, rate: float, *images: tuple[int, float]):
    points = [(steps, flops, price * steps + flops / rate) for steps, flops in images]
    return lambda function: torch.tensor(tuple(function(*points)), dtype=torch.float64)


PRICE_AND_RATE = Exercise(
    price_and_rate,
    title="What a step costs before it computes",
    stars=2,
    minutes=12,
    way_in="seconds = price * steps + flops / rate, for two images: solve for price and rate",
    hint="Multiply the first equation by the second image's steps, the second by the first one's, and subtract: the "
    "price falls out.",
    cases=(
        ("10 and 20 steps, price 3, rate 50", _ask_price(3.0, 50.0, (10, 100.0), (20, 900.0))),
        ("steps that are free", _ask_price(0.0, 4.0, (10, 100.0), (20, 900.0))),
        ("4 and 16 steps, price 0.5, rate 1000", _ask_price(0.5, 1000.0, (4, 2e3), (16, 9e4))),
    ),
    mistakes=(
        ("The second number is FLOPs a second, not seconds a FLOP.", partial(_priced, inverse=True)),
        ("Price and rate have changed places.", partial(_priced, swapped=True)),
        ("That is the price of all steps of the first image, not of one.", partial(_priced, whole=True)),
        ("The smaller image computes too: its time is not all price.", _only_steps),
        ("The larger image has steps too: its time is not all arithmetic.", _only_work),
    ),
)

# Bytes read -------------------------------------------------------------------------------------------------------


def bytes_read(weights, kept, tokens, batch):
    """Bytes of all weights, bytes that the cache keeps of one position -> bytes read to draw ``batch`` sequences."""
    positions = tokens * (tokens + 1) // 2  # step i looks at i of them
    return tokens * weights + batch * kept * positions


def _read(
    weights, kept, tokens, batch, each: bool = False, shared: bool = False, full: bool = False, once: bool = False
) -> int:
    positions = tokens * tokens if full else tokens * (tokens + 1) // 2
    readings = (1 if once else tokens) * (batch if each else 1)
    return readings * weights + (1 if shared else batch) * kept * positions


def _ask_read(*arguments: int):
    return lambda function: function(*arguments)


BYTES_READ = Exercise(
    bytes_read,
    title="What is read to draw a batch",
    stars=1,
    minutes=8,
    way_in="weights once a step; of every sequence, all positions so far",
    hint="How many positions does step $i$ look at? Add that up over all steps.",
    cases=(
        ("weights of 100 bytes, 3 bytes a position, 4 tokens, one sequence", _ask_read(100, 3, 4, 1)),
        ("the same for a batch of 5", _ask_read(100, 3, 4, 5)),
    ),
    mistakes=(
        ("Weights are read once for all sequences of a batch.", partial(_read, each=True)),
        ("Every sequence has a cache of its own.", partial(_read, shared=True)),
        ("The cache grows: step i looks at i positions, not at all of them.", partial(_read, full=True)),
        ("Each step reads the weights again.", partial(_read, once=True)),
    ),
)

# The size of a cache ----------------------------------------------------------------------------------------------


def kept_bytes(config, kv_heads, number_bytes):
    """Bytes that the cache keeps of one position of one sequence, in all layers."""
    head_width = config.width // config.heads
    return 2 * config.depth * kv_heads * head_width * number_bytes


def _kept(
    config, kv_heads, number_bytes, both: int = 2, deep: bool = True, own: bool = False, wide: bool = False
) -> int:
    heads = config.heads if own else kv_heads
    width = config.width if wide else config.width // config.heads
    return both * (config.depth if deep else 1) * heads * width * number_bytes


def _ask_kept(depth: int, width: int, heads: int, kv_heads: int, number_bytes: int):
    return lambda function: function(GPTConfig(depth, width, heads), kv_heads, number_bytes)


KEPT_BYTES = Exercise(
    kept_bytes,
    title="What a position leaves behind",
    stars=1,
    minutes=6,
    way_in="a key and a value for each of kv_heads heads, in every layer",
    cases=(
        ("3 layers of width 64, 4 heads with a key each, 2 bytes a number", _ask_kept(3, 64, 4, 4, 2)),
        ("the same with one key for all heads", _ask_kept(3, 64, 4, 1, 2)),
        ("24 layers of width 1024, 16 heads, 4 keys, 4 bytes", _ask_kept(24, 1024, 16, 4, 4)),
    ),
    mistakes=(
        ("A position leaves a value as well as a key.", partial(_kept, both=1)),
        ("Each layer keeps keys and values of its own.", partial(_kept, deep=False)),
        ("Keys may be shared: there are as many as kv_heads says.", partial(_kept, own=True)),
        ("A key belongs to one head: it has width / heads numbers.", partial(_kept, wide=True)),
    ),
)

# How many images fit ----------------------------------------------------------------------------------------------


def images_at_once(memory, weights, kept, tokens):
    """Bytes of memory, of weights, and of the cache of one position -> how many guided images fit; 0 if none."""
    guided_image = 2 * tokens * kept  # two sequences
    return max(memory - weights, 0) // guided_image


def _fitting(
    memory, weights, kept, tokens, sequences: int = 2, heavy: bool = True, clamped: bool = True, half: bool = False
) -> int:
    room = memory - weights if heavy else memory
    positions = (tokens + 1) // 2 if half else tokens
    return (max(room, 0) if clamped else room) // (sequences * positions * kept)


def _fraction(memory, weights, kept, tokens) -> float:
    return max(memory - weights, 0) / (2 * tokens * kept)


def _ask_fitting(*arguments: int):
    return lambda function: function(*arguments)


IMAGES_AT_ONCE = Exercise(
    images_at_once,
    title="How many images at once?",
    stars=1,
    minutes=8,
    way_in="the caches of one guided image; then a division without remainder",
    hint="At the end there are as many positions as tokens: the class, and all tokens but the last, which is drawn "
    "and never read.",
    cases=(
        ("7 x 7 tokens, 10 bytes a position, and 30,000 bytes left", _ask_fitting(50_000, 20_000, 10, 49)),
        ("LlamaGen-L at 16 x 16 in 80 GB", _ask_fitting(80 * 10**9, 650_117_120, 98_304, 256)),
        ("LlamaGen-XXL at 24 x 24 in 24 GB", _ask_fitting(24 * 10**9, 2_767_192_064, 294_912, 576)),
        ("a memory smaller than the weights", _ask_fitting(10**9, 2_767_192_064, 294_912, 576)),
    ),
    mistakes=(
        ("A guided image keeps two sequences.", partial(_fitting, sequences=1)),
        ("The weights have to be in memory too.", partial(_fitting, heavy=False)),
        ("It has to fit at the end of an image, when the cache is full.", partial(_fitting, half=True)),
        ("Where not even the weights fit, no image does: the answer is 0.", partial(_fitting, clamped=False)),
        ("Asked is how many fit, a whole number.", _fraction),
    ),
)
