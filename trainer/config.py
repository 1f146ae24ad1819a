"""A run's configuration: YAML plus dotted overrides, resolved once to one frozen object.

No torch here: a configuration can be checked anywhere. The sections that configure a component stay
`{type, …}` in this module; `trainer.registry.resolve` turns them into the component's own typed Config.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from trainer.errors import ConfigError

S = TypeVar("S", bound=BaseModel)

_PACKAGE = Path(__file__).parent
SHIPPED_CONFIGS = (_PACKAGE.parent / "configs" / "train", _PACKAGE / "configs")
"""Where the shipped training configs lie: in a checkout, and in an installed wheel."""


class Section(BaseModel):
    """A frozen group of keys in which an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Component(BaseModel):
    """A `{type, …}` section: the other keys belong to the component that `type` names."""

    model_config = ConfigDict(frozen=True, extra="allow")
    kind: ClassVar[str]
    type: str

    def keys(self) -> dict[str, Any]:
        """The component's own keys, without `type`."""
        return dict(self.__pydantic_extra__ or {})


class ModelComponent(Component):
    """A network."""

    kind = "model"


class LossComponent(Component):
    """An adversarial loss."""

    kind = "loss"


class DataComponent(Component):
    """A source of training images."""

    kind = "data"


class TaskComponent(Component):
    """A training scheme."""

    kind = "task"


class MetricComponent(Component):
    """A metric over two collections of images."""

    kind = "metric"


class RunSection(Section):
    """Where a run lives and how long it is; every `_images` key counts training images."""

    dir: str
    total_images: int = Field(gt=0)
    workers: int = Field(default=1, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**63)
    gpus: bool | Literal["auto"] = "auto"
    snapshot_images: int | None = Field(default=None, gt=0)
    sample_images: int | None = Field(default=None, gt=0)
    log_images: int = Field(default=100, gt=0)


class BatchSection(Section):
    """Images per optimisation step over all workers, and how many backward passes a step is cut into."""

    global_size: int = Field(gt=0)
    accumulation: int = Field(default=1, ge=1)


class EmaSection(Section):
    """An exponential moving average of the generators' weights that halves its memory every so many images."""

    half_life_images: float = Field(gt=0)


class RunConfig(Section):
    """One training run. `deepspeed` is handed to DeepSpeed save for the keys zorse derives itself."""

    run: RunSection
    batch: BatchSection
    data: DataComponent
    task: TaskComponent
    ema: EmaSection | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    deepspeed: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        parts = self.run.workers * self.batch.accumulation
        if self.batch.global_size % parts:
            raise ValueError(
                f"batch.global_size ({self.batch.global_size}) must be a multiple of run.workers "
                f"({self.run.workers}) x batch.accumulation ({self.batch.accumulation})"
            )
        return self

    @property
    def micro_size(self) -> int:
        """Images per worker and backward pass."""
        return self.batch.global_size // (self.run.workers * self.batch.accumulation)


def find_config(name: str) -> Path:
    """The file `name`, or the shipped config of that name (with or without folder and `.yaml`).

    Raises:
        ConfigError: neither exists.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = sorted(found for folder in SHIPPED_CONFIGS for found in folder.glob("*.yaml"))
    for found in shipped:
        if found.stem == path.name.removesuffix(".yaml"):
            return found
    names = [found.stem for found in shipped]
    raise ConfigError(f"no config {name}{nearest_hint(path.stem, names)}; shipped ones: {', '.join(names)}")


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file, apply `key.sub=value` overrides and validate.

    Raises:
        ConfigError: unreadable file, malformed override, unknown key or illegal value.
    """
    for override in overrides:
        if "=" not in override or not override.split("=", 1)[0].strip():
            raise ConfigError(f"override {override!r} is not of the form key.sub=value")
    try:
        written = OmegaConf.load(path)
        if not isinstance(written, DictConfig):
            raise ConfigError(f"{path} holds no sections: expected keys {', '.join(RunConfig.model_fields)}")
        data = OmegaConf.to_container(OmegaConf.merge(written, OmegaConf.from_dotlist(list(overrides))), resolve=True)
    except (OmegaConfBaseException, yaml.YAMLError, OSError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    assert isinstance(data, dict)
    config = validate(RunConfig, data, str(path))
    return _tiny(config) if os.environ.get("ZORSE_SMOKE") else config


def _tiny(config: RunConfig) -> RunConfig:
    """Two steps only (ZORSE_SMOKE=1), so that documentation can be run as it is written."""
    total = min(config.run.total_images, 2 * config.batch.global_size)
    return config.model_copy(update={"run": config.run.model_copy(update={"total_images": total})})


def with_run_dir(config: RunConfig, folder: str) -> RunConfig:
    """`config` with another `run.dir`."""
    return config.model_copy(update={"run": config.run.model_copy(update={"dir": folder})})


def validate(schema: type[S], data: dict[Any, Any], where: str) -> S:
    """Build `schema` from `data`; `where` (a file, or a dotted section) starts the message of an error.

    Raises:
        ConfigError: naming each wrong key, with the nearest known key for an unknown one.
    """
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{where}: " + "; ".join(_explain(schema, item) for item in error.errors())) from error


def differences(config: dict[str, Any], base: dict[str, Any], prefix: str = "") -> list[str]:
    """One line `key: old -> new` for each leaf of `config` that differs from `base`."""
    lines: list[str] = []
    for key in sorted({*config, *base}):
        new, old, name = config.get(key), base.get(key), f"{prefix}{key}"
        if isinstance(new, dict) and isinstance(old, dict | None):
            lines += differences(new, old or {}, f"{name}.")
        elif new != old:
            lines.append(f"{name}: {old} -> {new}" if key in base else f"{name}: {new} (default)")
    return lines


def _explain(schema: type[BaseModel], item: Any) -> str:
    location = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"unknown key {location}{nearest_hint(str(item['loc'][-1]), _known_keys(schema, item['loc'][:-1]))}"
    if item["type"] == "missing":
        return f"missing key {location}"
    message = item["msg"].removeprefix("Value error, ")
    return f"{location} = {item['input']!r}: {message}" if location else message


def _known_keys(schema: type[BaseModel], location: Iterable[str | int]) -> list[str]:
    for part in location:
        field = schema.model_fields.get(str(part))
        candidates = [] if field is None else [field.annotation, *getattr(field.annotation, "__args__", ())]
        inner = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not inner:
            return []
        schema = inner[0]
    return list(schema.model_fields)


def nearest_hint(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (did you mean {near[0]}?)" if near else ""
