"""Components by name. A new file adds a component; there is no list to edit.

A component is a class with its own nested `Config` (a `trainer.config.Section`) and a constructor that takes that
Config first. A file in one of zorse's folders gives its component a short name; a component of another package is
named by "package.module:Class". In a configuration a component is a section `{type: <name>, …its keys…}`, which is read
once into the component's Config.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, TypeVar

from pydantic import PlainValidator, SerializeAsAny, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from trainer.config import Section, explain
from trainer.errors import PROGRAMMING_ERRORS, ConfigError
from zorse_common.errors import first_sentence
from zorse_common.registry import Registry

_FOLDERS = {
    "model": "trainer.models",
    "loss": "trainer.losses",
    "data": "trainer.data",
    "task": "trainer.tasks",
    "metric": "trainer.metrics",
}
_registries = {kind: Registry[type[Any]](package, kind, ConfigError) for kind, package in _FOLDERS.items()}
_components: dict[type[Section], tuple[str, type[Any]]] = {}
"""The kind and the class of the component to which each Config belongs."""

C = TypeVar("C", bound=type[Any])


def register(kind: str, name: str | None = None) -> Callable[[C], C]:
    """Class decorator: make the class a component of `kind`.

    `name` is for zorse's own folders; without it the component is named "package.module:Class".

    Raises:
        TypeError: `kind` is unknown, the class defines no nested `Config` or is in `__main__`, or the name is taken.
    """

    if kind not in _registries:
        raise TypeError(f"there is no kind of component called {kind!r}: the kinds are {', '.join(_registries)}")

    def add(component: C) -> C:
        config = vars(component).get("Config")
        if not (isinstance(config, type) and issubclass(config, Section)):
            raise TypeError(f"{component.__qualname__} must define a nested Config(Section) to be registered")
        if component.__module__ == "__main__":
            raise TypeError(f"{component.__qualname__} must be in a module that workers can import, not in __main__")
        if name is not None:
            _registries[kind].register(name, component)
        config.component_type = name or f"{component.__module__}:{component.__qualname__}"
        _components[config] = kind, component
        return component

    return add


def names(kind: str) -> list[str]:
    """Return the sorted names of the components of `kind` in zorse's folder."""
    return _registries[kind].names()


def component(kind: str, name: str) -> type[Any]:
    """Return the class named `name`, after importing its module if necessary.

    Raises:
        ConfigError: there is no such component. The message has the nearest name, or why the import failed.
    """
    if ":" not in name:
        return _registries[kind].find(name)
    module, _, path = name.partition(":")
    try:
        target: Any = importlib.import_module(module)
        for part in path.split("."):
            target = getattr(target, part)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ConfigError(
            f"{kind} {name!r} cannot be imported ({first_sentence(error)}): check its name and PYTHONPATH"
        ) from error
    except (Exception, SystemExit) as error:  # a module of another package raises what it likes
        reason = f"{type(error).__name__}: {first_sentence(error)}"
        raise ConfigError(f"{kind} {name!r} cannot be imported ({reason}): correct its module") from error
    config = vars(target).get("Config") if isinstance(target, type) else None
    if not isinstance(target, type) or config not in _components or _components[config][0] != kind:
        raise ConfigError(f'{name} is not a {kind}: decorate the class with @register("{kind}")')
    return target


def resolve(kind: str, keys: object) -> Section:
    """Return the typed Config of the section `{type: …, …}`, with the sections inside it.

    Raises:
        ConfigError: unknown type, unknown key or illegal value, in this section or one inside it.
    """
    try:
        return _adapters[kind].validate_python(keys)
    except ValidationError as error:
        raise ConfigError(f"{kind}: {explain(error)}") from error


def type_of(config: Section) -> str:
    """Return the `type` by which a configuration names the component to which `config` belongs."""
    if config.component_type is None:
        raise TypeError(f"{type(config).__qualname__} is the Config of no registered component")
    return config.component_type


def build(config: Section, **runtime: Any) -> Any:
    """Construct the component to which `config` belongs: `Class(config, **runtime)`.

    Raises:
        ConfigError: the constructor of a component of another package fails as no constructor of zorse does.
    """
    try:
        return _components[type(config)][1](config, **runtime)
    except PROGRAMMING_ERRORS as error:
        if ":" not in type_of(config):
            raise
        reason = f"{type(error).__name__}: {first_sentence(error)}"
        raise ConfigError(f"{type_of(config)} cannot be constructed ({reason}): correct it") from error


def _parse(kind: str, value: Any) -> Section:
    if isinstance(value, Section):
        if _components.get(type(value), ("",))[0] != kind:
            raise PydanticCustomError(
                "component", "{name} is no {kind}", {"name": type(value).__qualname__, "kind": kind}
            )
        return value
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        raise PydanticCustomError(
            "component", "expected a section with a type, one of {known}", {"known": ", ".join(names(kind))}
        )
    try:
        config = component(kind, value["type"]).Config
    except ConfigError as error:
        raise PydanticCustomError("component", "{reason}", {"reason": str(error)}) from error
    # pydantic prefixes the location of an error inside this section with the section's own location.
    parsed: Section = config.model_validate({key: entry for key, entry in value.items() if key != "type"})
    return parsed


ModelComponent = Annotated[SerializeAsAny[Section], PlainValidator(partial(_parse, "model"))]
"""A network."""
LossComponent = Annotated[SerializeAsAny[Section], PlainValidator(partial(_parse, "loss"))]
"""An adversarial loss."""
DataComponent = Annotated[SerializeAsAny[Section], PlainValidator(partial(_parse, "data"))]
"""A dataset."""
TaskComponent = Annotated[SerializeAsAny[Section], PlainValidator(partial(_parse, "task"))]
"""A training scheme."""
MetricComponent = Annotated[SerializeAsAny[Section], PlainValidator(partial(_parse, "metric"))]
"""A figure of merit of images."""
_adapters = {
    kind: TypeAdapter[Section](Annotated[SerializeAsAny[Section], PlainValidator(partial(_parse, kind))])
    for kind in _FOLDERS
}
