"""What the signals that stop a command do to the stage that is running."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator

SAME_SECONDS = 1.0
"""Signals this close together are one request: `timeout` and cgroup managers send each one more than once."""


@contextlib.contextmanager
def stop_requested(
    first: Callable[[], None] = lambda: None, clock: Callable[[], float] = time.monotonic
) -> Iterator[threading.Event]:
    """Yield an event that the first SIGTERM or SIGINT sets; a later SIGINT raises `KeyboardInterrupt`.

    Another SIGTERM changes nothing: supervisors repeat it while they wait. `first` is called in the handler once the
    event is set. A SIGINT within `SAME_SECONDS` of the first signal is part of the same request. The handlers from
    before stand again afterwards. Only the main thread can handle signals: elsewhere nothing sets the event.
    """
    stop = threading.Event()
    since = 0.0

    def ask(number: int, frame: object) -> None:
        nonlocal since
        if not stop.is_set():
            since = clock()
            stop.set()
            first()
        elif number == signal.SIGINT and clock() - since > SAME_SECONDS:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
