"""Finds components by name: each module of a package registers its components, so that one file adds one."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Generic, TypeVar

from zorse_common.errors import ZorseError, nearest_hint

T = TypeVar("T")


class Registry(Generic[T]):
    """Holds the components of one package. The modules of the package register them when they are imported."""

    def __init__(self, package: str, kind: str, error: type[ZorseError]) -> None:
        """Create an empty registry. `kind` names a component in messages; `error` is raised for an unknown name."""
        self._package, self._kind, self._error = package, kind, error
        self._components: dict[str, T] = {}
        self._is_discovered = False

    def register(self, name: str, component: T) -> None:
        """Add `component` under the name `name`.

        Raises:
            TypeError: the name is taken.
        """
        if name in self._components:
            raise TypeError(f"{self._kind} {name!r} is registered twice")
        self._components[name] = component

    def names(self) -> list[str]:
        """Return the names of all components, sorted; the first call imports the package's modules."""
        if not self._is_discovered:
            for module in pkgutil.iter_modules(importlib.import_module(self._package).__path__):
                importlib.import_module(f"{self._package}.{module.name}")
            self._is_discovered = True
        return sorted(self._components)

    def find(self, name: str) -> T:
        """Return the component `name`.

        Raises:
            ZorseError: there is none; the message names the nearest one. The type is the registry's `error`.
        """
        known = self.names()
        if name not in known:
            hint = nearest_hint(name, known)
            raise self._error(f"unknown {self._kind} {name!r}{hint}; known: {', '.join(known)}")
        return self._components[name]
