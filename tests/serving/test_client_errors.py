"""Each code of the server is one class of error in the client, and the documentation lists them all."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving import errors
from serving.errors import InternalError, ServerError, ServingError, answered_error

PAGE = Path(__file__).parents[2] / "docs" / "client.md"
ANSWERED = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, ServingError) and (kind.status != 500 or kind is InternalError)
]


@pytest.mark.parametrize("kind", ANSWERED, ids=lambda kind: kind.__name__)
def test_answered_error_has_the_class_of_its_code(kind: type[ServingError]) -> None:
    error = answered_error("why", kind.status, kind.code)
    assert type(error) is kind
    assert (str(error), error.status, error.code) == ("why", kind.status, kind.code)
    assert f"`{kind.__name__}`" in PAGE.read_text(encoding="utf-8")


def test_answered_error_of_another_status_or_code() -> None:
    proxy = answered_error("why", 501, "unsupported")
    assert type(proxy) is errors.UnsupportedError
    assert proxy.status == 501
    unknown = answered_error("why", 418, "teapot")
    assert type(unknown) is ServerError
    assert (unknown.status, unknown.code) == (418, "teapot")
