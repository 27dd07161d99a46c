"""The exercises of the chapters, and their checks.

``use`` is what a page calls with the reader's function: it checks it, says what came out, and returns it, or the
solution where it does not pass yet, so that the page runs either way. A check tries the function on a few cases,
prints one line, and returns whether all passed; a failing case is named. Nothing is raised.
"""

from collections.abc import Callable
from importlib import import_module

from minivar.book.exercises.exercise import Exercise, register

__all__ = ["Exercise", "REGISTRY", "use"]

PAGES = (
    "00",
    "01",
    "02",
    "02a",
    "03",
    "03a",
    "04",
    "04_phi",
    "04a",
    "05",
    "05a",
    "06",
    "06a",
    "07",
    "07_loop",
    "07a",
    "08",
    "08a",
    "09",
    "10",
    "11",
    "12",
    "13",
    "13a",
    "14",
    "15a",
    "16",
)
REGISTRY = register(import_module(f"{__name__}.chapter{page}") for page in PAGES)  # by the name of the function


def use(fn: Callable) -> Callable:
    """The reader's function if it passes the check of its name; else the solution, and why.

    Raises ``ValueError`` for a function that no exercise asks for.
    """
    exercise = REGISTRY.get(fn.__name__)
    if exercise is None:
        raise ValueError(f"No exercise asks for a function {fn.__name__!r}: expected one of {', '.join(REGISTRY)}.")
    if exercise.check(fn):
        return fn
    print("Until it passes, this page goes on with the solution.")
    return exercise.solution
