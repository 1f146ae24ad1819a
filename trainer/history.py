"""What a run's folder tells of it: state, figures, events and samples, and how configs differ.

No torch here, save where a config is held against the components' defaults.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from statistics import fmean
from typing import Any

import yaml

from trainer.config import default_leaves, flatten, validate
from trainer.errors import ConfigError
from trainer.metric_lines import read_parts
from trainer.run_config import RunConfig
from zorse_common.errors import StorageError
from zorse_common.storage import Storage

CONFIG_FILE, STATE_FILE, EVENTS_FILE = "config.yaml", "run.json", "events.jsonl"
SAMPLES_FOLDER = "samples"

SILENT_SECONDS = 60.0
"""A driver that has not been heard of for so long is taken for dead."""

BUCKETS = 500
"""A curve of more than twice as many points keeps the lowest and the highest of each bucket."""

Point = tuple[float, float]
"""Images seen, and a figure then: one that may be NaN or infinite."""

_PLACE = ("run.dir", "run.storage")


@dataclass(frozen=True)
class Event:
    """Something that happened to a run, when it had seen so many images."""

    time: datetime | None
    images: int
    message: str


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
        self._state = _json_object(self._text(STATE_FILE))

    @property
    def name(self) -> str:
        """The name of the run's folder."""
        return self.storage.name

    @property
    def state(self) -> str:
        """`running`, `finished`, `preempted`, `failed`, `aborted`, `lost` where the driver was killed, or `unknown`."""
        state = str(self._state.get("state", "unknown"))
        silence = datetime.now(UTC) - (self.time or datetime.now(UTC))
        return "lost" if state == "running" and silence.total_seconds() > SILENT_SECONDS else state

    @property
    def driver(self) -> dict[str, Any] | None:
        """The `host` and `pid` of the process that trains or trained the run."""
        found = self._state.get("driver")
        return found if isinstance(found, dict) and {"host", "pid"} <= found.keys() else None

    @property
    def reason(self) -> str | None:
        """Why the run ended early, in one line."""
        reason = self._state.get("reason")
        return None if reason is None else str(reason)

    @property
    def time(self) -> datetime | None:
        """When the run was last heard of."""
        return _time(self._state)

    @property
    def environment(self) -> dict[str, Any]:
        """What the run ran on: versions and the platform."""
        found = self._state.get("environment")
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
        """The number of images seen at the newest line."""
        return int(self._lines[-1]["images"]) if self._lines else 0

    @property
    def training_seconds(self) -> float:
        """The seconds of training up to the newest line, without the time in which no worker ran."""
        return float(self._lines[-1].get("seconds", 0.0)) if self._lines else 0.0

    @property
    def images_per_second(self) -> float | None:
        """The mean speed of training, without the time in which no worker ran."""
        return self.images_logged / self.training_seconds if self.training_seconds > 0 else None

    @cached_property
    def events(self) -> list[Event]:
        """What happened to the run, oldest first."""
        lines = (_json_object(line) for line in self._text(EVENTS_FILE).split("\n"))
        return [Event(_time(line), line.get("images", 0), str(line["event"])) for line in lines if "event" in line]

    @cached_property
    def samples(self) -> list[int]:
        """After how many images there is a grid of samples."""
        names = (self.storage / SAMPLES_FOLDER).files()
        return sorted(int(name[:-4]) for name in names if name.endswith(".png") and name[:-4].isdecimal())

    def sample(self, images: int) -> bytes:
        """The PNG file of the grid drawn after `images` images, one of `samples`."""
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
        lines = (_json_object(line) for _, part in read_parts(self.storage) for line in part)
        return [line for line in lines if isinstance(line.get("images"), int)]

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


def side_by_side(runs: Sequence[Run]) -> dict[str, list[str]]:
    """How far each of `runs` came, how fast, and its newest figures."""
    names = dict.fromkeys(name for run in runs for name in run.figures)
    return {
        "state": [run.state for run in runs],
        "images seen": [f"{run.images_seen:,}" for run in runs],
        "images/s": [_figure(run.images_per_second) for run in runs],
    } | {name: [_figure(run.figures.get(name)) for run in runs] for name in names}


def facts(run: Run) -> dict[str, str]:
    """What the files tell of a run, in a few words each."""
    total, seconds = run.total_images, run.training_seconds
    memory = run.performance_curves.get("memory GiB", [(0, 0.0)])[-1][1]
    found = {
        "task": run.task,
        "images seen": f"{run.images_seen:,}" + (f" of {total:,}" if total else ""),
        "images/s": _figure(run.images_per_second),
        "training time": duration(timedelta(seconds=seconds)) if seconds else "",
        "peak memory": f"{memory:.3g} GiB" if memory else "",
        "since": moment(run.time),
    }
    return {name: words for name, words in found.items() if words}


def summary(run: Run) -> dict[str, Any]:
    """Return what the files tell of a run as plain data; what is not known is None."""
    return {
        "run": run.name,
        "place": run.storage.uri,
        "state": run.state,
        "reason": run.reason,
        "task": run.task,
        "images_seen": run.images_seen,
        "total_images": run.total_images,
        "images_per_second": run.images_per_second,
        "time": None if run.time is None else run.time.isoformat(),
        "figures": run.figures,
    }


def chosen(config: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return the keys of a resolved `config` that differ from their default or have none: key, value, default.

    No key has a default where this version of zorse cannot read the config.
    """
    try:
        defaults = default_leaves(validate(RunConfig, config, CONFIG_FILE))
    except ConfigError:
        defaults = {}
    return [
        (key, shown(value), shown(defaults[key]) if key in defaults else "")
        for key, value in flatten(config).items()
        if key not in defaults or defaults[key] != value
    ]


def thin(points: Sequence[Point]) -> Sequence[Point]:
    """About 1000 of `points`: the first, the last and all extremes that one could see.

    Where figures are not finite, the first such one of its bucket stands for them.
    """
    count = len(points)
    if count <= 2 * BUCKETS:
        return points
    kept = {0, count - 1}
    for bucket in range(BUCKETS):
        indices = range(bucket * count // BUCKETS, (bucket + 1) * count // BUCKETS)
        finite = [index for index in indices if math.isfinite(points[index][1])]
        if finite:
            kept |= {min(finite, key=lambda index: points[index][1]), max(finite, key=lambda index: points[index][1])}
        if len(finite) < len(indices):
            kept.add(next(index for index in indices if not math.isfinite(points[index][1])))
    return [points[index] for index in sorted(kept)]


def means(points: Sequence[Point], most: int) -> list[Point]:
    """At most `most` means of neighbouring `points`, of those that are finite; NaN where none is."""
    found: list[Point] = []
    count = len(points)
    parts = min(count, most)
    for part in range(parts):
        near = points[part * count // parts : (part + 1) * count // parts]
        values = [y for _, y in near if math.isfinite(y)]
        found.append((fmean(x for x, _ in near), fmean(values) if values else math.nan))
    return found


def duration(elapsed: timedelta) -> str:
    """`elapsed` in its largest unit, such as `3 h`."""
    seconds = max(0, int(elapsed.total_seconds()))
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def moment(time: datetime | None) -> str:
    """`time` in UTC, to the second; nothing where it is not known."""
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S") if time else ""


def shown(value: Any) -> str:
    """A config's value as one writes it in YAML."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _time(line: dict[str, Any]) -> datetime | None:
    try:
        return datetime.fromisoformat(line["time"])
    except (KeyError, TypeError, ValueError):
        return None


def _numbers(group: Any) -> dict[str, float]:
    """Return the numbers of one group of a line; a pair of realness becomes two, named as in the terminal."""
    numbers: dict[str, float] = {}
    for name, value in group.items() if isinstance(group, dict) else ():
        if isinstance(value, int | float):
            numbers[name] = float(value)
        elif isinstance(value, list) and len(value) == 2 and all(isinstance(each, int | float) for each in value):
            numbers |= {f"{name}(real)": float(value[0]), f"{name}(fake)": float(value[1])}
    return numbers


def _json_object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
