"""How the demo counts its requests."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from serving.errors import ServerError
from zorse.demo import MOST_ERRORS, Asked

BLACK = np.zeros((2, 2, 1), dtype=np.uint8)


def _white_if(sound: bool) -> NDArray[np.uint8]:
    if not sound:
        raise ServerError("the queue is full", 503, "overloaded")
    return BLACK + np.uint8(255)


def test_a_failed_request_is_counted_and_its_image_is_black() -> None:
    asked = Asked()
    answers = [asked.call(BLACK, _white_if, sound).max() for sound in (True, False, True)]
    assert answers == [255, 0, 255]
    assert (asked.requests, asked.errors, asked.first_error) == (3, 1, "the queue is full")


def test_a_hopeless_server_ends_the_demo() -> None:
    asked = Asked()
    for _ in range(MOST_ERRORS):
        asked.call(BLACK, _white_if, False)
    with pytest.raises(ServerError, match="the queue is full"):
        asked.call(BLACK, _white_if, False)
