"""The driver's journal: the lock on the run's folder, killed drivers, and how a run ended."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from trainer.errors import ConfigError, LaunchError, Preempted, WatchdogError
from trainer.history import SILENT_SECONDS, STATE_FILE, RunHistory
from trainer.journal import RunJournal, acquire_run_folder
from trainer.progress_actor import Update
from zorse_common.storage import Storage


def _say(folder: Path, state: str = "running", age: float = 0.0, host: str = "elsewhere", pid: int = 1) -> None:
    time = datetime.now(UTC) - timedelta(seconds=age)
    record = {"state": state, "time": time.isoformat(), "driver": {"host": host, "pid": pid}}
    Storage(folder).write(STATE_FILE, json.dumps(record).encode())


def test_acquire_refuses_a_folder_in_which_another_driver_trains(tmp_path: Path) -> None:
    _say(tmp_path, age=5)
    with pytest.raises(ConfigError, match=r"is being trained by process 1 on elsewhere: stop that one first"):
        acquire_run_folder(Storage(tmp_path), wait=False)


@pytest.mark.parametrize("state", ["finished", "preempted", "failed", "aborted"])
def test_acquire_accepts_a_run_that_ended(tmp_path: Path, state: str) -> None:
    _say(tmp_path, state)
    acquire_run_folder(Storage(tmp_path), wait=False)


def test_acquire_accepts_a_folder_without_a_run(tmp_path: Path) -> None:
    acquire_run_folder(Storage(tmp_path / "new"), wait=False)


def test_acquire_takes_a_silent_driver_for_dead(tmp_path: Path) -> None:
    _say(tmp_path, age=SILENT_SECONDS + 1)
    acquire_run_folder(Storage(tmp_path), wait=False)


def test_acquire_detects_a_killed_driver_of_this_machine(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    _say(tmp_path, host=platform.node(), pid=dead.pid)
    acquire_run_folder(Storage(tmp_path), wait=False)


def test_acquire_waits_until_a_driver_counts_as_dead(tmp_path: Path) -> None:
    _say(tmp_path, age=SILENT_SECONDS - 2)
    acquire_run_folder(Storage(tmp_path), wait=True)
    assert RunHistory(Storage(tmp_path)).state == "lost"


def test_acquire_stops_waiting_at_the_next_heartbeat(tmp_path: Path) -> None:
    _say(tmp_path, age=SILENT_SECONDS / 2)
    heartbeat = threading.Timer(1.5, _say, [tmp_path])
    heartbeat.start()
    with pytest.raises(ConfigError, match="is being trained"):
        acquire_run_folder(Storage(tmp_path), wait=True)
    heartbeat.join()


@pytest.mark.parametrize(
    ("end", "state", "reason"),
    [
        (None, "finished", None),
        (Preempted("stopped by a signal"), "preempted", "stopped by a signal"),
        (WatchdogError("NaN"), "failed", "NaN"),
        (KeyboardInterrupt(), "aborted", None),
    ],
)
def test_journal_writes_how_the_run_ended(
    tmp_path: Path, end: BaseException | None, state: str, reason: str | None
) -> None:
    def train() -> None:
        with RunJournal(Storage(tmp_path), lambda update: None):
            run = RunHistory(Storage(tmp_path))
            assert run.state == "running"
            assert run.driver is not None
            assert (run.driver["host"], run.driver["pid"]) == (platform.node(), os.getpid())
            if end is not None:
                raise end

    if end is None:
        train()
    else:
        with pytest.raises(type(end)):
            train()
    run = RunHistory(Storage(tmp_path))
    assert (run.state, run.reason) == (state, reason)


class Watched(Storage):
    """A storage that counts reads and writes, so that a test can wait for them."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.reads, self.writes = threading.Semaphore(0), threading.Semaphore(0)

    def read(self, name: str) -> bytes:
        content = super().read(name)
        self.reads.release()
        return content

    def write(self, name: str, content: bytes) -> None:
        super().write(name, content)
        self.writes.release()


def _wait_for(counted: threading.Semaphore, times: int) -> None:
    """Wait for `times` more calls."""
    while counted.acquire(blocking=False):
        continue
    for _ in range(times):
        assert counted.acquire(timeout=30)


def test_journal_of_two_simultaneous_drivers_ends_one(tmp_path: Path) -> None:
    storage = Watched(tmp_path)
    one, two = (RunJournal(storage, lambda update: None, heartbeat_seconds=0.01) for _ in range(2))

    def train() -> None:
        with one, two:
            # Which of them sees the other first depends on their threads.
            for _ in range(3000):
                one.update(Update())
                two.update(Update())
                _wait_for(storage.reads, 1)

    with pytest.raises(LaunchError, match="another driver trains in"):
        train()
    # The other one leaves the record of how it ended.
    assert RunHistory(Storage(tmp_path)).state == "failed"


def test_journal_writes_heartbeats(tmp_path: Path) -> None:
    storage = Watched(tmp_path)
    with RunJournal(storage, lambda update: None, heartbeat_seconds=0.01):
        _say(tmp_path, "unknown")
        _wait_for(storage.writes, 2)
        assert RunHistory(Storage(tmp_path)).state == "running"
