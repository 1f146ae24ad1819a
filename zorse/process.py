"""Splits a command into two processes: one that receives signals, and one in another session that does the work.

The front process is the one that the shell started. The worker is its child.
"""

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

from zorse_common.private_ray import RAY_FOLDERS, ray_folder_prefix
from zorse_common.signals import SAME_REQUEST_SECONDS

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
_ENDED = b"."
"""What a worker tells the front process when its command has returned or raised an exception."""
_WHY = (
    "it was killed, the machine has too little memory, or Ray lost its cluster. "
    "Start it again: a batch job continues, and a run does with --resume"
)


def run_in_new_session(command: Callable[[], None]) -> None:
    """Run `command` in a child process with a new session, wait for it, and exit with its exit code.

    Ray starts its processes in the process group of its caller. A signal to the whole group would end Ray before the
    command can write its checkpoint or answer its requests. Therefore only the front process stays in the group. It
    forwards SIGTERM, SIGINT and SIGHUP to the worker, whose session holds Ray's processes. Signals that were ignored
    at the start, as SIGHUP is under nohup, stay ignored. The worker treats SIGHUP as SIGTERM.

    If the front process is killed, Linux sends the worker SIGTERM. macOS has no such call: there the worker continues.
    If the worker is killed, or ended by a library, the front process prints a line about it. It kills the processes
    that the worker started and left.

    Call this function before any thread runs: fork copies only the calling thread.
    """
    stops = [number for number in _STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    front = os.getpid()
    # Signals that arrive before their handlers are installed stay pending.
    blocked = [*stops, signal.SIGTSTP, signal.SIGCONT]
    signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    told, tell = os.pipe()
    os.set_blocking(told, False)
    worker = os.fork()
    if worker:
        _forward_to(worker, stops)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
        code = _wait(worker)
        if not _has_ended_itself(told):
            how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
            print(f"error: the process of this command ended suddenly ({how}): {_WHY}", file=sys.stderr)  # noqa: T201
        sys.exit(code if code >= 0 else 128 - code)  # as shells do
    os.setsid()
    _terminate_with_parent(front)
    _install_stop_handlers(stops)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
    try:
        command()
    finally:
        os.write(tell, _ENDED)


def _has_ended_itself(told: int) -> bool:
    """Return whether a worker that has ended wrote `_ENDED` to the pipe `told`."""
    with contextlib.suppress(BlockingIOError):
        return os.read(told, 1) == _ENDED
    return False


def _forward_to(worker: int, stops: list[signal.Signals]) -> None:
    """Forward the signals `stops` to the process `worker`, and suspend and continue it with this process."""
    last: dict[int, float] = {}

    def forward(number: int, frame: object) -> None:
        now = time.monotonic()
        if now - last.get(number, -SAME_REQUEST_SECONDS) >= SAME_REQUEST_SECONDS:
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
    """Wait for the process `worker`, kill what it left running, and return its exit code: -n if signal n ended it."""
    # WNOWAIT keeps the process id taken, so that it still names the worker's session in _end_session.
    os.waitid(os.P_PID, worker, os.WEXITED | os.WNOWAIT)
    _end_session(worker)
    code = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    for folder in RAY_FOLDERS.glob(f"{ray_folder_prefix(worker)}*"):
        shutil.rmtree(folder, ignore_errors=True)
    return code


def _end_session(session: int) -> None:
    """Kill the processes of `session`, whose leader has ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(session, signal.SIGKILL)
    # Ray moves its workers to other process groups, which killpg does not reach.
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(int(entry.name)) == session and int(entry.name) != session:
                os.kill(int(entry.name), signal.SIGKILL)


def _terminate_with_parent(parent: int) -> None:
    """Have Linux send this process SIGTERM when its parent process ends; exit if it has ended already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(128 + signal.SIGTERM)


def _install_stop_handlers(stops: list[signal.Signals]) -> None:
    """Make the signals `stops` raise SystemExit, so that temporary files are removed.

    Stages that must stop in a certain order, such as training and serving, replace these handlers.
    """
    terminals = [number for number in (0, 1, 2) if _is_terminal(number)]

    def hang_up(number: int, frame: object) -> None:
        # Writing to a closed terminal raises OSError, which would interrupt the orderly stop.
        null = os.open(os.devnull, os.O_RDWR)
        for terminal in terminals:
            os.dup2(null, terminal)
        os.close(null)
        signal.raise_signal(signal.SIGTERM)

    for number in stops:
        stop = hang_up if number == signal.SIGHUP else lambda number, frame: sys.exit(128 + number)
        signal.signal(number, stop)


def _is_terminal(number: int) -> bool:
    with contextlib.suppress(OSError):
        return os.isatty(number)
    return False
