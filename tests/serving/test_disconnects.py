"""The ASGI application of a model: disconnected clients, deadlines and overload."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from starlette.types import Message

from serving.admission import Admission
from serving.application import Application
from serving.asgi import model_app
from serving.batching import Tensors
from serving.config import Capacity, Limits, ModelSettings
from serving.service import ModelService
from tests.serving.apps import server
from tests.serving.fakes import FakeEngine
from tests.serving.tiny import generator_manifest


class Gate:
    """An engine that runs when it is opened, and counts what was begun and ended."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.begun = self.ended = 0

    async def submit(self, tensors: Tensors, deadline: float | None = None) -> Tensors:
        self.begun += 1
        await self.opened.wait()
        self.ended += 1
        return FakeEngine().run(tensors)


class Call:
    """One request to an application; `disconnect` closes the connection of its client."""

    def __init__(self, app: Application, body: bytes = b"{}", headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        self.sent: list[Message] = []
        self._gone = asyncio.Event()
        self._body: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v2/models/digits/generate",
            "query_string": b"",
            "headers": [(b"content-type", b"application/json"), *headers],
        }
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    def disconnect(self) -> None:
        self._gone.set()

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def answer(self) -> Any:
        return json.loads(self.sent[1]["body"])

    def header(self, name: bytes) -> bytes:
        return dict(self.sent[0]["headers"])[name]

    async def _receive(self) -> Message:
        if self._body:
            return self._body.pop()
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        self.sent.append(message)


def application(gate: Gate, capacity: Capacity | None = None) -> tuple[Application, Admission]:
    manifest, admission = generator_manifest(), Admission(capacity)
    service = ModelService(manifest, gate.submit, Limits(), admission)
    return model_app(service, ModelSettings(name=manifest.name, artifact="")), admission


async def begun(gate: Gate, count: int) -> None:
    while gate.begun < count:
        await asyncio.sleep(0)


def test_request_of_a_client_that_disconnects_is_cancelled() -> None:
    async def scene() -> None:
        gate = Gate()
        app, admission = application(gate)
        gone, stays = Call(app), Call(app)
        await begun(gate, 2)
        gone.disconnect()
        await gone.task
        gate.opened.set()
        await stays.task
        assert (gone.sent, stays.status, gate.ended) == ([], 200, 1)
        assert (admission.requests, admission.images) == (0, 0)

    asyncio.run(scene())


def test_cancellation_by_the_server_is_passed_on() -> None:
    async def scene() -> None:
        gate = Gate()
        app, admission = application(gate)
        call = Call(app)
        await begun(gate, 1)
        call.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call.task
        assert admission.requests == 0

    asyncio.run(scene())


def test_requests_beyond_the_capacity_get_503_at_once() -> None:
    async def scene() -> None:
        gate = Gate()
        app, _ = application(gate, Capacity(requests=2))
        calls = [Call(app) for _ in range(3)]
        await begun(gate, 2)
        await calls[2].task
        assert calls[2].status == 503
        assert calls[2].answer["code"] == "overloaded"
        assert int(calls[2].header(b"retry-after")) >= 1
        gate.opened.set()
        await asyncio.gather(*(call.task for call in calls))
        assert [call.status for call in calls] == [200, 200, 503]
        again = Call(app)
        await again.task
        assert again.status == 200

    asyncio.run(scene())


@pytest.mark.parametrize("value", ["-1", "0", "nan", "inf", "soon", "1e999", "", "9" * 500])
def test_timeout_header_must_be_a_positive_number(value: str) -> None:
    response = server().post("/v2/models/digits/generate", headers={"X-Request-Timeout": value})
    assert (response.status_code, response.json()["code"]) == (400, "bad_request")
    assert "X-Request-Timeout" in response.json()["error"]


def test_timeout_header_is_the_deadline_of_the_run() -> None:
    deadlines: list[float | None] = []

    async def submit(tensors: Tensors, deadline: float | None = None) -> Tensors:
        now = asyncio.get_running_loop().time()
        deadlines.append(None if deadline is None else deadline - now)
        return FakeEngine().run(tensors)

    client = server(submit=submit)
    client.post("/v2/models/digits/generate", headers={"X-Request-Timeout": "30"})
    client.post("/v2/models/digits/generate")
    assert deadlines[1] is None
    assert deadlines[0] is not None
    assert 20 < deadlines[0] <= 30
