"""Dataclasses from JSON, in the standard library alone: every value is held against its annotation."""

from __future__ import annotations

import dataclasses
import json
import math
import types
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def parse_json(text: str) -> Any:
    """The value in `text`.

    Raises:
        ValueError: it is not JSON, too deep, or holds a number that Python cannot.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def build(kind: type[T], value: Any) -> T:
    """`value`, as JSON gives it, as the dataclass `kind`; lists become tuples where that is annotated.

    Raises:
        ValueError: a field is missing or unknown, or a value is not what its annotation says; numbers must be finite.
    """
    built: T = _build(kind, value, "")
    return built


def _build(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        return _first(arguments, value, where)
    if origin is Literal:
        fits = any(value == option and type(value) is type(option) for option in arguments)
        return value if fits else _refuse(value, where)
    if origin is dict:
        entries = value.items() if isinstance(value, dict) else _refuse(value, where)
        return {key: _build(arguments[1], entry, f"{where}.{key}") for key, entry in entries}
    if origin is tuple:
        entries = value if isinstance(value, list) else _refuse(value, where)
        kinds = [arguments[0]] * len(entries) if arguments[1:] == (...,) else list(arguments)
        if len(kinds) != len(entries):
            _refuse(value, where)
        return tuple(_build(*pair, f"{where}[{index}]") for index, pair in enumerate(zip(kinds, entries, strict=True)))
    if dataclasses.is_dataclass(kind):
        return _build_fields(kind, value, where)
    if kind is float and type(value) is int:
        return value
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        _refuse(value, where)
    return value


def _build_fields(kind: Any, value: Any, where: str) -> Any:
    fields, hints = {field.name: field for field in dataclasses.fields(kind)}, get_type_hints(kind)
    if not isinstance(value, dict):
        _refuse(value, where)
    inside = f"{where}." if where else ""
    if unknown := sorted(value.keys() - fields.keys()):
        raise ValueError(f"{inside}{unknown[0]} is unknown")
    for name, field in fields.items():
        if name not in value and field.default is field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{inside}{name} is missing")
    return kind(**{name: _build(hints[name], value[name], f"{inside}{name}") for name in fields if name in value})


def _first(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    """What the first of `kinds` that fits makes of the value."""
    reasons = []
    for kind in kinds:
        if kind is type(None):
            if value is None:
                return None
            continue
        try:
            return _build(kind, value, where)
        except ValueError as error:
            reasons.append(error)
    raise reasons[0]


def _refuse(value: Any, where: str) -> Any:
    text = repr(value)
    raise ValueError(f"{where} is {text if len(text) < 80 else f'{text[:77]}...'}")
