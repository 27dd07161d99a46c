"""Checks of the exercises of chapter 00."""

from collections.abc import Callable

from minivar.book.exercises.verdict import verdict
from minivar.scales import VAR_256


def check_count_steps(fn: Callable[[tuple[int, ...]], tuple[int, int, int]]) -> bool:
    """fn(sides) -> (steps of next-scale prediction, its tokens, steps of raster order on the last grid)."""
    return verdict(
        "steps and tokens",
        [
            ("sides 1, 2", lambda: tuple(fn((1, 2))), (2, 5, 4)),
            ("sides 1, 2, 3, 4", lambda: tuple(fn((1, 2, 3, 4))), (4, 30, 16)),
            (
                "ImageNet at 256 pixels",
                lambda: tuple(fn((1, 2, 3, 4, 5, 6, 8, 10, 13, 16))),
                (10, VAR_256.num_tokens, 256),
            ),
        ],
    )
