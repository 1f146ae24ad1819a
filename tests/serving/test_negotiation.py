"""The weights in headers of content negotiation."""

from __future__ import annotations

import pytest

from serving.negotiation import weights


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", {"": 1.0}),
        ("gzip", {"gzip": 1.0}),
        ("GZIP; Q=0.5 , br", {"gzip": 0.5, "br": 1.0}),
        ("image/png;level=1; q = 0.25", {"image/png": 0.25}),
        ("a;q=x, b;q=, c;q=nan, d;q=2, e;q=-1, f;q=1e-400", dict.fromkeys("abcdef", 0.0)),
    ],
)
def test_weights_are_those_of_the_elements(header: str, expected: dict[str, float]) -> None:
    assert weights(header) == expected
