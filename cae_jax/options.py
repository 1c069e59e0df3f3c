"""Records whose fields are flags: each with its default, help, range or choices, and its part.

The part says what another value means: "identity", another run; "scoring", the same run judged
anew; "free", the same run in every respect.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import os
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from cae_jax.types import Size, UsageError, size_of, size_text, unknown_name

IDENTITY, SCORING, FREE = "identity", "scoring", "free"
Fields: TypeAlias = Mapping[str, "dataclasses.Field[Any]"]  # by name
A_SIZE = "a whole number, or two as HEIGHTxWIDTH"
_WORDS = {"true": True, "1": True, "false": False, "0": False}


class Pixels(int):
    """The default of a flag that is a size: of squares of that side.

    Its values are an int, or (height, width) of what is not square.
    """


_EXPECTED = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
    Pixels: "a whole number, or two as (height, width)",
}


def flag(
    default: Any,
    help_text: str,
    low: float | None = None,
    high: float | None = None,
    among: Iterable[Any] = (),
    part: str = IDENTITY,
) -> Any:
    """Returns a field of a frozen dataclass that is a flag.

    Args:
      default: its type is the flag's: bool, int, float, str or Pixels.
      help_text: one line; choices that it does not name are added.
      low: the smallest value, or None.
      high: the largest value, or None; only with `low`.
      among: the choices, or none.
      part: of IDENTITY, SCORING, FREE.
    """
    among = tuple(among)
    if not all(str(choice) in help_text for choice in among):  # else each stands with its meaning
        help_text += f": {', '.join(map(str, among))}"
    about = {"help": help_text, "low": low, "high": high, "among": among, "part": part}
    return dataclasses.field(default=default, metadata=about)


def fields(*records: Any) -> Fields:
    """Returns the flags of records or of their types by name, each once, the last one's."""
    found: dict[str, dataclasses.Field[Any]] = {}
    for record in records:
        found |= {f.name: f for f in dataclasses.fields(record) if "part" in f.metadata}
    return found


def values(record: Any) -> dict[str, Any]:
    """Returns the flags of a record with their values."""
    return {name: getattr(record, name) for name in fields(record)}


def check(record: Any) -> None:
    """Raises UsageError for the first flag of a record whose value cannot work."""
    for name, field in fields(record).items():
        check_value(field, getattr(record, name))


def taken(field: dataclasses.Field[Any], value: Any) -> Any:
    """Returns a value given from Python as the flag has it: of NumPy's scalars Python's own, of a
    path its text, of two equal sides one.

    Raises UsageError for a value of another type: text for a number, True for 1, 2.0 for 2.
    """
    kind = type(field.default)
    found = _plain(kind, value)
    if found is None:
        among = ", ".join(map(str, field.metadata["among"]))
        expected = f"{_EXPECTED[kind]}{bounds(field)}{among and f' ({among})'}"
        shown = " ".join(reprlib.repr(value).split())
        raise UsageError(f"--{field.name}={shown}: must be {expected}, not {type(value).__name__}")
    return found


def _plain(kind: type, value: Any) -> Any:
    """The value as one of that kind, or None."""
    if kind is Pixels and isinstance(value, list | tuple):
        sides = [_plain(int, side) for side in value]
        return None if len(sides) != 2 or None in sides else size_of(*sides)
    if kind is bool or isinstance(value, bool | np.bool_):
        return bool(value) if kind is bool and isinstance(value, bool | np.bool_) else None
    if issubclass(kind, int) and isinstance(value, numbers.Integral):
        return int(value)
    if kind is float and isinstance(value, numbers.Real):
        return float(value)
    if kind is str and isinstance(value, str | os.PathLike):
        return str(os.fsdecode(value))
    return None


def check_value(field: dataclasses.Field[Any], value: Any) -> None:
    """Raises UsageError where a flag's value cannot work, whatever the others are."""
    value = taken(field, value)
    name, about = field.name, field.metadata
    low, high, among = about["low"], about["high"], about["among"]
    if isinstance(value, str) and set(value) & set("\r\n\0"):
        raise UsageError(f"--{name}={value!r}: must be one line")  # of flags.txt
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"--{name}={value}: must be a finite number{bounds(field)}")
    least, most = (min(value), max(value)) if isinstance(value, tuple) else (value, value)
    if (low is not None and least < low) or (high is not None and most > high):
        raise UsageError(f"--{name}={to_text(value)}: must be{bounds(field).lstrip(',')}")
    if among and value not in among:
        if isinstance(value, str):
            raise unknown_name(f"--{name}", value, among)
        choices = " or ".join(map(str, among))
        raise UsageError(f"--{name}={value}: must be {choices} ({about['help']})")


def bounds(field: dataclasses.Field[Any]) -> str:
    """Returns ", at least 1" or ", from 0 to 64" for a flag of a range, "" for any other."""
    low, high = field.metadata["low"], field.metadata["high"]
    if low is None:
        return ""
    return f", at least {low}" if high is None else f", from {low} to {high}"


def to_text(value: object) -> str:
    """Returns a flag's value as a flagfile has it."""
    if isinstance(value, tuple):
        return size_text(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def from_text(what: str, text: str, default: object) -> Any:
    """Reads a value of the type of `default`; raises UsageError, naming `what`."""
    kind = type(default)
    if kind is bool and text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if kind is Pixels:
        try:
            return read_size(text)
        except ValueError:
            raise UsageError(f"{what} takes {A_SIZE}, got {text!r}") from None
    if kind in (int, float, str):
        try:
            return kind(text)
        except ValueError:
            pass
    raise UsageError(f"{what} takes a {kind.__name__}, got {text!r}")


def read_size(text: str) -> Size:
    """Reads 256 or 256x512, a height and a width; raises ValueError for anything else."""
    sides = [int(side) for side in text.lower().split("x")]
    if len(sides) > 2:
        raise ValueError(A_SIZE)
    return sides[0] if sides[0] == sides[-1] else (sides[0], sides[1])


def pairs(flag_name: str, text: str) -> dict[str, str]:
    """Reads "name=value,name=value"; raises UsageError for a name without a value."""
    found = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    for name, equals, value in found:
        if not (name.strip() and equals and value.strip()):
            raise UsageError(f"--{flag_name}={text}: expected name=value")
    names = [name.strip() for name, _, _ in found]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--{flag_name}={text}: gives {name} twice")
    return {name.strip(): value.strip() for name, _, value in found}


def in_part(among: Fields, *parts: str) -> Sequence[str]:
    """Returns the names of the flags in any of these parts."""
    return [name for name, field in among.items() if field.metadata["part"] in parts]
