"""A run from its config to its end: its folder, what a resume may change, and the record of what became of it."""

from __future__ import annotations

import contextlib
import json
import platform
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from importlib import metadata
from typing import Any

import yaml

from trainer import checkpoint, registry, snapshot
from trainer.cluster import cluster_address
from trainer.config import RunConfig, find_config, flatten, load_config, validate, with_place
from trainer.errors import ConfigError, Preempted, StorageError, TrainerError
from trainer.history import CONFIG_FILE, EVENTS_FILE, STATE_FILE
from trainer.hooks.base import Update
from trainer.launch import launch
from trainer.report import REPORT_FILE, write_report
from trainer.storage import Storage
from trainer.tasks.build import build_source, check_fit

_ABSENT = "(absent)"
# What a resume may change; all else decides what the checkpoint's tensors mean, or which images come when.
_MAY_CHANGE = (
    "run.*",
    "precision",
    "deepspeed*",
    "batch.accumulation",
    "data.root",
    "data.max_unreadable",
    "ema.half_life_images",
    "watchdog.*",
    "task.loss*",
    "task.*_weight",
    "task.*_optimizer.lr",
    "task.*_optimizer.betas",
    "task.*_optimizer.decay_from",
)


def train(
    config: RunConfig | str,
    overrides: Sequence[str] = (),
    *,
    show: Callable[[Update], None] | None = None,
    resume: bool = False,
    address: str | None = None,
) -> str:
    """Check everything, train, and return the URI of the run's folder.

    `config` is a YAML file, the name of a shipped config (both with `key.sub=value` overrides), or a `RunConfig`.
    `show` is called about twice a second with what the workers reported. `resume` goes on from the newest good
    checkpoint of the run's folder, or starts where there is none. `address` is that of a Ray cluster ("auto", or
    host:port of its head).

    Raises:
        Preempted: SIGTERM or SIGINT asked the run to stop; it wrote a checkpoint.
        TrainerError: the config or the data is wrong, the run's folder is taken, or a worker failed.
    """
    run = load_config(find_config(config), overrides) if isinstance(config, str) else config
    resolved = registry.resolved(run)
    check_fit(run)
    if cluster_address(address) is None:
        # On a cluster the images may lie where only the workers see them, who look themselves.
        build_source(run)
    storage = Storage(run.run.place)
    record = _Record(storage, show or (lambda update: None))
    news = _open(storage, resolved, resume)
    try:
        storage.write(CONFIG_FILE, yaml.safe_dump(resolved, sort_keys=False).encode())
    except OSError as error:
        raise StorageError(f"{storage.uri} cannot be written ({error}): check run.storage and run.dir") from error
    try:
        record.state("running")
        launch(with_place(RunConfig.model_validate(resolved), storage.uri), record.update, news, address)
    except Preempted as end:
        record.end("preempted", str(end))
        raise
    except TrainerError as error:
        record.end("failed", str(error))
        raise
    except BaseException:
        record.end("aborted")
        raise
    record.end("finished")
    return storage.uri


def _open(storage: Storage, resolved: dict[str, Any], resume: bool) -> list[str]:
    """Check that the run may use its folder, and say what a resume changes.

    Raises:
        ConfigError: it holds a run and this is no resume, or the resume changes what cannot change.
    """
    if not any((storage / folder).folders() for folder in (snapshot.FOLDER, checkpoint.FOLDER)):
        return []
    if not resume:
        raise ConfigError(
            f"run.dir {storage.uri} already holds a run: go on with --resume, choose another run.dir or remove it"
        )
    if not storage.exists(CONFIG_FILE):
        raise ConfigError(f"{storage.uri} cannot be resumed: it has no {CONFIG_FILE}")
    written = validate(RunConfig, yaml.safe_load(storage.read(CONFIG_FILE)), f"{storage.uri}/{CONFIG_FILE}")
    before, now = flatten(registry.resolved(written)), flatten(resolved)
    changed = [key for key in sorted({*before, *now}) if before.get(key, _ABSENT) != now.get(key, _ABSENT)]
    changes = {key: f"{key}: {before.get(key, _ABSENT)} -> {now.get(key, _ABSENT)}" for key in changed}
    refused = [line for key, line in changes.items() if key == "run.seed" or not _may_change(key)]
    if refused:
        raise ConfigError(
            f"{storage.uri} cannot be resumed with {'; '.join(refused)}: take the old values or another run.dir"
        )
    told = [line for key, line in changes.items() if key not in ("run.dir", "run.storage")]
    return ["resumed" + (f" with {'; '.join(told)}" if told else "")]


def _may_change(key: str) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in _MAY_CHANGE)


class _Record:
    """`run.json`, what state the run is in, and `events.jsonl`, what happened to it; both written by the driver."""

    def __init__(self, storage: Storage, show: Callable[[Update], None]) -> None:
        self._storage, self._show = storage, show
        self._lines = storage.read(EVENTS_FILE).decode() if storage.exists(EVENTS_FILE) else ""
        self._told: tuple[str, ...] = ()
        self._seen = 0

    def state(self, state: str, reason: str | None = None) -> None:
        """Write down that the run is in `state`."""
        content = {
            "state": state,
            "reason": reason,
            "images_seen": self._seen,
            "time": _now(),
            "environment": {"python": platform.python_version(), "platform": platform.platform(), **_versions()},
        }
        # What the run ends with matters more than that it cannot be written down.
        with contextlib.suppress(OSError):
            self._storage.write(STATE_FILE, (json.dumps(content, indent=2) + "\n").encode())

    def end(self, state: str, reason: str | None = None) -> None:
        """Write down that the run ended in `state`, and the page that shows it."""
        self.state(state, reason)
        try:
            write_report(self._storage)
        except (OSError, StorageError) as error:
            self.event(f"{REPORT_FILE} was not written: {error}")

    def event(self, message: str) -> None:
        """Write down one event."""
        self._lines += json.dumps({"time": _now(), "images": self._seen, "event": message}) + "\n"
        with contextlib.suppress(OSError):
            self._storage.write(EVENTS_FILE, self._lines.encode())

    def update(self, update: Update) -> None:
        """Write down the workers' new events, and hand all on."""
        self._seen = update.seen
        for message in update.events[len(self._told) :]:
            self.event(message)
        self._told = update.events
        self._show(update)


def _versions() -> dict[str, str]:
    return {package: metadata.version(package) for package in ("torch", "deepspeed", "ray")}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
