"""Typed names for components: one file adds one, no list is edited.

A component is a class with its own nested `Config` (a `trainer.config.Section`) and a constructor that takes
that Config first. Its folder says its kind; importing the folder's modules fills the registry.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel

from trainer.config import Component, RunConfig, Section, validate
from trainer.errors import ConfigError
from zorse_common.registry import Registry

_FOLDERS = {
    "model": "trainer.models",
    "loss": "trainer.losses",
    "data": "trainer.data",
    "task": "trainer.tasks",
    "metric": "trainer.metrics",
}
_registries = {kind: Registry[type[Any]](package, kind, ConfigError) for kind, package in _FOLDERS.items()}

C = TypeVar("C", bound=type[Any])


def register(kind: str, name: str) -> Callable[[C], C]:
    """Class decorator: make the class the component `name` of `kind`.

    Raises:
        TypeError: the class has no nested `Config`, or the name is taken.
    """

    def add(component: C) -> C:
        config = getattr(component, "Config", None)
        if not (isinstance(config, type) and issubclass(config, Section)):
            raise TypeError(f"{component.__qualname__} needs a nested Config(Section) to be registered")
        _registries[kind].register(name, component)
        return component

    return add


def names(kind: str) -> list[str]:
    """The registered names of `kind`, sorted."""
    return _registries[kind].names()


def component(kind: str, name: str) -> type[Any]:
    """The class registered as `name`.

    Raises:
        ConfigError: there is none; the message names the nearest.
    """
    return _registries[kind].find(name)


def resolve(section: Component, where: str = "") -> Section:
    """The component's own typed Config, with nested `{type, …}` sections checked too.

    Raises:
        ConfigError: unknown type, unknown key or illegal value, in this section or one inside it.
    """
    where = where or section.kind
    config = validate(component(section.kind, section.type).Config, section.keys(), where)
    assert isinstance(config, Section)
    for name, inner in _inner(config):
        resolve(inner, f"{where}.{name}")
    return config


def build(section: Component, **runtime: Any) -> Any:
    """Construct the component of `section`: `Class(config, **runtime)`."""
    return component(section.kind, section.type)(resolve(section), **runtime)


def resolved(config: RunConfig) -> dict[str, Any]:
    """`config` as plain data with every default of every component written out.

    Raises:
        ConfigError: as `resolve`.
    """
    return _filled(config, "")


def _filled(section: BaseModel, where: str) -> dict[str, Any]:
    plain = section.model_dump(mode="json")
    for name, inner in _inner(section):
        place = f"{where}.{name}".lstrip(".")
        plain[name] = {"type": inner.type, **_filled(resolve(inner, place), place)}
    return plain


def _inner(section: BaseModel) -> list[tuple[str, Component]]:
    values = ((name, getattr(section, name)) for name in type(section).model_fields)
    return [(name, value) for name, value in values if isinstance(value, Component)]
