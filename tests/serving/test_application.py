"""What surrounds every request: ids, failures in the log, the access log, and CORS."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.batching import Tensors
from serving.config import AccessSettings
from serving.errors import DeadlineError, OverloadedError
from serving.logs import log_file, write_log
from tests.serving.apps import server


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Path]:
    """Yield the log of this process."""
    logger = logging.getLogger("serving")
    level = logger.level
    write_log(tmp_path)
    yield log_file(tmp_path)
    for name in ("serving", "asyncio"):
        for handler in list(logging.getLogger(name).handlers):
            logging.getLogger(name).removeHandler(handler)
            handler.close()
        logging.getLogger(name).propagate = True
    logger.setLevel(level)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def failing(error: Exception) -> Any:
    async def submit(tensors: Tensors, deadline: float | None = None) -> Tensors:
        raise error

    return submit


def test_failures_inside_are_logged_once_with_their_trace_and_hidden_from_clients(log: Path) -> None:
    client = server(submit=failing(ValueError("secret weights")))
    response = client.post("/v2/models/digits/generate", headers={"x-request-id": "id 1"})
    assert (response.status_code, response.json()) == (500, {"error": "internal error", "code": "internal"})
    (line,) = lines(log)
    assert (line["request_id"], line["error"]) == ("id?1", "ValueError: secret weights")
    assert "in submit" in line["trace"]


def test_failures_of_other_routes_are_logged_once_and_hidden_from_clients(log: Path, tmp_path: Path) -> None:
    client = server(folder=tmp_path)
    (tmp_path / "metrics" / "counter_1-a.db").mkdir()
    response = client.get("/metrics")
    assert (response.status_code, response.json()) == (500, {"error": "internal error", "code": "internal"})
    (line,) = lines(log)
    assert line["message"] == "GET /metrics failed"
    assert "Traceback" in line["trace"]


@pytest.mark.parametrize(("error", "status"), [(OverloadedError("full"), 503), (DeadlineError("late"), 504)])
def test_overload_and_deadlines_are_not_logged(log: Path, error: Exception, status: int) -> None:
    assert server(submit=failing(error)).post("/v2/models/digits/generate").status_code == status
    assert lines(log) == []


def test_access_log_has_a_line_for_each_request_and_no_key(log: Path) -> None:
    client = server(access_log=True, api_key="k3y")
    client.post("/v2/models/digits/generate?n=1", headers={"x-api-key": "k3y", "x-request-id": "a"})
    client.get("/v2/models?key=k3y", headers={"x-api-key": "wr0ng"})
    first, second = lines(log)
    assert (first["message"], first["route"], first["status"]) == ("POST /v2/models/digits/generate", "generate", 200)
    assert (second["message"], second["route"], second["status"]) == ("GET /v2/models", "models", 401)
    assert first["request_id"] == "a"
    assert len(second["request_id"]) == 16
    assert 0 < first["seconds"] < 60
    assert "k3y" not in log.read_text()
    assert "wr0ng" not in log.read_text()


def test_browsers_of_the_allowed_origin_may_send_and_read() -> None:
    origin = {"origin": "https://a.example"}
    asked = origin | {"access-control-request-method": "POST", "access-control-request-headers": "x-api-key"}
    access = AccessSettings(cors="https://a.example")
    client = server(access=access)
    answer = client.options("/v2/models/digits/generate", headers=asked)
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == "https://a.example"
    assert "POST" in answer.headers["access-control-allow-methods"]
    for path in ("/v2/models/digits/generate", "/v2/models/digits/nothing"):
        assert client.post(path, headers=origin).headers["access-control-allow-origin"] == "https://a.example"
    assert "access-control-allow-origin" not in client.get("/v2", headers={"origin": "https://b.example"}).headers
    plain = server().options("/v2/models/digits/generate", headers=asked)
    assert not [name for name in plain.headers if name.startswith("access-control")]


def test_local_server_refuses_other_hosts() -> None:
    client = server(access=AccessSettings(is_local=True))
    response = client.get("/v2/models", headers={"host": "evil.example"})
    assert (response.status_code, response.json()["code"]) == (403, "forbidden")
    assert client.get("/v2/models", headers={"host": "127.0.0.1:8000"}).status_code == 200


@pytest.mark.parametrize(("stated", "answered"), [("a-1", "a-1"), ("x" * 500, "x" * 128), ('"><script>', "???script?")])
def test_answers_have_the_harmless_id_of_their_request(stated: str, answered: str) -> None:
    for path in ("/v2/health/live", "/v2/models/digits/infer", "/nothing"):
        assert server().post(path, headers={"x-request-id": stated}).headers["x-request-id"] == answered
    assert len(server().get("/v2").headers["x-request-id"]) == 16
