"""How a check runs its cases and says what came out."""

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
        return isinstance(got, int | float) and abs(got - expected) <= 1e-6 * max(1.0, abs(expected))
    return type(got) is type(expected) and got == expected


def show(value: object) -> str:
    """A value on one line of at most 160 characters."""
    text = " ".join(str(value).split())
    return text if len(text) <= 160 else text[:157] + "..."


def verdict(name: str, cases: Iterable[tuple[str, Callable[[], object], object]]) -> bool:
    """Run (description, call, expected) cases in order and report the first that fails."""
    count = 0
    for description, call, expected in cases:
        try:
            got = call()
        except Exception as error:  # the reader's code may raise anything
            print(f"{name}, {description}: not yet, it raised {type(error).__name__}: {show(error)}")
            return False
        if not same(got, expected):
            print(f"{name}, {description}: not yet, got {show(got)}, expected {show(expected)}")
            return False
        count += 1
    print(f"{name}: all {count} cases pass.")
    return True
