"""Stops a server: answers the requests in flight, then ends Ray Serve and Ray."""

from __future__ import annotations

import contextlib
import io
import threading
import time
from collections.abc import Callable
from contextlib import redirect_stdout

from serving.config import DRAIN_SECONDS


def stop_applications() -> None:
    """Answer the requests in flight, then end Ray Serve and Ray. Each step has a time limit, in case Ray hangs."""
    import ray

    if not ray.is_initialized():
        return
    # Ray prints that the controller has failed, although Ray itself has just ended it.
    with redirect_stdout(io.StringIO()):
        try:
            _run_within(DRAIN_SECONDS + 10, _end_serve)
        finally:
            _run_within(10, ray.shutdown)


def _end_serve() -> None:
    from ray import serve

    from serving.deployment import GATEWAY

    # A shutdown of Ray Serve ends the proxy first, and with it the requests in flight: delete the applications before.
    # The gateway goes first: it would answer that there is no such model, where the proxy answers 503.
    for name in sorted(serve.status().applications, key=lambda name: name != GATEWAY):
        serve.delete(name, _blocking=False)
    while serve.status().applications:
        time.sleep(0.1)
    serve.shutdown()


def _run_within(seconds: float, work: Callable[[], object]) -> None:
    """Do `work` in a thread, and return after `seconds` even if it has not ended. Its exceptions are dropped."""

    def attempt() -> None:
        with contextlib.suppress(Exception):
            work()

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)
