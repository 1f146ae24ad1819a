"""A run's configuration: YAML plus dotted overrides, resolved once to one frozen object.

No torch here: a configuration can be checked anywhere. The sections that configure a component stay
`{type, …}` in this module; `trainer.registry.resolve` turns them into the component's own typed Config.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from trainer.errors import ConfigError
from zorse_common.errors import nearest_hint, one_line

S = TypeVar("S", bound=BaseModel)

_DERIVED_KEYS = frozenset(
    {
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "gradient_accumulation_steps",
        "steps_per_print",
        "zero_allow_untested_optimizer",
        "optimizer",
        "scheduler",
        "fp16",
        "bf16",
        "torch_autocast",
        "amp",
        "prescale_gradients",
        "gradient_predivide_factor",
        "gradient_allreduce_op",
        "managed_gradient_accumulation",
        "data_types",
        "sparse_gradients",
        "disable_allgather",
        "zero_force_ds_cpu_optimizer",
        "communication_data_type",
        "seq_parallel_communication_data_type",
        "dataloader_drop_last",
        "compression_training",
        "quantize_training",
        "progressive_layer_drop",
        "curriculum_learning",
        "data_efficiency",
        "elasticity",
    }
)
_DERIVED_ZERO_KEYS = frozenset(
    {"zero_quantized_weights", "zero_quantized_nontrainable_weights", "zero_quantized_gradients"}
)

_PACKAGE = Path(__file__).parent
SHIPPED_CONFIGS = (_PACKAGE.parent / "configs" / "train", _PACKAGE / "configs")
"""Where the shipped training configs lie: in a checkout, and in an installed wheel."""


_PLACES = frozenset({"run.dir", "run.storage", "data.root"})
"""Keys whose value on the command line is a path or URI, taken as it is written."""


def _checked_place(place: str) -> str:
    try:
        place.encode()
    except UnicodeEncodeError as error:
        raise ValueError("its name is not UTF-8, which Ray and YAML need: rename the folder") from error
    return place if "://" in place else os.path.expanduser(place)  # noqa: PTH111  (pathlib would drop a trailing slash)


Place = Annotated[str, AfterValidator(_checked_place)]
"""A local path, in which `~` is the user's home, or a URI."""


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


class WorkersSection(Section):
    """Elastic workers: as many from `min` to `max` as the cluster has room for, also when nodes come and go."""

    min: int = Field(ge=1)
    max: int = Field(ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) is more than max ({self.max})")
        return self


class BestSection(Section):
    """The checkpoint to keep beside the newest: that with the lowest or highest figure `metric` of `metrics.jsonl`."""

    metric: str
    mode: Literal["min", "max"] = "min"


class RunSection(Section):
    """Where a run lives, how long it is and what it survives; every `_images` key counts training images.

    The run's folder is `dir` below `storage`, a local folder or a URI such as `s3://bucket/runs`. `wait_for_nodes` is
    how many seconds it waits for a cluster to have room for its workers, and `max_failures` how often in a row
    lost workers are replaced without the run getting further. There are checkpoints every `checkpoint_images` images,
    by default twenty in all, and at the end. `allow_new_data` lets a resume go on with other training images than
    before. `revision` is that of the code, by default what git says of the working
    folder; the artifacts of the run carry it.
    """

    dir: Place
    storage: Place | None = None
    total_images: int = Field(gt=0)
    workers: Annotated[int, Field(ge=1)] | WorkersSection = 1
    wait_for_nodes: float = Field(default=60.0, ge=0)
    max_failures: int = Field(default=5, ge=0)
    seed: int = Field(default=0, ge=0, lt=2**63)
    gpus: bool | Literal["auto"] = "auto"
    cpus_per_worker: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    checkpoint_images: int | None = Field(default=None, gt=0)
    keep_checkpoints: int = Field(default=3, ge=1)
    best: BestSection | None = None
    snapshot_images: int | None = Field(default=None, gt=0)
    sample_images: int | None = Field(default=None, gt=0)
    log_images: int = Field(default=100, gt=0)
    allow_new_data: bool = False
    revision: str | None = None

    @property
    def checkpoint_interval(self) -> int:
        """Images from one checkpoint to the next."""
        return self.checkpoint_images or max(1, self.total_images // 20)

    @property
    def place(self) -> str:
        """The path or URI of the run's folder."""
        return self.dir if self.storage is None else f"{self.storage.rstrip('/')}/{self.dir}"

    @property
    def most_workers(self) -> int:
        """How many workers there may be."""
        return self.workers if isinstance(self.workers, int) else self.workers.max

    @property
    def fewest_workers(self) -> int:
        """How many workers there must be."""
        return self.workers if isinstance(self.workers, int) else self.workers.min


class BatchSection(Section):
    """Images per optimisation step over all workers, and how many backward passes a step is cut into."""

    global_size: int = Field(gt=0)
    accumulation: int = Field(default=1, ge=1)


class EmaSection(Section):
    """An exponential moving average of the generators' weights that halves its memory every so many images."""

    half_life_images: float = Field(gt=0)


class WatchdogSection(Section):
    """What counts as trouble, and what is done about it.

    A discriminator has won when D(real) - D(fake) has been `won_margin` or more for `won_images` images. Samples have
    collapsed when the mean distance between two is less than `diversity` times that between two real images.
    `roll_back` goes back to a checkpoint from before the trouble with another seed, `rollbacks` times at most.
    """

    action: Literal["warn", "roll_back", "stop"] = "warn"
    won_margin: float = Field(default=0.95, gt=0, le=1)
    won_images: int = Field(default=10_000, gt=0)
    diversity: float = Field(default=0.1, ge=0)
    rollbacks: int = Field(default=3, ge=1)


class RunConfig(Section):
    """One training run. `deepspeed` is handed to DeepSpeed save for the keys zorse derives itself."""

    run: RunSection
    batch: BatchSection
    data: DataComponent
    task: TaskComponent
    ema: EmaSection | None = None
    watchdog: WatchdogSection = WatchdogSection()
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    deepspeed: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _batch_suffices(self) -> Self:
        if self.batch.global_size < self.run.most_workers * self.batch.accumulation:
            raise ValueError(
                f"batch.global_size ({self.batch.global_size}) must be at least run.workers "
                f"({self.run.most_workers}) x batch.accumulation ({self.batch.accumulation}): each needs an image"
            )
        return self

    @field_validator("deepspeed")
    @classmethod
    def _deepspeed_keeps_promises(cls, section: dict[str, Any]) -> dict[str, Any]:
        if "gradient_clipping" in section:
            raise ValueError("deepspeed.gradient_clipping is set by zorse: use clip_norm of the task's optimizers")
        for key in sorted(_DERIVED_KEYS & section.keys()):
            raise ValueError(f"deepspeed.{key} is set by zorse: use batch.*, precision or the task's optimizers")
        zero = section.get("zero_optimization", {})
        for key in sorted(_DERIVED_ZERO_KEYS & (zero.keys() if isinstance(zero, dict) else set())):
            raise ValueError(f"deepspeed.zero_optimization.{key} is set by zorse: it would round what a step computes")
        stage = zero.get("stage", 0) if isinstance(zero, dict) else zero
        if stage not in (0, 1, 2):
            raise ValueError(
                f"deepspeed.zero_optimization.stage = {stage}: use 0, 1 or 2; stage 3 shards the weights that "
                "one player's loss reads from the other, and GAN networks are too small to gain from it"
            )
        return section

    @property
    def micro_size(self) -> int:
        """The most images that a worker takes in one backward pass."""
        return -(-self.batch.global_size // (self.run.fewest_workers * self.batch.accumulation))


def find_config(name: str) -> Path:
    """The file `name`, or the shipped config of that name, with or without `configs/train/` and `.yaml`.

    Raises:
        ConfigError: neither exists.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = sorted(found for folder in SHIPPED_CONFIGS for found in folder.glob("*.yaml"))
    for found in shipped:
        if name.removesuffix(".yaml") in (found.stem, f"configs/train/{found.stem}"):
            return found
    names = [found.stem for found in shipped]
    raise ConfigError(f"no config {name}{nearest_hint(path.stem, names)}; shipped ones: {', '.join(names)}")


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file, apply `key.sub=value` overrides and validate.

    Raises:
        ConfigError: unreadable file, malformed override, unknown key or illegal value.
    """
    changes = parse_overrides(overrides)
    try:
        written = OmegaConf.load(path)
        if not isinstance(written, DictConfig):
            raise ConfigError(f"{path} holds no sections: expected keys {', '.join(RunConfig.model_fields)}")
        data = OmegaConf.to_container(OmegaConf.merge(written, changes), resolve=True)
    except (OmegaConfBaseException, yaml.YAMLError, OSError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {one_line(error)}") from error
    assert isinstance(data, dict)
    return validate(RunConfig, data, str(path))


def parse_overrides(overrides: Sequence[str]) -> DictConfig:
    """Parse texts of the form `key.sub=value`, of which later ones win.

    Raises:
        ConfigError: one is malformed.
    """
    merged = OmegaConf.merge(OmegaConf.create(), *map(_parse_override, overrides))
    assert isinstance(merged, DictConfig)
    return merged


def _parse_override(override: str) -> DictConfig:
    """Parse `key.sub=value`: the value is YAML, and of the keys `_PLACES` the text itself."""
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"override {override!r} is not of the form key.sub=value")
    try:
        if key.strip() in _PLACES:
            parsed = OmegaConf.create()
            OmegaConf.update(parsed, key.strip(), value.replace("${", "\\${"))
        else:
            parsed = OmegaConf.from_dotlist([override])
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError(f"override {override!r} cannot be read: its value is not YAML") from error
    return parsed


def with_place(config: RunConfig, uri: str) -> RunConfig:
    """`config` with the run's folder at `uri`, whatever the working directory."""
    return config.model_copy(update={"run": config.run.model_copy(update={"dir": uri, "storage": None})})


def validate(schema: type[S], data: dict[Any, Any], where: str) -> S:
    """Build `schema` from `data`; `where` (a file, or a dotted section) starts the message of an error.

    Raises:
        ConfigError: naming each wrong key, with the nearest known key for an unknown one.
    """
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{where}: " + "; ".join(_explain(schema, item) for item in error.errors())) from error


def differences(config: dict[Any, Any], base: dict[Any, Any], prefix: str = "") -> list[str]:
    """One line `key: old -> new` for each leaf of `config` that differs from `base`."""
    lines: list[str] = []
    for key in sorted({*config, *base}, key=str):
        new, old, name = config.get(key), base.get(key), f"{prefix}{key}"
        if isinstance(new, dict) and isinstance(old, dict | None):
            lines += differences(new, old or {}, f"{name}.")
        elif new != old:
            lines.append(f"{name}: {old} -> {new}" if key in base else f"{name}: {new} (default)")
    return lines


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of nested sections by dotted key; an empty section is a leaf."""
    leaves: dict[str, Any] = {}
    for key, value in config.items():
        leaves |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return leaves


def _explain(schema: type[BaseModel], item: Any) -> str:
    # Without the names that pydantic gives to the choices of a union.
    location = ".".join(str(part) for part in item["loc"] if str(part).replace("_", "").replace(" ", "").isalnum())
    if item["type"] == "extra_forbidden":
        return f"unknown key {location}{nearest_hint(str(item['loc'][-1]), _known_keys(schema, item['loc'][:-1]))}"
    if item["type"] == "missing":
        return f"missing key {location}"
    message = re.sub(r"dictionary or instance of \w+", "section of keys", item["msg"].removeprefix("Value error, "))
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
