"""The demo's figures against the bars they must clear."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from zorse.bars import missed_bars

GOOD: dict[str, Any] = {
    "gan": {"fd_untrained": 100.0, "fd_trained": 5.0, "class_shares": [0.02] * 9 + [0.0]},
    "cyclegan": {
        "AtoB": {"l1_identity": 0.5, "l1_affine": 0.4, "l1_translated": 0.3},
        "BtoA": {"l1_identity": 0.5, "l1_affine": 0.2, "l1_translated": 0.19},
    },
    "export": [{"model": "digits", "max_grey_diff": 1}, {"model": "stripes-AtoB", "max_grey_diff": 0}],
    "serve": {"requests": 825, "errors": 0, "first_error": None},
}
MISSES = [
    (("gan", "fd_trained"), 5.01, "gan: fd_trained 5.01 is not at most 5, 0.05 x fd_untrained"),
    (("gan", "fd_trained"), float("nan"), "gan: fd_trained nan is not at most 5, 0.05 x fd_untrained"),
    (("gan", "class_shares"), [0.12] * 8 + [0.019] * 2, "gan: 8 classes hold at least 2% of the digits, not 9"),
    (
        ("cyclegan", "AtoB", "l1_translated"),
        0.31,
        "cyclegan AtoB: l1_translated 0.31 is not at most 0.3, 0.6 x l1_identity",
    ),
    (("cyclegan", "BtoA", "l1_translated"), 0.2, "cyclegan BtoA: l1_translated 0.2 is not below l1_affine 0.2"),
    (("export", 1, "max_grey_diff"), 2, "export stripes-AtoB: max_grey_diff 2 is more than 1"),
    (("serve",), {"requests": 825, "errors": 3, "first_error": "no"}, "serve: 3 of 825 requests failed, the first: no"),
]


def _with(keys: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    summary = copy.deepcopy(GOOD)
    place: Any = summary
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    return summary


def test_figures_that_just_clear_the_bars_miss_none() -> None:
    assert missed_bars(GOOD) == []


@pytest.mark.parametrize(("keys", "value", "line"), MISSES)
def test_a_missed_bar_is_named(keys: tuple[str | int, ...], value: Any, line: str) -> None:
    assert missed_bars(_with(keys, value)) == [line]
