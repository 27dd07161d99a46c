"""What a configuration may hold: values of the annotated types, within ranges; one sentence where it does not.

Configurations are frozen dataclasses, and each calls ``check`` when it is made, with the ranges of its fields written
as in mathematics: ``check(self, epochs="(0, inf)", dropout="[0, 1)", style=("llama", "gpt2"))``. A square bracket
includes its bound, a round one does not.
"""

import dataclasses
import functools
import sys
import types
import typing

Range = str | tuple[str, ...]  # an interval, or the texts to choose from

NOUNS = {int: "whole number", float: "number", str: "text"}


def check(config, error: type[ValueError] = ValueError, **ranges: Range) -> None:
    """Raise ``error``, in one sentence, unless every field of a dataclass is as annotated and within its range."""
    for name, hint in annotations(type(config)).items():
        value, within = getattr(config, name), ranges.get(name)
        if not fits(value, hint, within):
            raise error(f"{name} must be {in_words(hint, within)}; got {value!r:.80}.")


@functools.cache
def annotations(kind: type) -> dict[str, object]:
    """The fields of a dataclass, and the types they are annotated with."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def options(hint: object) -> tuple[object, ...]:
    """The types that an annotation allows: ``int | None`` -> (int, NoneType)."""
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


def fits(value: object, hint: object, within: Range | None = None) -> bool:
    """Whether ``value`` is of an annotated type, and within the range; for a tuple, whether all its entries are.

    A whole number is a number too, ``True`` is neither. ``None``, where it is allowed, lies within every range.
    """
    return any(_is(value, kind) and _lies(value, within) for kind in options(hint))


def _is(value: object, kind: object) -> bool:
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, tuple):
            return False
        kinds = typing.get_args(kind)
        kinds = kinds[:1] * len(value) if kinds[-1] is ... else kinds
        return len(value) == len(kinds) and all(map(_is, value, kinds))
    if kind is float and type(value) is int:
        return abs(value) <= sys.float_info.max
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _lies(value: object, within: Range | None) -> bool:
    if within is None or value is None:
        return True
    if isinstance(value, tuple):
        return all(_lies(entry, within) for entry in value)
    if isinstance(within, tuple):
        return value in within
    low, high = map(float, within[1:-1].split(","))
    # Both are false for nan
    return (value >= low if within[0] == "[" else value > low) and (
        value <= high if within[-1] == "]" else value < high
    )


def in_words(hint: object, within: Range | None = None) -> str:
    """What ``fits`` expects: "a whole number of at least 1", "two numbers in [0, 1), or none"."""
    if isinstance(within, tuple):
        *others, last = map(repr, within)
        return f"{', '.join(others)} or {last}"
    kinds = options(hint)
    words = " or ".join(_noun(kind, within) for kind in kinds if kind is not type(None))
    if within is not None:
        low, high = within[1:-1].split(", ")
        at_least = f"of at least {low}" if within[0] == "[" else f"above {low}"
        words += f" {at_least}" if high == "inf" else f" in {within}"
    return f"{words}, or none" if type(None) in kinds else words


def _noun(kind: object, within: str | None) -> str:
    if typing.get_origin(kind) is tuple:
        kind, *others = typing.get_args(kind)
        count = "" if others == [...] else {2: "two ", 3: "three "}[1 + len(others)]
        return f"{count}{NOUNS[kind]}s"
    finite = "finite " if kind is float and within and within.endswith("inf)") else ""
    other = {bool: "true or false", str: "a text"}.get(kind) or f"a {kind.__name__}"
    return f"a {finite}{NOUNS[kind]}" if kind in NOUNS else other
