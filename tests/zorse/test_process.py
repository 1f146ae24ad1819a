"""The front process, which receives signals, and the worker in a new session, which does the work."""

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
from zorse_common.private_ray import RAY_FOLDERS, ray_folder_prefix

pytestmark = pytest.mark.timeout(300)

PROGRAM = """
import os, signal, subprocess, sys, time
from zorse.process import run_in_new_session

def work():
    received = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: received.append(signal.Signals(number).name))
    {setup}
    print(os.getpid(), flush=True)
    while not received:
        signal.pause()
    sys.stdin.readline()
    open(sys.argv[1], "w").write(" ".join(received))
    sys.exit(7)

run_in_new_session(work)
"""


@contextmanager
def _running(
    record: Path, setup: str = "pass", before: str = ""
) -> Iterator[tuple[subprocess.Popen[str], psutil.Process]]:
    """Start `PROGRAM` and yield its front process and its worker.

    After a signal and a line on its standard input, the worker writes the names of its signals to the file `record` and
    exits with code 7.
    """
    code = before + PROGRAM.format(setup=setup)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "start_new_session": True}
    with none_ignored():
        front = subprocess.Popen([sys.executable, "-c", code, str(record)], **pipes)
    try:
        worker = psutil.Process(int(front.stdout.readline()))
        yield front, worker
    finally:
        front.kill()
        front.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_to_the_group_reaches_the_worker_once_and_its_exit_code_is_returned(
    number: signal.Signals, tmp_path: Path
) -> None:
    with _running(tmp_path / "signals") as (front, worker):
        assert (worker.ppid(), os.getsid(worker.pid)) == (front.pid, worker.pid)
        for _ in range(3):  # `timeout` sends a signal more than once, too
            os.killpg(front.pid, number)
        front.communicate("\n")
    assert front.returncode == 7
    assert (tmp_path / "signals").read_text() == number.name


def test_hangup_reaches_the_worker_as_sigterm(tmp_path: Path) -> None:
    with _running(tmp_path / "signals") as (front, _):
        front.send_signal(signal.SIGHUP)
        front.communicate("\n")
    assert (tmp_path / "signals").read_text() == "SIGTERM"


def test_signals_ignored_at_the_start_stay_ignored(tmp_path: Path) -> None:
    nohup = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    with _running(tmp_path / "signals", before=nohup) as (front, worker):
        front.send_signal(signal.SIGHUP)
        worker.send_signal(signal.SIGHUP)
        front.send_signal(signal.SIGINT)
        front.communicate("\n")
    assert (tmp_path / "signals").read_text() == "SIGINT"


@pytest.mark.skipif(sys.platform != "linux", reason="no other system tells a process that its parent has ended")
def test_worker_is_terminated_if_the_front_process_is_killed(tmp_path: Path) -> None:
    with _running(tmp_path / "signals") as (front, worker):
        front.kill()
        front.communicate("\n")
        worker.wait(30)
    assert (tmp_path / "signals").read_text() == "SIGTERM"


def test_killed_worker_leaves_no_process_and_no_ray_folder(tmp_path: Path) -> None:
    # A new process group, as Ray gives its workers.
    setup = 'print(subprocess.Popen(["sleep", "1000"], process_group=0).pid, flush=True)'
    with _running(tmp_path / "signals", setup=setup) as (front, other):
        worker = psutil.Process(int(front.stdout.readline()))
        folder = RAY_FOLDERS / f"{ray_folder_prefix(worker.pid)}test"
        (folder / "inner").mkdir(parents=True)
        worker.kill()
        front.wait()
        assert front.returncode == 128 + signal.SIGKILL
        psutil.wait_procs([other], timeout=30)
        assert not other.is_running() or other.status() == psutil.STATUS_ZOMBIE
        assert not folder.exists()


@pytest.mark.parametrize(
    ("ends", "code", "how"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", 128 + signal.SIGKILL, "SIGKILL"),
        ("os._exit(1)", 1, "exit code 1"),  # as Ray ends a process that lost its cluster
        ("os._exit(0)", 0, "exit code 0"),
        ("sys.exit(3)", 3, None),
        ("None", 0, None),
    ],
)
def test_worker_that_ends_suddenly_is_one_line(ends: str, code: int, how: str | None) -> None:
    program = f"import os, signal, sys; from zorse.process import *; run_in_new_session(lambda: {ends})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert done.returncode == code
    assert done.stderr.count("\n") == (how is not None)
    assert how is None or f"error: the process of this command ended suddenly ({how}): it was killed" in done.stderr


def test_terminal_suspends_and_continues_both_processes(tmp_path: Path) -> None:
    with _running(tmp_path / "signals") as (front, worker):
        front.send_signal(signal.SIGTSTP)
        os.waitid(os.P_PID, front.pid, os.WSTOPPED)
        # The signal was sent before the front process stopped itself; the system delivers it some time later.
        while worker.status() != psutil.STATUS_STOPPED:
            os.sched_yield()
        front.send_signal(signal.SIGCONT)
        front.send_signal(signal.SIGTERM)
        front.communicate("\n")
    assert front.returncode == 7


def test_closed_terminal_lets_the_worker_stop_in_order(tmp_path: Path) -> None:
    """Writing to a closed terminal fails; that error must not end the worker."""
    setup = (
        "signal.signal(signal.SIGTERM, "
        'lambda number, frame: received.append("SIGTERM") or print("stopping", flush=True))'
    )
    code = PROGRAM.format(setup=setup).replace("sys.stdin.readline()", 'print("done", flush=True)')
    controller, terminal = os.openpty()
    # The front process becomes the leader of the terminal's session, as a shell is, and gets SIGHUP when it closes.
    acquire = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    streams = {"stdin": terminal, "stdout": terminal, "stderr": terminal}
    command = [sys.executable, "-c", acquire + code, str(tmp_path / "signals")]
    with none_ignored():
        front = subprocess.Popen(command, start_new_session=True, **streams)
    os.close(terminal)
    shown = b""
    while not shown.endswith(b"\n"):
        shown += os.read(controller, 100)
    os.close(controller)
    assert front.wait(30) == 7
    assert (tmp_path / "signals").read_text() == "SIGTERM"
