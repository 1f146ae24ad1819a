"""Components by name, found by folder: one file in a package adds one."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Generic, Protocol, TypeVar

from export.errors import ExportError


class Named(Protocol):
    """What can be registered."""

    @property
    def name(self) -> str:
        """The name that it is found by."""


T = TypeVar("T", bound=Named)


class Registry(Generic[T]):
    """The components of one package, whose modules register theirs when they are imported."""

    def __init__(self, package: str, kind: str, error: type[ExportError] = ExportError) -> None:
        """`kind` is what messages call a component, `error` what an unknown one raises."""
        self._package, self._kind, self._error = package, kind, error
        self._components: dict[str, T] = {}

    def register(self, component: T) -> None:
        """Make `component` known by its name.

        Raises:
            TypeError: the name is taken.
        """
        if component.name in self._components:
            raise TypeError(f"{self._kind} {component.name!r} is registered twice")
        self._components[component.name] = component

    def names(self) -> list[str]:
        """The names of all components, sorted."""
        for module in pkgutil.iter_modules(importlib.import_module(self._package).__path__):
            importlib.import_module(f"{self._package}.{module.name}")
        return sorted(self._components)

    def find(self, name: str) -> T:
        """The component `name`.

        Raises:
            ExportError: there is none.
        """
        known = self.names()
        if name not in known:
            raise self._error(f"unknown {self._kind} {name!r}; known: {', '.join(known)}")
        return self._components[name]
