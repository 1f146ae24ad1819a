"""Runs a server until a signal, and stops it: answers the requests in flight, then ends Ray Serve and Ray."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, redirect_stdout
from pathlib import Path
from typing import TypeVar

from serving.application_names import GATEWAY, is_ours
from serving.config import DRAIN_SECONDS
from serving.haproxy import program
from zorse_common.signals import stop_requested

T = TypeVar("T")

_LAST_ANSWERS_SECONDS = 1.0
"""How long HAProxy may take for its last answers: more than its attempts to reach a replica that has stopped."""


class _StoppedError(BaseException):
    """The process received a signal while the server was starting."""


def until_stopped(server: AbstractContextManager[T], announce: Callable[[T], None]) -> None:
    """Run `server` until SIGINT or SIGTERM. `announce` is called with what it yields.

    Raises:
        KeyboardInterrupt: on a second Ctrl-C.
    """
    ready = False

    def abandon() -> None:
        if not ready:
            raise _StoppedError

    with stop_requested(abandon) as stop:
        try:
            with server as started:
                ready = True
                announce(started)
                stop.wait()
        except (_StoppedError, SystemExit):
            # Ray's own signal handler, which is installed while Ray starts, raises SystemExit.
            return
        except Exception:
            # Ray's code turns what a signal handler raises into errors of its own.
            if ready or not stop.is_set():
                raise


def stop_applications(folder: str) -> None:
    """Answer the requests in flight, then end HAProxy, Ray Serve and Ray, whose files are in `folder`.

    Each step has a time limit, in case Ray hangs.
    """
    import ray

    if not ray.is_initialized():
        return
    # Ray prints that the controller has failed, although Ray itself has just ended it.
    with redirect_stdout(io.StringIO()):
        try:
            _run_within(DRAIN_SECONDS + 10, lambda: _end_serve(folder))
        finally:
            disconnect()


def stop_applications_of_cluster(*, ends_serve: bool) -> list[str]:
    """Delete the server's applications on a cluster that runs on, and return their names.

    With `ends_serve` Ray Serve ends too, unless it has the applications of others.
    """
    from ray import serve

    names: list[str] = []

    def end() -> None:
        names.extend(delete_applications())
        if ends_serve and not serve.status().applications:
            serve.shutdown()

    with redirect_stdout(io.StringIO()):
        _run_within(DRAIN_SECONDS + 10, end)
    return names


def disconnect() -> None:
    """End the connection to Ray."""
    import ray

    _run_within(10, ray.shutdown)


def _end_serve(folder: str) -> None:
    from ray import serve

    # A shutdown of Ray Serve ends the proxy first, and with it the requests in flight: delete the applications before.
    delete_applications()
    # Ray kills HAProxy, and with it answers on their way.
    _end_haproxy(folder)
    serve.shutdown()


def delete_applications() -> list[str]:
    """Have the server's applications answer the requests in flight, delete them, and return their names."""
    from ray import serve

    # The gateway goes first: it would answer that there is no such model, where the proxy answers 503.
    names = sorted(filter(is_ours, serve.status().applications), key=lambda name: name != GATEWAY)
    for name in names:
        serve.delete(name, _blocking=False)
    while not serve.status().applications.keys().isdisjoint(names):
        time.sleep(0.1)
    return names


def _end_haproxy(folder: str) -> None:
    """Have the HAProxy processes of the server close their port, and give them a moment for their last answers."""
    # Without it Ray Serve cannot start HAProxy again.
    program(folder).unlink(missing_ok=True)
    processes = _haproxy_processes(folder)
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGUSR1)
    end = time.monotonic() + _LAST_ANSWERS_SECONDS
    # They also wait for connections that are kept open without a request.
    while time.monotonic() < end and not set(processes).isdisjoint(_haproxy_processes(folder)):
        time.sleep(0.05)


def _haproxy_processes(folder: str) -> list[int]:
    """Return the ids of the processes that run HAProxy with a configuration in `folder`: after a reload several do."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if any(word.startswith(f"{folder}/".encode()) and word.endswith(b"/haproxy.cfg") for word in words):
                found.append(int(entry.name))
    return found


def _run_within(seconds: float, work: Callable[[], object]) -> None:
    """Do `work` in a thread, and return after `seconds` even if it has not ended. Its exceptions are dropped."""

    def attempt() -> None:
        with contextlib.suppress(Exception):
            work()

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)
