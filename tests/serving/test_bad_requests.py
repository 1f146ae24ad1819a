"""Every bad request is refused with a status of 4xx, a code, and a line that helps."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from serving.config import AccessSettings
from serving.keys import plain_key
from tests.serving.bad_inference import BAD_INFERENCE
from tests.serving.bad_request import BadRequest
from tests.serving.bad_routes import BAD_ROUTES
from tests.serving.bad_verbs import BAD_VERBS
from tests.serving.live import live_server
from tests.serving.raw_http import exchange
from tests.serving.tiny import conditional_manifest, generator_manifest, inverter_manifest

KEY = "secret"
BAD_REQUESTS = (*BAD_INFERENCE, *BAD_VERBS, *BAD_ROUTES)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    access = AccessSettings(keys=(plain_key(KEY),), is_local=True)
    with live_server(
        manifests=[generator_manifest(), inverter_manifest(), conditional_manifest()], access=access
    ) as url:
        yield url


@pytest.mark.parametrize("bad", BAD_REQUESTS, ids=lambda bad: bad.name)
def test_bad_request_is_refused_with_a_line_that_helps(url: str, bad: BadRequest) -> None:
    status, headers, content = exchange(url, bad.method, bad.path, {"x-api-key": KEY, **bad.headers}, bad.body)
    answer = json.loads(content)
    assert (status, answer.get("code"), headers["content-type"]) == (bad.status, bad.code, "application/json"), answer
    assert answer.keys() == {"error", "code"}
    assert bad.word in answer["error"]
    assert len(answer["error"].splitlines()) == 1
    assert len(answer["error"]) < 1000


def test_bad_requests_are_many_and_each_has_its_name() -> None:
    names = [bad.name for bad in BAD_REQUESTS]
    assert len(set(names)) == len(names) >= 60
