"""Stops a server: answers the requests in flight, then ends Ray Serve and Ray."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

from serving.application_names import GATEWAY
from serving.config import DRAIN_SECONDS
from serving.haproxy import program

_LAST_ANSWERS_SECONDS = 1.0
"""How long HAProxy may take for its last answers: more than its attempts to reach a replica that has stopped."""


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
            _run_within(10, ray.shutdown)


def _end_serve(folder: str) -> None:
    from ray import serve

    # A shutdown of Ray Serve ends the proxy first, and with it the requests in flight: delete the applications before.
    # The gateway goes first: it would answer that there is no such model, where the proxy answers 503.
    for name in sorted(serve.status().applications, key=lambda name: name != GATEWAY):
        serve.delete(name, _blocking=False)
    while serve.status().applications:
        time.sleep(0.1)
    # Ray kills HAProxy, and with it answers on their way.
    _end_haproxy(folder)
    serve.shutdown()


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
