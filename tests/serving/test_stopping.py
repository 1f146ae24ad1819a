"""A server that is stopped while it starts."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from serving.stopping import until_stopped


@contextmanager
def starting(message: str, *, is_signalled: bool) -> Iterator[None]:
    """Fail as Ray's compiled code does where a signal handler raises."""
    try:
        if is_signalled:
            signal.raise_signal(signal.SIGTERM)
        raise ValueError
    except BaseException as error:
        raise SystemError(message) from error
    yield


def test_signal_in_compiled_code_ends_the_start_in_order() -> None:
    until_stopped(starting("a result with an exception set", is_signalled=True), announce=lambda _: None)


def test_failure_in_compiled_code_is_raised() -> None:
    with pytest.raises(SystemError, match="a broken call"):
        until_stopped(starting("a broken call", is_signalled=False), announce=lambda _: None)
