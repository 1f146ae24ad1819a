"""Thresholds of the demo's figures."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from zorse.thresholds import missed_thresholds

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


def _changed_summary(keys: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    summary = copy.deepcopy(GOOD)
    section: Any = summary
    for key in keys[:-1]:
        section = section[key]
    section[keys[-1]] = value
    return summary


def test_missed_thresholds_are_none_at_the_limits() -> None:
    assert missed_thresholds(GOOD) == []


@pytest.mark.parametrize(("keys", "value", "line"), MISSES)
def test_missed_thresholds_name_each_figure_beyond_its_limit(
    keys: tuple[str | int, ...], value: Any, line: str
) -> None:
    assert missed_thresholds(_changed_summary(keys, value)) == [line]
