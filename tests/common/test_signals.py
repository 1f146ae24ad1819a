"""What the signals that stop a command do."""

from __future__ import annotations

import contextlib
import signal
import threading

import pytest

from zorse_common.signals import SAME_SECONDS, stop_requested


@pytest.mark.parametrize(("number", "aborts"), [(signal.SIGTERM, False), (signal.SIGINT, True)])
def test_the_first_signal_asks_and_a_later_sigint_aborts(number: signal.Signals, aborts: bool) -> None:
    now, told = [10.0], []
    before = signal.getsignal(number)
    with stop_requested(lambda: told.append("asked"), clock=lambda: now[0]) as stop:
        assert not stop.is_set()
        signal.raise_signal(number)
        now[0] += SAME_SECONDS
        signal.raise_signal(number)
        assert (stop.is_set(), told) == (True, ["asked"])
        now[0] += 0.1
        with pytest.raises(KeyboardInterrupt) if aborts else contextlib.nullcontext():
            signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_another_thread_gets_an_event_that_no_signal_sets() -> None:
    found = []

    def work() -> None:
        with stop_requested() as stop:
            found.append(stop.is_set())

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]
    assert signal.getsignal(signal.SIGTERM) is before
