"""Requests that schemathesis makes from the server's own OpenAPI documents: no 5xx, and answers as documented."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.serving.live import live_server
from tests.serving.tiny import conditional_manifest, generator_manifest, inverter_manifest

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
DOCUMENTS = ["", *(f"/v2/models/{name}" for name in ("digits", "invert", "classes"))]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with live_server(manifests=[generator_manifest(), inverter_manifest(), conditional_manifest()]) as url:
        yield url


@pytest.mark.parametrize("document", DOCUMENTS)
def test_answers_to_any_request_of_the_document_conform_to_it(url: str, document: str) -> None:
    schema = schemathesis.openapi.from_url(f"{url}{document}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    assert operations
    for operation in operations:

        @settings(max_examples=20, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def answers(case: schemathesis.Case) -> None:
            case.call_and_validate(checks=CHECKS)

        answers()
