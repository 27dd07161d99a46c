"""Numbers of a preset changed: dotted field names to values, or, from a command line, to texts.

What a text means is said by the annotation of its field, and ``tyro`` reads it: ``betas: tuple[float, float]`` turns
"0.9,0.95" into (0.9, 0.95). Entries are separated by commas; "none", "true" and "false" mean what they say.
"""

import contextlib
import dataclasses
import difflib
import io
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from minivar.checks import annotations, fits, in_words, options
from minivar.presets.base import PresetError
from minivar.scales import ScaleSchedule


def parse_settings(config, settings: Iterable[str]) -> dict[str, object]:
    """``["model.depth=3"]`` -> ``{"model.depth": 3}``: texts to values of the types that the fields have.

    Raises ``PresetError`` for an unknown field, one that is set twice, or a text that is not of its type.
    """
    values: dict[str, object] = {}
    for setting in settings:
        path, equals, text = (part.strip() for part in setting.partition("="))
        if not path or not equals:
            raise PresetError(f"A setting is written FIELD=VALUE, as in model_train.epochs=5; got {setting!r}.")
        hint, value = field_of(config, path)
        if path in values:
            raise PresetError(f"{path} is set twice: expected one value, got {as_text(values[path])} and {text}.")
        try:
            values[path] = parse(text, hint)
        except ValueError as error:
            raise PresetError(f"{_expected(path, hint, value)}; got {text!r}.") from error
    return values


def override(config, values: Mapping[str, object], prefix: str = ""):
    """A copy of ``config`` with other ``values``, dotted field names to values, changed all at once.

    One after the other would not do: fields that have to fit together, such as the schedules of tokenizer and
    transformer, would not fit in between. Raises ``PresetError`` for an unknown field, a value of the wrong type, or
    one that the configuration refuses.
    """
    changes: dict[str, object] = {}
    inner: dict[str, dict[str, object]] = {}
    for path, value in values.items():
        name, _, rest = path.partition(".")
        hint, old = field_of(config, name, prefix)
        if rest:
            inner.setdefault(name, {})[rest] = value
        elif fits(value, hint):
            changes[name] = value
        else:
            raise PresetError(f"{_expected(prefix + path, hint, old)}; got {value!r:.80}.")
    for name, nested in inner.items():
        changes[name] = override(changes.get(name, getattr(config, name)), nested, f"{prefix}{name}.")
    try:
        return dataclasses.replace(config, **changes)
    except ValueError as error:  # it does not know where it stands in the preset
        raise PresetError(f"{prefix.rstrip('.')}: {error}" if prefix else str(error)) from error


def field_of(config, path: str, prefix: str = "") -> tuple[object, object]:
    """The annotation and the present value of a dotted field; ``PresetError`` if there is none of that name."""
    value = config
    for name in path.split("."):
        known = annotations(type(value)) if _is_table(value) else {}
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            names = f"expected one of {', '.join(known)}" if known else f"{as_text(value)} is a single value"
            end = f"; did you mean {close[0]!r}?" if close else "."
            raise PresetError(f"No field {prefix + path!r} to override: {names}{end}")
        hint, value = known[name], getattr(value, name)
    return hint, value


def _is_table(value: object) -> bool:
    """Whether a value has fields to be set one by one; a schedule is written as a whole."""
    return dataclasses.is_dataclass(value) and not isinstance(value, ScaleSchedule)


def _expected(path: str, hint: object, value: object) -> str:
    if _is_table(value):
        return f"{path} has fields, which are set one by one: expected one of {', '.join(annotations(type(value)))}"
    shown = f"{value:.4g}" if isinstance(value, float) else as_text(value)
    example = "" if value is None or isinstance(value, str) else f", such as {shown}"
    return f"{path} must be {in_words(hint)}{example}"


# Texts and values -------------------------------------------------------------------------------------------------


def as_text(value: object) -> str:
    """A value as ``parse`` reads it."""
    if isinstance(value, tuple):
        return ",".join(map(as_text, value))
    if isinstance(value, ScaleSchedule):
        return str(value).replace(" ", "")
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def parse(text: str, hint: object) -> object:
    """A text as the first of the annotated types that takes it, none before others; ``ValueError`` if none does."""
    for kind in sorted(options(hint), key=lambda kind: kind is not type(None)):
        if kind is str:
            return text
        words = [word.strip() for word in text.split(",")]
        if any(word.startswith("--") for word in words):  # these would be options of tyro's own
            continue
        with (
            contextlib.suppress(SystemExit),
            contextlib.redirect_stdout(io.StringIO()),  # tyro explains itself at length
            contextlib.redirect_stderr(io.StringIO()),
        ):
            return tyro.cli(READERS.get(kind, kind), args=words)
    raise ValueError(f"Expected {in_words(hint)}; got {text!r}.")


def _reader(count: int | str, read: Callable[[list[str]], object]) -> object:
    """A type for tyro, of which ``read`` makes a value out of ``count`` words ("*": any number of them)."""
    return Annotated[object, PrimitiveConstructorSpec(count, "", read, is_instance=bool, str_from_instance=list)]


def _choice(**values: object) -> Callable[[list[str]], object]:
    def read(words: list[str]) -> object:
        if words[0].lower() not in values:
            raise ValueError(words[0])
        return values[words[0].lower()]

    return read


def _schedule(words: list[str]) -> ScaleSchedule:
    grids = [tuple(map(int, word.split("x"))) for word in words]
    return ScaleSchedule(tuple(grid[0] if len(grid) == 1 else grid for grid in grids))


READERS = {
    bool: _reader(1, _choice(true=True, false=False)),
    type(None): _reader(1, _choice(none=None)),
    ScaleSchedule: _reader("*", _schedule),
}
