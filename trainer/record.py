"""The driver's record of a run: `run.json`, the state it is in and whose it is, and `events.jsonl`, what happened."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from types import TracebackType
from typing import Any, Self

from trainer.board import Update
from trainer.errors import ConfigError, LaunchError, Preempted
from trainer.history import EVENTS_FILE, SILENT_SECONDS, STATE_FILE, Run
from trainer.report import REPORT_FILE, write_report
from zorse_common.errors import StorageError, ZorseError
from zorse_common.storage import Storage

BEAT_SECONDS = SILENT_SECONDS / 4


def claim(storage: Storage, *, wait: bool) -> None:
    """Check that no living driver trains in this folder.

    A driver says every `BEAT_SECONDS` that it lives. Where one has done so lately, `wait` waits to see whether it does
    again, since a driver that was killed does not.

    Raises:
        ConfigError: another driver trains there.
    """
    first = run = Run(storage)
    while run.state == "running" and run.driver and not _is_dead(run.driver):
        if not wait or run.time != first.time:
            raise ConfigError(
                f"run.dir {storage.uri} is being trained by process {run.driver['pid']} on {run.driver['host']}: "
                "stop that one first, or choose another run.dir"
            )
        time.sleep(1)
        run = Run(storage)


def _is_dead(driver: dict[str, Any]) -> bool:
    """Whether this machine can tell that `driver` has ended."""
    if driver["host"] != platform.node():
        return False
    try:
        os.kill(driver["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    # In containers, the process before this one may well have had its number.
    return bool(driver["pid"] == os.getpid())


class Record:
    """A context in which the run goes on; how it is left is the state that the run ends in."""

    def __init__(self, storage: Storage, show: Callable[[Update], None], *, beat_seconds: float = BEAT_SECONDS) -> None:
        """Updates go on to `show`; the record is written anew every `beat_seconds`."""
        self._beat_seconds = beat_seconds
        self._storage, self._show = storage, show
        self._lines = storage.read(EVENTS_FILE).decode() if storage.exists(EVENTS_FILE) else ""
        self._told: tuple[str, ...] = ()
        self._seen = 0
        self._driver = {"host": platform.node(), "pid": os.getpid(), "token": uuid.uuid4().hex}
        self._displaced = False
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True, name="record")

    def __enter__(self) -> Self:
        self._state("running")
        self._heart.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._heart.join()
        if self._displaced:
            return
        if isinstance(error, Preempted):
            self._state("preempted", str(error))
            self._event(f"preempted: {error}")
        elif isinstance(error, ZorseError):
            self._state("failed", str(error))
        else:
            self._state("finished" if error is None else "aborted")
        try:
            write_report(self._storage)
        except (OSError, StorageError) as problem:
            self._event(f"{REPORT_FILE} was not written: {problem}")

    def update(self, update: Update) -> None:
        """Write down the workers' new events, and hand all on.

        Raises:
            LaunchError: another driver, which started at the same moment, trains in this folder now.
        """
        if self._displaced:
            raise LaunchError(f"another driver trains in {self._storage.uri} too: this one ends, with nothing lost")
        self._seen = update.seen
        for message in update.events[len(self._told) :]:
            self._event(message)
        self._told = update.events
        self._show(update)

    def _beat(self) -> None:
        while not self._ended.wait(self._beat_seconds):
            # A storage that fails now may answer the next time.
            with contextlib.suppress(Exception):
                other = Run(self._storage)
                self._displaced = other.driver not in (None, self._driver) and other.state == "running"
            if not self._displaced:
                self._state("running")

    def _state(self, state: str, reason: str | None = None) -> None:
        content = {
            "state": state,
            "reason": reason,
            "images_seen": self._seen,
            "time": _now(),
            "driver": self._driver,
            "environment": {"python": platform.python_version(), "platform": platform.platform(), **_versions()},
        }
        # What the run ends with matters more than that it cannot be written down.
        with contextlib.suppress(OSError):
            self._storage.write(STATE_FILE, (json.dumps(content, indent=2) + "\n").encode())

    def _event(self, message: str) -> None:
        self._lines += json.dumps({"time": _now(), "images": self._seen, "event": message}) + "\n"
        with contextlib.suppress(OSError):
            self._storage.write(EVENTS_FILE, self._lines.encode())


def _versions() -> dict[str, str]:
    return {package: metadata.version(package) for package in ("torch", "deepspeed", "ray")}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
