"""Turns the signals that stop a command into an event that the running stage can check."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator

SAME_REQUEST_SECONDS = 1.0
"""Signals within this time count as one request: `timeout` and cgroup managers send a signal more than once."""


@contextlib.contextmanager
def stop_requested(
    on_first: Callable[[], None] = lambda: None, clock: Callable[[], float] = time.monotonic
) -> Iterator[threading.Event]:
    """Yield an event that the first SIGTERM or SIGINT sets; a later SIGINT raises `KeyboardInterrupt`.

    A later SIGTERM changes nothing: supervisors repeat it while they wait. A SIGINT within `SAME_REQUEST_SECONDS` of
    the first signal is part of the same request. `on_first` is called in the signal handler after the event is set.
    `clock` returns seconds. The previous handlers are restored afterwards. Only the main thread can handle signals: in
    other threads no signal sets the event.
    """
    stop = threading.Event()
    since = 0.0

    def handle(number: int, frame: object) -> None:
        nonlocal since
        if not stop.is_set():
            since = clock()
            stop.set()
            on_first()
        elif number == signal.SIGINT and clock() - since > SAME_REQUEST_SECONDS:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
