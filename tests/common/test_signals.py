"""The event that signals set to stop a command."""

from __future__ import annotations

import contextlib
import signal
import threading

import pytest

from zorse_common.signals import SAME_REQUEST_SECONDS, stop_requested


@pytest.mark.parametrize(("number", "aborts"), [(signal.SIGTERM, False), (signal.SIGINT, True)])
def test_first_signal_requests_a_stop_and_a_later_sigint_raises(number: signal.Signals, aborts: bool) -> None:
    now, calls = [10.0], []
    before = signal.getsignal(number)
    with stop_requested(lambda: calls.append("first"), clock=lambda: now[0]) as stop:
        assert not stop.is_set()
        signal.raise_signal(number)
        now[0] += SAME_REQUEST_SECONDS
        signal.raise_signal(number)
        assert (stop.is_set(), calls) == (True, ["first"])
        now[0] += 0.1
        with pytest.raises(KeyboardInterrupt) if aborts else contextlib.nullcontext():
            signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_other_threads_get_an_event_and_no_handler() -> None:
    states = []

    def work() -> None:
        with stop_requested() as stop:
            states.append(stop.is_set())

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert states == [False]
    assert signal.getsignal(signal.SIGTERM) is before
