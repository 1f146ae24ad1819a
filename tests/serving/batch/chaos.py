"""Kills the processes of batch jobs at random moments, and repeats their commands until they are done."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import psutil

from serving.batch.output import RECORDS, REPORT, SHARDS
from tests.cluster.commands import none_ignored
from zorse_common.storage import Storage

Victim = Literal["actor", "driver", "everything", "raylet", "gcs", "ctrl-c"]
"""What is killed; with "ctrl-c" the command receives SIGINT."""
VICTIMS: tuple[Victim, ...] = get_args(Victim)
STOPPED = 75
"""The exit code of a command that was stopped by a signal."""
_MOST_RUNS = 6
_RUN_SECONDS = 600
_POLL_SECONDS = 0.005


@dataclass(frozen=True)
class Schedule:
    """What is killed, in each run after how many new files of the output."""

    kills: tuple[tuple[Victim, int], ...]

    @staticmethod
    def seeded(seed: int, files: int) -> Schedule:
        """Return one or two kills, each after up to `files` new files."""
        draws = random.Random(seed)
        return Schedule(tuple((draws.choice(VICTIMS), draws.randrange(files)) for _ in range(draws.randint(1, 2))))


def run_until_done(command: list[str], output: str, schedule: Schedule, log: Path) -> list[int]:
    """Run `zorse` with the words `command`, kill by the schedule, and repeat. Returns the exit codes of the runs.

    Raises AssertionError if each run ended before there was anything to kill, or if the last line of one that failed is
    no error, unless nothing was left to write one.
    """
    codes, kills = [], 0
    for run in range(_MOST_RUNS):
        process = start(command, log)
        try:
            if run < len(schedule.kills):
                kills += _kill_after(process, Storage(output), *schedule.kills[run])
            codes.append(process.wait(timeout=_RUN_SECONDS))
        finally:
            _end(process)
        if codes[-1] and not (run < len(schedule.kills) and schedule.kills[run][0] == "everything"):
            lines = log.read_text(errors="replace").splitlines()
            assert lines[-1].startswith("error: "), f"{schedule}: {lines[-5:]}"
        if codes[-1] == 0 and run >= len(schedule.kills) - 1:
            assert kills, f"{schedule}: every run ended before its kill"
            return codes
    raise AssertionError(f"{schedule}: not done after {codes}\n{log.read_text(errors='replace')}")


def start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start `zorse` with the words `command`, which writes to `log`."""
    with log.open("ab") as stream, none_ignored():
        return subprocess.Popen(
            [sys.executable, "-m", "zorse", *command], stdout=stream, stderr=stream, start_new_session=True
        )


def run_together(
    commands: list[list[str]], logs: Path, first_killed_at: tuple[str, int] | None = None
) -> list[tuple[int, str]]:
    """Run several commands of `zorse` at once. Returns the exit code of each and what it wrote.

    With `first_killed_at`, an output and a number of files, all processes of the first one are killed once it has them.
    """
    files = [logs / f"log{number}" for number in range(len(commands))]
    processes = [start(command, log) for command, log in zip(commands, files, strict=True)]
    try:
        if first_killed_at is not None:
            output, files_written = first_killed_at
            assert _kill_after(processes[0], Storage(output), "everything", files_written)
        codes = [process.wait(timeout=_RUN_SECONDS) for process in processes]
    finally:
        for process in processes:
            _end(process)
    return [(code, log.read_text(errors="replace")) for code, log in zip(codes, files, strict=True)]


def contents(output: str) -> dict[str, bytes]:
    """Return every file of an output by its path; the report, which has times, is left out."""
    storage = Storage(output)
    return {name: storage.read(name) for name in storage.tree().sizes if name != REPORT}


def _kill_after(process: subprocess.Popen[bytes], output: Storage, victim: Victim, files: int) -> bool:
    """Kill `victim` when the command has written `files` new files, or let it end. Returns whether it was killed."""
    before = _count(output)
    while process.poll() is None:
        if _count(output) >= before + files and (targets := _targets(process.pid, victim)):
            for target in targets:
                _send(target, signal.SIGINT if victim == "ctrl-c" else signal.SIGKILL)
            return True
        try:
            process.wait(timeout=_POLL_SECONDS)
        except subprocess.TimeoutExpired:
            continue
    return False


def _count(output: Storage) -> int:
    """Return the number of records, and of files and folders of shards."""
    shards = output / SHARDS
    return len((output / RECORDS).files()) + len(shards.files()) + len(shards.folders())


def _targets(front: int, victim: Victim) -> list[psutil.Process]:
    """Return the processes of the command `front` to kill; none while they are not there yet."""
    try:
        children = psutil.Process(front).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    if victim == "everything":
        return [psutil.Process(front), *children]
    if victim == "ctrl-c":
        return [psutil.Process(front)]
    if victim == "driver":
        return children[:1]
    marks = {"actor": "MapWorker", "raylet": "raylet/raylet", "gcs": "gcs/gcs_server"}
    return [child for child in children if marks[victim] in _command(child)][:1]


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()[:1])
    except psutil.Error:
        return ""


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:
        return


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a command that is still running after a failure of the test."""
    if process.poll() is None:
        for target in _targets(process.pid, "everything"):
            _send(target, signal.SIGKILL)
        process.wait()
