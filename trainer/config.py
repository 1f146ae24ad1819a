"""`Section`, the base of every typed group of configuration keys, and the wording of its errors.

This module imports no torch, so that a configuration can be checked anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError, to_jsonable_python

from trainer.errors import ConfigError
from zorse_common.errors import nearest_hint
from zorse_common.globs import expanded


class Resume(Enum):
    """Whether a resume may change a key. The marker is part of the key's `Annotated` type and holds for keys below it.

    A key without a marker is `FIXED`: the meaning of the checkpoint's tensors or the order of images depends on it.
    """

    FIXED = "fixed"
    MAY_CHANGE = "may change"


class Section(BaseModel):
    """A frozen group of keys in which an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    component_type: ClassVar[str | None] = None
    """The type of the component to which this Config belongs; `trainer.registry.register` sets it."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, keys: Any) -> Any:
        unknown = [key for key in keys if key not in cls.model_fields] if isinstance(keys, dict) else []
        if unknown:
            hint = nearest_hint(str(unknown[0]), list(cls.model_fields))
            raise PydanticCustomError("unknown_key", "{key}{hint}", {"key": str(unknown[0]), "hint": hint})
        return keys

    @model_serializer(mode="wrap")
    def _with_type(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        named = {} if self.component_type is None else {"type": self.component_type}
        keys: dict[str, Any] = dump(self)
        return named | keys


S = TypeVar("S", bound=Section)


def _checked_place(place: str) -> str:
    if not place.strip():
        raise ValueError("the path is empty: give a folder or a URI")
    try:
        place.encode()
    except UnicodeEncodeError as error:
        raise ValueError("its name is not UTF-8, which Ray and YAML need: rename the folder") from error
    return expanded(place)


Place = Annotated[str, AfterValidator(_checked_place)]
"""A local path, in which `~` is the user's home, or a URI."""


def validate(schema: type[S], keys: dict[Any, Any], where: str) -> S:
    """Build `schema` from `keys`; `where` (a file, or a dotted section) starts the message of an error.

    Raises:
        ConfigError: naming each wrong key, with the nearest known key for an unknown one.
    """
    try:
        return schema.model_validate(keys)
    except ValidationError as error:
        raise ConfigError(f"{where}: {explain(error)}") from error


def explain(error: ValidationError) -> str:
    """Return what is wrong with each key, in one line."""
    return "; ".join(_explain(item) for item in error.errors())


def _explain(item: Any) -> str:
    """Return one error of pydantic in the words of a configuration file."""
    # Leave out the names that pydantic adds for the alternatives of a union: they are not identifiers.
    location = ".".join(str(part) for part in item["loc"] if str(part).replace("_", "").replace(" ", "").isalnum())
    if item["type"] == "unknown_key":
        return f"unknown key {location}{'.' if location else ''}{item['msg']}"
    if item["type"] == "missing":
        return f"missing key {location}"
    if item["type"] == "component":
        return f"{location}: {item['msg']}" if location else str(item["msg"])
    message = re.sub(r"dictionary or instance of \w+", "section of keys", item["msg"].removeprefix("Value error, "))
    return f"{location} = {item['input']!r}: {message}" if location else message


def flatten(keys: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested sections by dotted key; an empty section is a leaf."""
    leaves: dict[str, Any] = {}
    for key, value in keys.items():
        leaves |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return leaves


def differing_leaves(configs: Sequence[dict[str, Any]], absent: Any) -> dict[str, list[Any]]:
    """Return the leaves in which `configs` differ, by dotted key: one value per config, `absent` where it has none."""
    flat = [flatten(config) for config in configs]
    rows = {
        key: [leaves.get(key, absent) for leaves in flat] for key in dict.fromkeys(key for each in flat for key in each)
    }
    return {key: row for key, row in rows.items() if any(value != row[0] for value in row)}


def default_leaves(section: Section, prefix: str = "") -> dict[str, Any]:
    """Return the default of each leaf of `section` that has one, as plain data by dotted key.

    If a whole section has a default, that default decides the defaults of its leaves.
    """
    defaults: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        value, key = getattr(section, name), f"{prefix}{name}"
        if isinstance(value, Section):
            defaults |= default_leaves(value, f"{key}.")
        if field.is_required():
            continue
        default = to_jsonable_python(field.get_default(call_default_factory=True))
        if isinstance(default, dict) and default:
            defaults |= flatten({key: default})
        elif isinstance(value, Section):
            defaults |= dict.fromkeys(flatten({key: value.model_dump(mode="json")}), default)
        else:
            defaults[key] = default
    return defaults
