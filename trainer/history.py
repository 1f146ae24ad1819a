"""What a run's folder tells of it: state, figures, events and samples, and how configs differ.

No torch here, save where a config is held against the components' defaults.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

import yaml

from trainer import registry
from trainer.config import RunConfig, flatten, validate
from trainer.errors import ConfigError, StorageError
from trainer.storage import Storage

CONFIG_FILE, STATE_FILE, EVENTS_FILE, METRICS_FILE = "config.yaml", "run.json", "events.jsonl", "metrics.jsonl"
SAMPLES_FOLDER = "samples"

_PLACE = ("run.dir", "run.storage")


class Run:
    """A run as its files tell it. A run can die at any moment: a file or line that is missing or torn counts as empty.

    Lines are parsed when they are asked for, because a long run has hundreds of thousands.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        try:
            config = yaml.safe_load(self._text(CONFIG_FILE))
        except yaml.YAMLError:
            config = None
        self.config: dict[str, Any] = config if isinstance(config, dict) else {}
        self._leaves = flatten(self.config)
        self._record = _json_object(self._text(STATE_FILE))

    @property
    def name(self) -> str:
        """The name of the run's folder."""
        return self.storage.name

    @property
    def state(self) -> str:
        """`running`, `finished`, `preempted`, `failed`, `aborted`, or `unknown` where the run did not get that far."""
        return str(self._record.get("state", "unknown"))

    @property
    def reason(self) -> str | None:
        """Why the run ended early, in one line."""
        reason = self._record.get("reason")
        return None if reason is None else str(reason)

    @property
    def time(self) -> datetime | None:
        """When the run came into its state."""
        try:
            return datetime.fromisoformat(self._record["time"])
        except (KeyError, TypeError, ValueError):
            return None

    @property
    def environment(self) -> dict[str, Any]:
        """What the run ran on: versions and the platform."""
        found = self._record.get("environment")
        return found if isinstance(found, dict) else {}

    @property
    def task(self) -> str | None:
        """The type of the run's task."""
        return self._leaves.get("task.type")

    @property
    def total_images(self) -> int | None:
        """How many images the run is to see."""
        return self._leaves.get("run.total_images")

    @property
    def images_seen(self) -> int:
        """How many images the run has seen, as far as it was written down."""
        return max(int(self._record.get("images_seen") or 0), int(self.newest.get("images", 0)))

    @cached_property
    def metrics(self) -> list[dict[str, float]]:
        """The lines of figures, oldest first; each has `images`. A figure may be NaN or infinite."""
        return [figures for line in self._metric_lines if "images" in (figures := _figures(line))]

    @cached_property
    def newest(self) -> dict[str, float]:
        """The newest line of figures; empty where there is none."""
        lines = (_figures(line) for line in reversed(self._metric_lines))
        return next((figures for figures in lines if "images" in figures), {})

    @property
    def images_per_second(self) -> float | None:
        """The mean speed of training, without the time in which no worker ran."""
        seconds = self.newest.get("seconds", 0.0)
        return self.newest["images"] / seconds if seconds > 0 else None

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """What happened to the run, oldest first: `time` (ISO 8601), `images` and `event`."""
        found = (_json_object(line) for line in self._text(EVENTS_FILE).split("\n"))
        return [event for event in found if "event" in event]

    @cached_property
    def samples(self) -> list[int]:
        """After how many images there is a grid of samples."""
        names = (self.storage / SAMPLES_FOLDER).files()
        return sorted(int(name[:-4]) for name in names if name.endswith(".png") and name[:-4].isdecimal())

    def sample(self, images: int) -> bytes:
        """The PNG file of the grid drawn after `images` images, one of `samples`."""
        return self.storage.read(f"{SAMPLES_FOLDER}/{images:010d}.png")

    @cached_property
    def _metric_lines(self) -> list[str]:
        return self._text(METRICS_FILE).split("\n")

    def _text(self, name: str) -> str:
        try:
            return self.storage.read(name).decode(errors="replace")
        except FileNotFoundError:
            return ""


def find_run(place: str) -> Run:
    """The run in the folder `place`, a path or a URI.

    Raises:
        StorageError: there is none.
    """
    storage = Storage(place)
    if not storage.exists(CONFIG_FILE):
        raise StorageError(f"{storage.uri} holds no run: it has no {CONFIG_FILE}; zorse runs list FOLDER names runs")
    return Run(storage)


def find_runs(folder: str) -> list[Run]:
    """The runs directly inside `folder`, a path or a URI, the one whose state is newest first.

    Raises:
        StorageError: there is none.
    """
    storage = Storage(folder)
    runs = [Run(place) for name in storage.folders() if (place := storage / name).exists(CONFIG_FILE)]
    if not runs:
        raise StorageError(f"{storage.uri} holds no runs: name the folder in which the runs' folders are")
    return sorted(runs, key=lambda run: run.time.timestamp() if run.time else -math.inf, reverse=True)


def differing_keys(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """The config keys, save the run's place, in which `runs` differ, with the value of each run (None for no value)."""
    leaves = [flatten(run.config) for run in runs]
    values = {key: [found.get(key) for found in leaves] for keys in leaves for key in keys if key not in _PLACE}
    return {key: found for key, found in values.items() if any(value != found[0] for value in found)}


def defaults(config: dict[str, Any]) -> dict[str, Any]:
    """For each leaf of a resolved `config` that may be left out, by dotted key, the value it has then.

    Empty where this version of zorse does not understand the config.
    """
    leaves, found = flatten(config), {}
    # Whole sections first: a key that its section must have may still be left out with the section.
    for path in sorted(_paths(config), key=len):
        try:
            remaining = registry.resolved(validate(RunConfig, _without(config, path), CONFIG_FILE))
        except ConfigError:
            continue
        values, name = flatten(remaining), ".".join(path)
        found |= {key: values.get(key) for key in leaves if key == name or key.startswith(f"{name}.")}
    return found


def age(elapsed: timedelta) -> str:
    """A duration in its largest unit, such as `3 h`."""
    seconds = max(0, int(elapsed.total_seconds()))
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def shown(value: Any) -> str:
    """A config's value as one writes it in YAML."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _paths(section: dict[str, Any], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in section.items():
        yield (*prefix, key)
        if isinstance(value, dict):
            yield from _paths(value, (*prefix, key))


def _without(config: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    remaining = copy.deepcopy(config)
    section = remaining
    for key in path[:-1]:
        section = section[key]
    del section[path[-1]]
    return remaining


def _figures(line: str) -> dict[str, float]:
    return {name: float(value) for name, value in _json_object(line).items() if isinstance(value, int | float)}


def _json_object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
