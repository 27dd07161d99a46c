"""One number of a preset changed: dotted field names to values."""

import dataclasses
import difflib
import typing

from minivar.presets.base import PresetError


def parse_value(text: str) -> object:
    """Text from a command line -> bool, None, int, float or string."""
    if text in ("true", "false", "none"):
        return {"true": True, "false": False, "none": None}[text]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def replace_field(config, fields: list[str], value: object, path: str):
    names = [field.name for field in dataclasses.fields(config)] if dataclasses.is_dataclass(config) else []
    if fields[0] not in names:
        close = difflib.get_close_matches(fields[0], names, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise PresetError(f"No field {path!r} to override: expected one of {', '.join(names)}{hint}")
    old = getattr(config, fields[0])
    if len(fields) > 1:
        return dataclasses.replace(config, **{fields[0]: replace_field(old, fields[1:], value, path)})
    hint = typing.get_type_hints(type(config))[fields[0]]
    expected = hint if hint in (bool, int, float, str) else type(old)
    if expected is float and type(value) is int:
        value = float(value)
    if old is not None and type(value) is not expected:
        raise PresetError(f"{path} must be of type {expected.__name__}; got {value!r}.")
    return dataclasses.replace(config, **{fields[0]: value})
