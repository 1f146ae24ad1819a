"""The driver's journal of a run: its state in `run.json`, its events in `events.jsonl`, and the lock on its folder."""

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

from trainer.errors import ConfigError, LaunchError, Preempted
from trainer.history import EVENTS_FILE, SILENT_SECONDS, STATE_FILE, RunHistory
from trainer.progress_actor import Update
from trainer.report.page import REPORT_FILE, write_report
from zorse_common.errors import StorageError, ZorseError
from zorse_common.storage import Storage

HEARTBEAT_SECONDS = SILENT_SECONDS / 4


def acquire_run_folder(storage: Storage, *, wait: bool) -> None:
    """Check that no living driver trains in this folder.

    A driver writes a heartbeat every `HEARTBEAT_SECONDS`. If the last one is recent, the driver may have been killed
    since. With `wait` the function waits for the next heartbeat, or until the driver counts as dead.

    Raises:
        ConfigError: another driver trains there.
    """
    first = run = RunHistory(storage)
    while run.state == "running" and run.driver and not _is_dead(run.driver):
        if not wait or run.time != first.time:
            raise ConfigError(
                f"run.dir {storage.uri} is being trained by process {run.driver['pid']} on {run.driver['host']}: "
                "stop that one first, or choose another run.dir"
            )
        time.sleep(1)
        run = RunHistory(storage)


def _is_dead(driver: dict[str, Any]) -> bool:
    """Return whether `driver` ran on this machine and has certainly ended."""
    if driver["host"] != platform.node():
        return False
    try:
        os.kill(driver["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    # In containers, the process before this one often had the same number.
    return bool(driver["pid"] == os.getpid())


class RunJournal:
    """A context in which a run is trained. The way the context is left decides the state in which the run ends."""

    def __init__(
        self, storage: Storage, show: Callable[[Update], None], *, heartbeat_seconds: float = HEARTBEAT_SECONDS
    ) -> None:
        """Each update is passed on to `show`. The run's state is written every `heartbeat_seconds`."""
        self._heartbeat_seconds = heartbeat_seconds
        self._storage, self._show = storage, show
        self._lines = storage.read(EVENTS_FILE).decode() if storage.exists(EVENTS_FILE) else ""
        self._seen = 0
        self._driver = {"host": platform.node(), "pid": os.getpid(), "token": uuid.uuid4().hex}
        self._displaced = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._heartbeat, daemon=True, name="journal")

    def __enter__(self) -> Self:
        self._write_state("running")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if self._displaced:
            return
        if isinstance(error, Preempted):
            self._write_state("preempted", str(error))
            self._write_event(f"preempted: {error}")
        elif isinstance(error, ZorseError):
            self._write_state("failed", str(error))
        else:
            self._write_state("finished" if error is None else "aborted")
        try:
            write_report(self._storage)
        except (OSError, StorageError) as problem:
            self._write_event(f"{REPORT_FILE} was not written: {problem}")

    def update(self, update: Update) -> None:
        """Write the events of `update` to the run's folder, and pass it on to `show`.

        Raises:
            LaunchError: another driver, which started at the same moment, trains in this folder now.
        """
        if self._displaced:
            raise LaunchError(f"another driver trains in {self._storage.uri} too: this one ends, with nothing lost")
        self._seen = update.seen
        for message in update.events:
            self._write_event(message)
        self._show(update)

    def _heartbeat(self) -> None:
        while not self._ended.wait(self._heartbeat_seconds):
            # A storage that fails now may answer the next time.
            with contextlib.suppress(Exception):
                other = RunHistory(self._storage)
                self._displaced = other.driver not in (None, self._driver) and other.state == "running"
            if not self._displaced:
                self._write_state("running")

    def _write_state(self, state: str, reason: str | None = None) -> None:
        content = {
            "state": state,
            "reason": reason,
            "images_seen": self._seen,
            "time": _now(),
            "driver": self._driver,
            "environment": {"python": platform.python_version(), "platform": platform.platform(), **_versions()},
        }
        # An error here must not hide the error with which the run ends.
        with contextlib.suppress(OSError):
            self._storage.write(STATE_FILE, (json.dumps(content, indent=2) + "\n").encode())

    def _write_event(self, message: str) -> None:
        self._lines += json.dumps({"time": _now(), "images": self._seen, "event": message}) + "\n"
        with contextlib.suppress(OSError):
            self._storage.write(EVENTS_FILE, self._lines.encode())


def _versions() -> dict[str, str]:
    return {package: metadata.version(package) for package in ("torch", "deepspeed", "ray")}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
