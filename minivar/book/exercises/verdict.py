"""How a check runs its cases and says what came out."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def same(got: object, expected: object) -> bool:
    """Whether an answer is right: tensors and floats up to rounding, anything else in type and value."""
    if isinstance(expected, Tensor):
        if not isinstance(got, Tensor) or got.shape != expected.shape:
            return False
        return torch.allclose(got.to(expected.dtype), expected, atol=1e-5, rtol=1e-4)
    if isinstance(expected, float):
        if not isinstance(got, int | float):
            return False
        return math.isclose(got, expected, rel_tol=1e-6, abs_tol=1e-6) or (math.isnan(got) and math.isnan(expected))
    return type(got) is type(expected) and got == expected


def show(value: object) -> str:
    """A value on one line of at most 160 characters."""
    text = " ".join(str(value).split())
    return text if len(text) <= 160 else text[:157] + "..."


def diagnose(
    name: str,
    cases: Iterable[tuple[str, Callable[[Callable], object]]],
    fn: Callable,
    right: Callable,
    mistakes: Iterable[tuple[str, Callable]],
) -> bool:
    """Run (description, ask) cases in order, where ``ask(function)`` is the answer of a function to the case.

    The first answer that is not that of ``right`` is compared with those of ``mistakes``, (sentence, function); the
    sentence of the first that agrees is printed. What was expected is not: it would be the solution.
    """
    count = 0
    for description, ask in cases:
        expected = ask(right)
        try:
            got = ask(fn)
        except Exception as error:  # the reader's code may raise anything
            print(f"{name}, {description}: not yet, it raised {type(error).__name__}: {show(error)}")
            return False
        if not same(got, expected):
            known = (sentence for sentence, wrong in mistakes if agrees(ask, wrong, got))
            print(f"{name}, {description}: not yet. {next(known, None) or difference(got, expected)}")
            return False
        count += 1
    print(f"{name}: all {count} cases pass.")
    return True


def agrees(ask: Callable[[Callable], object], wrong: Callable, got: object) -> bool:
    """Whether a mistake gives this answer; one that cannot answer the case does not."""
    try:
        return same(got, ask(wrong))
    except (RuntimeError, ValueError, IndexError, AttributeError):
        return False


def difference(got: object, expected: object) -> str:
    """What can be said of an answer that no known mistake explains, without telling the right one."""
    if not isinstance(expected, Tensor):
        return f"It is {show(got)}, which is not what the text asks for."
    if not isinstance(got, Tensor):
        return f"A tensor is asked for; it is of type {type(got).__name__}."
    if got.shape != expected.shape:
        return f"The shape {tuple(expected.shape)} is asked for; it is {tuple(got.shape)}."
    close = torch.isclose(got.to(expected.dtype), expected, atol=1e-5, rtol=1e-4, equal_nan=True)
    return f"{int((~close).sum())} of {close.numel()} numbers are not what the text asks for."
