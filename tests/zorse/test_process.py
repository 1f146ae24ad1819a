"""The process that others see and signal, and the one behind it that does the work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.cluster.commands import none_ignored
from zorse_common.own_ray import FOLDERS, folder_prefix

pytestmark = pytest.mark.timeout(60)

PROGRAM = """
import os, signal, subprocess, sys, time
from zorse.process import run_behind

def work():
    said = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: said.append(signal.Signals(number).name))
    {setup}
    print(os.getpid(), flush=True)
    while not said:
        signal.pause()
    sys.stdin.readline()
    open(sys.argv[1], "w").write(" ".join(said))
    sys.exit(7)

run_behind(work)
"""


@contextmanager
def _running(
    said: Path, setup: str = "pass", before: str = ""
) -> Iterator[tuple[subprocess.Popen[str], psutil.Process]]:
    """The front process of a program that writes to `said` which signals it got, and its working one.

    It exits with 7 once it has had a signal and read a line.
    """
    code = before + PROGRAM.format(setup=setup)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "start_new_session": True}
    with none_ignored():
        front = subprocess.Popen([sys.executable, "-c", code, str(said)], **pipes)
    try:
        worker = psutil.Process(int(front.stdout.readline()))
        yield front, worker
    finally:
        front.kill()
        front.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_group_comes_once_and_the_exit_code_is_taken_over(
    number: signal.Signals, tmp_path: Path
) -> None:
    with _running(tmp_path / "said") as (front, worker):
        assert (worker.ppid(), os.getsid(worker.pid)) == (front.pid, worker.pid)
        for _ in range(3):  # as `timeout` does
            os.killpg(front.pid, number)
        front.communicate("\n")
    assert front.returncode == 7
    assert (tmp_path / "said").read_text() == number.name


def test_a_hang_up_is_a_termination(tmp_path: Path) -> None:
    with _running(tmp_path / "said") as (front, _):
        front.send_signal(signal.SIGHUP)
        front.communicate("\n")
    assert (tmp_path / "said").read_text() == "SIGTERM"


def test_what_was_ignored_at_the_start_stays_ignored(tmp_path: Path) -> None:
    nohup = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    with _running(tmp_path / "said", before=nohup) as (front, worker):
        front.send_signal(signal.SIGHUP)
        worker.send_signal(signal.SIGHUP)
        front.send_signal(signal.SIGINT)
        front.communicate("\n")
    assert (tmp_path / "said").read_text() == "SIGINT"


@pytest.mark.skipif(sys.platform != "linux", reason="no other system tells a process that its parent has ended")
def test_the_work_is_terminated_when_the_front_process_is_killed(tmp_path: Path) -> None:
    with _running(tmp_path / "said") as (front, worker):
        front.kill()
        front.communicate("\n")
        worker.wait(30)
    assert (tmp_path / "said").read_text() == "SIGTERM"


def test_what_killed_work_leaves_is_ended_and_removed(tmp_path: Path) -> None:
    # Ray's workers have process groups of their own.
    setup = 'print(subprocess.Popen(["sleep", "1000"], process_group=0).pid, flush=True)'
    with _running(tmp_path / "said", setup=setup) as (front, other):
        worker = psutil.Process(int(front.stdout.readline()))
        folder = FOLDERS / f"{folder_prefix(worker.pid)}test"
        (folder / "inner").mkdir(parents=True)
        worker.kill()
        front.wait()
        assert front.returncode == 128 + signal.SIGKILL
        psutil.wait_procs([other], timeout=30)
        assert not other.is_running() or other.status() == psutil.STATUS_ZOMBIE
        assert not folder.exists()


def test_the_terminal_stops_and_continues_both(tmp_path: Path) -> None:
    with _running(tmp_path / "said") as (front, worker):
        front.send_signal(signal.SIGTSTP)
        os.waitid(os.P_PID, front.pid, os.WSTOPPED)
        # Sent before the front process stopped itself; it is for the system to get to it.
        while worker.status() != psutil.STATUS_STOPPED:
            os.sched_yield()
        front.send_signal(signal.SIGCONT)
        front.send_signal(signal.SIGTERM)
        front.communicate("\n")
    assert front.returncode == 7


def test_a_closed_terminal_ends_the_work_in_its_order(tmp_path: Path) -> None:
    """Writing to a terminal that is gone fails, and must not be what ends the work."""
    setup = (
        'signal.signal(signal.SIGTERM, lambda number, frame: said.append("SIGTERM") or print("stopping", flush=True))'
    )
    code = PROGRAM.format(setup=setup).replace("sys.stdin.readline()", 'print("done", flush=True)')
    ours, theirs = os.openpty()
    # The leader of the terminal's session, as a shell is, which is told that the terminal is closed.
    take = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    command = [sys.executable, "-c", take + code, str(tmp_path / "said")]
    with none_ignored():
        front = subprocess.Popen(command, start_new_session=True, **streams)
    os.close(theirs)
    shown = b""
    while not shown.endswith(b"\n"):
        shown += os.read(ours, 100)
    os.close(ours)
    assert front.wait(30) == 7
    assert (tmp_path / "said").read_text() == "SIGTERM"
