"""Reads what the files in a run's folder say of the run: state, config, figures, events and samples.

This module imports no torch.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import yaml

from trainer.config import flatten
from trainer.curves import Point
from trainer.metric_lines import json_object, read_parts
from zorse_common.errors import StorageError
from zorse_common.storage import Storage

CONFIG_FILE, STATE_FILE, EVENTS_FILE = "config.yaml", "run.json", "events.jsonl"
SAMPLES_FOLDER = "samples"

SILENT_SECONDS = 60.0
"""A driver whose last sign of life is older than this is taken for dead."""


@dataclass(frozen=True)
class Event:
    """One line of a run's events.

    Attributes:
        time: when it was written; None if the line has no readable time.
        images: the number of images that the run had seen.
        message: the line's text.
    """

    time: datetime | None
    images: int
    message: str


class RunHistory:
    """A run as its files describe it, running or ended.

    A run can end at any moment, so a missing or torn file or line counts as empty. The files of figures and events are
    read at the first use, because a long run has hundreds of thousands of lines.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        try:
            config = yaml.safe_load(self._text(CONFIG_FILE))
        except yaml.YAMLError:
            config = None
        self.config: dict[str, Any] = config if isinstance(config, dict) else {}
        self._leaves = flatten(self.config)
        self._state = json_object(self._text(STATE_FILE))

    @property
    def name(self) -> str:
        """The name of the run's folder."""
        return self.storage.name

    @property
    def state(self) -> str:
        """`running`, `finished`, `preempted`, `failed`, `aborted`, `lost` (the driver was killed) or `unknown`."""
        state = str(self._state.get("state", "unknown"))
        silence = datetime.now(UTC) - (self.time or datetime.now(UTC))
        return "lost" if state == "running" and silence.total_seconds() > SILENT_SECONDS else state

    @property
    def driver(self) -> dict[str, Any] | None:
        """The `host` and `pid` of the process that trains or trained the run."""
        driver = self._state.get("driver")
        return driver if isinstance(driver, dict) and {"host", "pid"} <= driver.keys() else None

    @property
    def reason(self) -> str | None:
        """Why the run ended early, in one line."""
        reason = self._state.get("reason")
        return None if reason is None else str(reason)

    @property
    def time(self) -> datetime | None:
        """When the driver last wrote the run's state."""
        return _time(self._state)

    @property
    def environment(self) -> dict[str, Any]:
        """The versions and the platform with which the run was trained."""
        environment = self._state.get("environment")
        return environment if isinstance(environment, dict) else {}

    @property
    def task(self) -> str | None:
        """The type of the run's task."""
        return self._leaves.get("task.type")

    @property
    def total_images(self) -> int | None:
        """The number of images that the run is to see."""
        return self._leaves.get("run.total_images")

    @property
    def images_seen(self) -> int:
        """The number of images that the run has seen, as far as its files say."""
        return max(int(self._state.get("images_seen") or 0), self.images_logged)

    @cached_property
    def curves(self) -> dict[str, list[Point]]:
        """The values of each logged figure, oldest first."""
        return self._curves("figures")

    @cached_property
    def performance_curves(self) -> dict[str, list[Point]]:
        """The values of images/s, data wait, hooks and memory, oldest first."""
        return self._curves("performance")

    @cached_property
    def realness_curves(self) -> dict[str, list[Point]]:
        """The mean probability with which each discriminator took real and generated images for real, oldest first."""
        return self._curves("realness")

    @cached_property
    def figures(self) -> dict[str, float]:
        """The newest value of each logged figure and of realness."""
        return {name: points[-1][1] for name, points in (self.curves | self.realness_curves).items()}

    @property
    def images_logged(self) -> int:
        """The number of images seen at the newest line of figures."""
        return int(self._lines[-1]["images"]) if self._lines else 0

    @property
    def training_seconds(self) -> float:
        """The seconds of training up to the newest line of figures, without the time in which no worker ran."""
        return float(self._lines[-1].get("seconds", 0.0)) if self._lines else 0.0

    @property
    def images_per_second(self) -> float | None:
        """The mean speed of training, without the time in which no worker ran."""
        return self.images_logged / self.training_seconds if self.training_seconds > 0 else None

    @cached_property
    def events(self) -> list[Event]:
        """The run's events, oldest first."""
        lines = (json_object(line) for line in self._text(EVENTS_FILE).split("\n"))
        return [Event(_time(line), line.get("images", 0), str(line["event"])) for line in lines if "event" in line]

    @cached_property
    def samples(self) -> list[int]:
        """The numbers of images after which there is a grid of samples, in ascending order."""
        names = (self.storage / SAMPLES_FOLDER).files()
        return sorted(int(name[:-4]) for name in names if name.endswith(".png") and name[:-4].isdecimal())

    def sample(self, images: int) -> bytes:
        """Return the PNG file of the grid drawn after `images` images, one of `samples`."""
        return self.storage.read(f"{SAMPLES_FOLDER}/{images:010d}.png")

    def _curves(self, group: str) -> dict[str, list[Point]]:
        curves: defaultdict[str, list[Point]] = defaultdict(list)
        for line in self._lines:
            for name, value in _numbers(line.get(group)).items():
                curves[name].append((line["images"], value))
        return dict(curves)

    @cached_property
    def _lines(self) -> list[dict[str, Any]]:
        """The lines of figures, without torn ones."""
        return [line for _, part in read_parts(self.storage) for line in part]

    def _text(self, name: str) -> str:
        try:
            return self.storage.read(name).decode(errors="replace")
        except FileNotFoundError:
            return ""


def find_run(place: str) -> RunHistory:
    """Return the run in the folder `place`, a path or a URI.

    Raises:
        StorageError: the folder holds no run.
    """
    storage = Storage(place)
    if not storage.exists(CONFIG_FILE):
        raise StorageError(f"{storage.uri} holds no run: it has no {CONFIG_FILE}; zorse runs list FOLDER names runs")
    return RunHistory(storage)


def find_runs(folder: str) -> list[RunHistory]:
    """Return the runs directly inside `folder`, a path or a URI, in the order of their last update, newest first.

    Raises:
        StorageError: the folder holds no runs.
    """
    storage = Storage(folder)
    runs = [RunHistory(place) for name in storage.folders() if (place := storage / name).exists(CONFIG_FILE)]
    if not runs:
        raise StorageError(f"{storage.uri} holds no runs: name the folder in which the runs' folders are")
    return sorted(runs, key=lambda run: run.time.timestamp() if run.time else -math.inf, reverse=True)


def _time(line: dict[str, Any]) -> datetime | None:
    try:
        return datetime.fromisoformat(line["time"])
    except (KeyError, TypeError, ValueError):
        return None


def _numbers(group: Any) -> dict[str, float]:
    """Return the numbers of one group of a line. A pair of realness becomes two, named as in the terminal."""
    numbers: dict[str, float] = {}
    for name, value in group.items() if isinstance(group, dict) else ():
        if isinstance(value, int | float):
            numbers[name] = float(value)
        elif isinstance(value, list) and len(value) == 2 and all(isinstance(each, int | float) for each in value):
            numbers |= {f"{name}(real)": float(value[0]), f"{name}(fake)": float(value[1])}
    return numbers
