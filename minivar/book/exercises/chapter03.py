"""Checks of the exercises of chapter 03."""

import math
from collections.abc import Callable

from minivar.analysis.complexity import attention_flops, cache_bytes, model_flops, raster_steps
from minivar.book.exercises.verdict import verdict
from minivar.models import GPTConfig


def check_count_pairs(fn: Callable[[int, int, bool], int]) -> bool:
    """``fn(tokens, prefix, cache)`` -> pairs of query and key of one raster image, without a loop over tokens."""

    def case(tokens: int, prefix: int, cache: bool):
        return lambda: fn(tokens, prefix, cache), sum(s.queries * s.keys for s in raster_steps(tokens, cache, prefix))

    def far(tokens: int, prefix: int, cache: bool):
        """By Newton's forward differences: exact, since the sum is a polynomial of degree 3 in the tokens."""
        values = [sum(s.queries * s.keys for s in raster_steps(x, cache, prefix)) for x in range(1, 6)]
        expected = 0
        for k in range(4):
            expected += math.comb(tokens - 1, k) * values[0]
            values = [after - before for before, after in zip(values, values[1:])]
        return lambda: fn(tokens, prefix, cache), expected

    return verdict(
        "pairs",
        (
            ("2 x 2 tokens after a class, no cache: 1 + 4 + 9 + 16", *case(4, 1, False)),
            ("the same with a cache: 1 + 2 + 3 + 4", *case(4, 1, True)),
            ("3 x 3 tokens after a caption of 5, no cache", *case(9, 5, False)),
            ("the same with a cache (the caption is one step of 5 x 5 pairs)", *case(9, 5, True)),
            ("16 x 16 tokens after a caption of 120, no cache", *case(256, 120, False)),
            ("the same with a cache", *case(256, 120, True)),
            ("a million by a million tokens, no cache (no loop gets there)", *far(10**12, 1, False)),
            ("the same after a caption of 120 with a cache", *far(10**12, 120, True)),
        ),
    )


def check_crossover(fn: Callable[[int, int, bool], int]) -> bool:
    """``fn(width, mlp_width, cache)`` -> smallest n at which attention is half of the layers' work or more."""

    def case(width: int, mlp_width: int, cache: bool):
        config = GPTConfig(1, width, 1, grid=None, codebook_size=1, hidden=mlp_width)

        def half(n: int) -> bool:
            steps = raster_steps(n * n, cache)
            layers = model_flops(steps, config) - 2 * width * len(steps)  # without the head
            return 2 * attention_flops(steps, config) >= layers

        low, high = 0, 1  # bisection: attention's share grows with n
        while not half(high):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if half(middle) else (middle, high)
        return lambda: fn(width, mlp_width, cache), high

    return verdict(
        "crossover",
        (
            ("the small model of section 4, width 64 and MLP 170, with a cache", *case(64, 170, True)),
            ("the same without a cache (whose average query sees more keys)", *case(64, 170, False)),
            ("an MLP as wide as the model, with a cache", *case(128, 128, True)),
            ("LlamaGen-L, width 1024 and MLP 2816, with a cache", *case(1024, 2816, True)),
            ("LlamaGen-L without a cache", *case(1024, 2816, False)),
        ),
    )


def check_images_at_once(fn: Callable[[int, GPTConfig, int, int], int]) -> bool:
    """``fn(memory, config, weights, kv_heads)`` -> guided images whose caches fit beside the weights, in bfloat16."""

    def case(gigabytes: int, depth: int, width: int, heads: int, side: int, weights: int, kv_heads: int):
        config, memory = GPTConfig(depth, width, heads, grid=(side, side)), gigabytes * 10**9
        full = cache_bytes(raster_steps(side * side, True), config)  # of one sequence, a key-value head per head
        expected = max(memory - weights, 0) // (2 * full * kv_heads // heads)
        return lambda: fn(memory, config, weights, kv_heads), expected

    return verdict(
        "images at once",
        (
            ("LlamaGen-L at 16 x 16 in 80 GB", *case(80, 24, 1024, 16, 16, 650_117_120, 16)),
            ("LlamaGen-XXL at 24 x 24 in 24 GB", *case(24, 48, 1536, 24, 24, 2_822_000_000, 24)),
            ("LlamaGen-L with 4 key-value heads in place of 16", *case(80, 24, 1024, 16, 16, 600_000_000, 4)),
            ("a single key-value head at 64 x 64", *case(10, 24, 1024, 16, 64, 600_000_000, 1)),
            ("a memory smaller than the weights", *case(1, 48, 1536, 24, 24, 2_822_000_000, 24)),
        ),
    )
