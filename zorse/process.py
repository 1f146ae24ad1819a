"""The two processes of a command: the front one, which others see and signal, and the working one behind it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from zorse_common.own_ray import FOLDERS, folder_prefix
from zorse_common.signals import SAME_SECONDS

_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


def run_behind(command: Callable[[], None]) -> None:
    """Run `command` in a process with a session of its own, wait for it, and exit as it does.

    Ray starts its processes in the process group of the one that calls it. A signal to a whole group would end them
    before the command can write its checkpoint or answer its requests. So the front process stays in the group and
    forwards SIGTERM, SIGINT and SIGHUP to the working process, which Ray's processes belong to. Signals that were
    ignored at the start, as SIGHUP is under nohup, stay ignored. SIGHUP is to the working process a SIGTERM.

    When the front process is killed, Linux sends the working process SIGTERM; macOS has no such call, and there the
    command goes on. When the working process is killed, the front process ends what that has started.

    Call it before any thread runs: a fork copies the calling thread alone.
    """
    stops = [number for number in _STOPS if signal.getsignal(number) is not signal.SIG_IGN]
    front = os.getpid()
    # A signal in between waits until there is a handler for it.
    awaited = [*stops, signal.SIGTSTP, signal.SIGCONT]
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    worker = os.fork()
    if worker:
        _forward_to(worker, stops)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, awaited)
        sys.exit(_wait(worker))
    os.setsid()
    _end_with(front)
    _handle(stops)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, awaited)
    command()


def _forward_to(worker: int, stops: list[signal.Signals]) -> None:
    """Hand `stops` on to the process `worker`, and have it stopped and continued by the terminal with this one."""
    last: dict[int, float] = {}

    def forward(number: int, frame: object) -> None:
        now = time.monotonic()
        if now - last.get(number, -SAME_SECONDS) >= SAME_SECONDS:
            last[number] = now
            os.kill(worker, number)

    def suspend(number: int, frame: object) -> None:
        os.kill(worker, signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)

    for number in stops:
        signal.signal(number, forward)
    signal.signal(signal.SIGCONT, lambda number, frame: os.kill(worker, number))
    if signal.getsignal(signal.SIGTSTP) is not signal.SIG_IGN:
        signal.signal(signal.SIGTSTP, suspend)


def _wait(worker: int) -> int:
    """Wait for the process `worker`, end what it has left running, and return the exit code of a shell for it."""
    # Not reaped yet, so that its number stays that of its session.
    os.waitid(os.P_PID, worker, os.WEXITED | os.WNOWAIT)
    _end_session(worker)
    code = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    for folder in FOLDERS.glob(f"{folder_prefix(worker)}*"):
        shutil.rmtree(folder, ignore_errors=True)
    return code if code >= 0 else 128 - code


def _end_session(session: int) -> None:
    """Kill the processes of a session whose leader has ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(session, signal.SIGKILL)
    # Ray gives its workers process groups of their own.
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(int(entry.name)) == session and int(entry.name) != session:
                os.kill(int(entry.name), signal.SIGKILL)


def _end_with(front: int) -> None:
    """Have Linux send this process SIGTERM when its parent, the process `front`, ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != front:
        sys.exit(128 + signal.SIGTERM)


def _handle(stops: list[signal.Signals]) -> None:
    """Exit on `stops` such that temporary files are removed; a stage with an order of its own replaces these."""
    terminals = [number for number in (0, 1, 2) if _is_terminal(number)]

    def hang_up(number: int, frame: object) -> None:
        # A closed terminal fails every write, which would end the command before it has stopped well.
        nowhere = os.open(os.devnull, os.O_RDWR)
        for terminal in terminals:
            os.dup2(nowhere, terminal)
        os.close(nowhere)
        signal.raise_signal(signal.SIGTERM)

    for number in stops:
        stop = hang_up if number == signal.SIGHUP else lambda number, frame: sys.exit(128 + number)
        signal.signal(number, stop)


def _is_terminal(number: int) -> bool:
    with contextlib.suppress(OSError):
        return os.isatty(number)
    return False
