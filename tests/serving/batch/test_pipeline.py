"""The stages of a shard: in order, with bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from serving.batch.pipeline import MOST_HELD, ahead, windows

HALF = MOST_HELD // 2


def test_windows_end_before_their_values_cost_too_much() -> None:
    costs = [HALF, HALF, 1, 3 * MOST_HELD, 1, 1, 1, 1]
    found = list(windows(costs, 3, lambda cost: cost))
    assert found == [[HALF, HALF], [1], [3 * MOST_HELD], [1, 1, 1], [1]]


@pytest.mark.parametrize(("cost", "most"), [(1, 5), (HALF, 2), (MOST_HELD, 1), (MOST_HELD + 1, 1)])
def test_ahead_holds_few_costly_values(cost: int, most: int) -> None:
    waiting = 0
    found = []

    def values() -> Iterator[int]:
        nonlocal waiting
        for number in range(20):
            assert waiting <= most
            yield number
            waiting += 1

    with ThreadPoolExecutor(1) as pool:
        for value in ahead(pool, lambda number: -number, values(), 4, lambda number: cost):
            waiting -= 1
            found.append(value)
    assert found == [-number for number in range(20)]
