"""Finds booleans where a request should have numbers: Python and pydantic count true and false as 1 and 0."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import numpy as np
from pydantic import BaseModel

_BOOLEANS = {bool, np.bool_}


@cache
def number_keys(request: type[BaseModel]) -> Mapping[str, str]:
    """Return the keys of a request whose values are numbers, texts or lists of these, and what to give for each."""
    keys: dict[str, str] = {}
    for key, field in request.model_fields.items():
        types = set(_leaves(field.annotation)) - {NoneType}
        if types & {int, float} and types <= {int, float, str}:
            keys[key] = "a name or a number" if str in types else "a number"
    return keys


def has_boolean(value: Any) -> bool:
    """Return whether `value` is a boolean, or a list at any depth with one."""
    if not isinstance(value, list | tuple):
        return type(value) in _BOOLEANS
    types = set(map(type, value))
    return bool(types & _BOOLEANS) or (bool(types & {list, tuple}) and any(map(has_boolean, value)))


def _leaves(annotation: Any) -> Iterator[Any]:
    """Yield the types that an annotation consists of, without those of literals."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal or not parts:
        yield annotation
        return
    for part in parts[:1] if origin is Annotated else parts:
        yield from _leaves(part)
