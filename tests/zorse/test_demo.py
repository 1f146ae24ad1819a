"""The demo's request counter."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from serving.errors import ServerError
from zorse.demo import MAX_ERRORS, RequestCounter

BLACK = np.zeros((2, 2, 1), dtype=np.uint8)


def _white_or_error(succeeds: bool) -> NDArray[np.uint8]:
    if not succeeds:
        raise ServerError("the queue is full", 503, "overloaded")
    return BLACK + np.uint8(255)


def test_request_counter_returns_black_images_for_failed_requests() -> None:
    counter = RequestCounter()
    brightness = [counter.call(BLACK, _white_or_error, succeeds).max() for succeeds in (True, False, True)]
    assert brightness == [255, 0, 255]
    assert (counter.requests, counter.errors, counter.first_error) == (3, 1, "the queue is full")


def test_request_counter_raises_after_too_many_errors() -> None:
    counter = RequestCounter()
    for _ in range(MAX_ERRORS):
        counter.call(BLACK, _white_or_error, False)
    with pytest.raises(ServerError, match="the queue is full"):
        counter.call(BLACK, _white_or_error, False)
