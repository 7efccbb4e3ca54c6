"""Fields of a config: what each may hold stands beside its type, and one walk checks all of them.

    lr: float = ranged(1e-3, "[0, inf)")
    crop_area: tuple[float, ...] = pair((), "(0, 1]")
    dtype: str = choice("float32", ("float32", "bfloat16"))

Annotations stay plain types, as config_flags reads them.
"""

import dataclasses
import inspect
import math
import re
import textwrap
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from scanmax.errors import UserError, suggest

_INTERVAL = re.compile(r"([\[(])(-?[\d.]+|-inf), ([\d.]+|inf)([\])])")


@dataclasses.dataclass(frozen=True)
class Interval:
    """Numbers between two bounds, each of which belongs to it or not: "[0, 1)"."""

    low: float
    high: float
    low_belongs: bool
    high_belongs: bool

    @classmethod
    def read(cls, text: str) -> "Interval":
        match = _INTERVAL.fullmatch(text)
        if match is None:
            raise ValueError(f"interval {text!r} is not written as '[0, 1)' or '(0, inf)'.")
        return cls(float(match[2]), float(match[3]), match[1] == "[", match[4] == "]")

    def __contains__(self, number: float) -> bool:
        # Written so that NaN belongs to none.
        above = number >= self.low if self.low_belongs else number > self.low
        below = number <= self.high if self.high_belongs else number < self.high
        return above and below

    def __str__(self) -> str:
        if self.high == math.inf:
            if self.low == -math.inf:
                return "finite"
            return f"at least {self.low:g}" if self.low_belongs else f"above {self.low:g}"
        opened, closed = "[" if self.low_belongs else "(", "]" if self.high_belongs else ")"
        return f"in {opened}{self.low:g}, {self.high:g}{closed}"


def ranged(default: Any, interval: str) -> Any:
    """A field whose number, or each number of whose tuple, lies in an interval."""
    return dataclasses.field(default=default, metadata={"range": Interval.read(interval)})


def pair(default: tuple[float, ...], interval: str) -> Any:
    """A field of two numbers in an interval, the smaller first; or () where that is the default."""
    metadata = {"range": Interval.read(interval), "pair": True}
    return dataclasses.field(default=default, metadata=metadata)


def choice(default: str, options: Sequence[str]) -> Any:
    """A field that holds one of these words."""
    return dataclasses.field(default=default, metadata={"options": tuple(options)})


def check_fields(config: Any, path: str = "config") -> None:
    """Raises UserError at the first field that no run can have.

    Attributes that are no fields, values without their annotated type (elements of tuples and dicts
    included), NaN wherever it hides, and what `ranged`, `pair` and `choice` exclude.
    """
    fields = {field.name: field for field in dataclasses.fields(config)}
    for name in vars(config):
        if name not in fields:
            raise UserError(f"{path} has no field {name!r}; {suggest(name, fields)}")
    hints = typing.get_type_hints(type(config))
    for name, field in fields.items():
        value, hint, here = getattr(config, name), hints[name], f"{path}.{name}"
        if not has_type(value, hint):
            raise UserError(
                f"{here} must be {_type_name(hint)}, not {type(value).__name__} {value!r}"
            )
        if dataclasses.is_dataclass(value):
            check_fields(value, here)
            continue
        if any(math.isnan(number) for number in numbers_in(value)):
            raise UserError(f"{here}={value!r} holds NaN, which is not a number")
        check_value(here, value, field.metadata, default=field.default)


def check_value(
    name: str, value: Any, metadata: typing.Mapping[str, Any], default: Any = None
) -> None:
    """Raises UserError where a value is not what `ranged`, `pair` or `choice` allows."""
    options = metadata.get("options")
    if options and value not in options:
        raise UserError(f"{name}={value!r}; {suggest(value, options)}")
    interval = metadata.get("range")
    if interval and isinstance(value, str):
        raise UserError(f"{name}={value!r} must be a number")
    if interval and not all(number in interval for number in numbers_in(value)):
        each = "each number of " if isinstance(value, tuple | list) else ""
        is_infinite = any(math.isinf(number) for number in numbers_in(value))
        allowed = "finite" if is_infinite else interval
        raise UserError(f"{each}{name}={value!r} must be {allowed}")
    is_free = not metadata.get("pair") or tuple(value) == default
    if not is_free and (len(value) != 2 or value[0] > value[1]):
        raise UserError(f"{name}={value!r} must be two numbers, the smaller first")


def numbers_in(value: Any) -> Iterator[float]:
    """Every number of a value, of nested tuples, lists and dicts; True and False are none."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield value
    elif isinstance(value, dict):
        for entry in value.values():
            yield from numbers_in(entry)
    elif isinstance(value, tuple | list):
        for entry in value:
            yield from numbers_in(entry)


def has_type(value: Any, hint: Any) -> bool:
    """Whether a value has an annotated type; an int is a float, a list a tuple."""
    if hint is Any or hint is object:
        return True
    kind, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind in (typing.Union, types.UnionType):
        return any(has_type(value, option) for option in inner)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind in (tuple, list):
        if not isinstance(value, tuple | list):
            return False
        if kind is list or inner[1:] == (...,):
            return all(has_type(entry, inner[0]) for entry in value) if inner else True
        return not inner or (len(value) == len(inner) and all(map(has_type, value, inner)))
    if kind is dict:
        return isinstance(value, dict) and all(
            has_type(key, inner[0]) and has_type(entry, inner[1])
            for key, entry in (value.items() if inner else ())
        )
    return not isinstance(kind, type) or isinstance(value, kind)


def _type_name(hint: Any) -> str:
    return str(hint) if typing.get_args(hint) else getattr(hint, "__name__", str(hint))


def describe_fields(config: Any, path: str = "config") -> str:
    """Every field of a tree of dataclasses: its value, what it may hold, what it means.

    Meanings are those of the docstrings' "Attributes".

    Example:
      print(describe_fields(Config()))
    """
    return "\n".join(
        f"--{row.path}={row.value}\n"
        + textwrap.fill(row.told, 96, initial_indent="    ", subsequent_indent="    ")
        for row in field_rows(config, path)
    )


class FieldRow(typing.NamedTuple):
    """One field of a config: "config.optim.lr", "0.001", "a number at least 0. Learning rate."."""

    path: str
    value: str
    told: str


def field_rows(config: Any, path: str = "config") -> Iterator[FieldRow]:
    """A row for each field of a tree of dataclasses, in their order."""
    hints, meanings = typing.get_type_hints(type(config)), field_meanings(type(config))
    for field in dataclasses.fields(config):
        value, here = getattr(config, field.name), f"{path}.{field.name}"
        if dataclasses.is_dataclass(value):
            yield from field_rows(value, here)
            continue
        allowed = _allowed(hints[field.name], field.metadata)
        yield FieldRow(here, _as_typed(value), f"{allowed}. {meanings.get(field.name, '')}".strip())


def field_meanings(kind: type) -> dict[str, str]:
    """Field -> what the "Attributes" of a class's docstring say of it, alone or with others."""
    _, _, text = inspect.getdoc(kind).partition("Attributes:\n")
    found: dict[str, str] = {}
    names: list[str] = []
    for line in text.splitlines():
        match = re.fullmatch(r"  (\w+(?:, \w+)*): (.*)", line)
        if match:
            names = match[1].split(", ")
            found |= dict.fromkeys(names, match[2])
        elif line and not line.startswith(" "):
            break
        elif line.strip():
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return found


def _allowed(hint: Any, metadata: typing.Mapping[str, Any]) -> str:
    if metadata.get("options"):
        return "one of " + ", ".join(repr(option) for option in metadata["options"])
    words = {str: "text", int: "a whole number", float: "a number", bool: "True or False"}
    kind, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind is tuple:
        of = {float: " of numbers", int: " of whole numbers", str: " of texts"}
        told = "a tuple" + of.get(inner[0] if inner else None, "")
    else:
        told = {dict: "a dict", **words}.get(kind) or _type_name(hint)
    if metadata.get("pair"):
        told = "two numbers, the smaller first"
    return told + (f", {metadata['range']}" if "range" in metadata else "")


def _as_typed(value: Any) -> str:
    """A value as one types it behind the equals sign."""
    return value if isinstance(value, str) else repr(value)
