"""What Ray's own proxy answers, with the proxy replaced by a fake application."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.ray_proxy import ProxyAnswers


def _post(app: ASGIApp, path: str = "/v2", body: bytes = b"", **headers: str) -> httpx.Response:
    async def call() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
            return await client.post(path, content=body, headers=headers)

    return asyncio.run(call())


class FailingProxy:
    """Answers nothing `failures` times, after it has read the body, and then echoes the body."""

    def __init__(self, failures: int) -> None:
        self._failures = failures
        self.headers: list[tuple[bytes, bytes]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive())["body"]
        self.headers = scope["headers"]
        self._failures -= 1
        if self._failures < 0:
            await JSONResponse(body.decode())(scope, receive, send)


def test_proxy_repeats_a_request_that_was_not_answered() -> None:
    assert _post(ProxyAnswers(FailingProxy(1)), body=b"abc").json() == "abc"


@pytest.mark.parametrize(("failures", "body"), [(2, b"abc"), (1, bytes(70_000))])
def test_proxy_answers_503_for_requests_that_cannot_be_repeated(failures: int, body: bytes) -> None:
    response = _post(ProxyAnswers(FailingProxy(failures)), body=body)
    assert (response.status_code, response.json()["code"]) == (503, "unavailable")
    assert int(response.headers["retry-after"]) > 0


@pytest.mark.parametrize("status", [404, 500, 503])
def test_proxy_answers_json_in_place_of_texts_of_ray(status: int) -> None:
    async def ray(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("Path '/v2' not found. Ping /-/routes.", status)(scope, receive, send)

    response = _post(ProxyAnswers(ray))
    assert (response.status_code, response.json()["code"]) == (503, "unavailable")


def test_proxy_passes_answers_of_applications_on() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await JSONResponse({"error": "x", "code": "not_found"}, 404)(scope, receive, send)

    response = _post(ProxyAnswers(app))
    assert (response.status_code, response.json()["code"]) == (404, "not_found")


def test_proxy_hides_the_routes_and_time_limits_of_ray() -> None:
    proxy = FailingProxy(0)
    assert _post(ProxyAnswers(proxy), "/%2d/routes").json()["code"] == "not_found"
    headers: dict[str, Any] = {"X-Request-Timeout-Seconds": "0.1", "X-Request-Timeout": "1"}
    _post(ProxyAnswers(proxy), body=b"abc", **headers)
    names = [name for name, _ in proxy.headers]
    assert b"x-request-timeout" in names
    assert b"x-request-timeout-seconds" not in names


def test_proxy_behind_haproxy_keeps_the_health_check_and_limits_waiting() -> None:
    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["more_body"]:
            continue
        await asyncio.Event().wait()

    assert _post(ProxyAnswers(FailingProxy(0), 60.0, is_front=False), "/-/healthz", b"x").json() == "x"
    response = _post(ProxyAnswers(waits, 0.01, is_front=False))
    assert (response.status_code, response.json()["code"]) == (503, "unavailable")
    assert int(response.headers["retry-after"]) > 0


def test_proxy_limits_neither_the_time_of_a_body_nor_that_of_an_answer() -> None:
    sent: list[Message] = []

    async def echoes_slowly(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["more_body"]:
            continue
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(0.05)
        await send({"type": "http.response.body", "body": b"all"})

    async def receive() -> Message:
        await asyncio.sleep(0.03)
        pieces.pop()
        return {"type": "http.request", "body": b"x", "more_body": bool(pieces)}

    async def send(message: Message) -> None:
        sent.append(message)

    pieces = [1, 2, 3]
    scope = {"type": "http", "method": "POST", "path": "/v2/models/a/infer", "headers": []}
    asyncio.run(ProxyAnswers(echoes_slowly, 0.02)(scope, receive, send))
    assert [message.get("status", message.get("body")) for message in sent] == [200, b"all"]


@pytest.mark.parametrize(
    ("method", "path", "passed_on"),
    [
        ("GET", "/v2/models/a", "/-/idle/v2/models/a"),
        ("HEAD", "/v2/models/a/ready", "/-/idle/v2/models/a/ready"),
        ("POST", "/v2/models/a/infer", "/v2/models/a/infer"),
        ("OPTIONS", "/v2/models/a/infer", "/v2/models/a/infer"),
        ("GET", "/v2/models", "/v2/models"),
        ("GET", "/-/idle/v2/models/a", None),
    ],
)
def test_proxy_passes_questions_about_idle_models_to_the_gateway(method: str, path: str, passed_on: str | None) -> None:
    paths: list[str] = []

    async def ray(scope: Scope, receive: Receive, send: Send) -> None:
        paths.append(scope["path"])
        await JSONResponse({})(scope, receive, send)

    async def call(app: ASGIApp) -> int:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
            return (await client.request(method, path)).status_code

    assert asyncio.run(call(ProxyAnswers(ray, to_zero=True))) == (404 if passed_on is None else 200)
    assert paths == ([] if passed_on is None else [passed_on])


@pytest.mark.parametrize(
    ("stated", "expected"), [("a-1", "a-1"), ("a b;c", "a?b?c"), ("y" * 200, "y{128}"), ("", "[0-9a-f]{32}")]
)
def test_proxy_gives_requests_an_id_that_answers_repeat_once(stated: str, expected: str) -> None:
    seen: list[bytes] = []

    async def ray(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend(value for name, value in scope["headers"] if name == b"x-request-id")
        twice = [(b"X-Request-ID", b"one"), (b"x-request-id", b"two")]
        await send({"type": "http.response.start", "status": 200, "headers": twice})
        await send({"type": "http.response.body", "body": b""})

    (answered,) = _post(ProxyAnswers(ray), **{"X-Request-Id": stated}).headers.get_list("x-request-id")
    assert re.fullmatch(expected.replace("?", "[?]"), answered)
    assert seen == [answered.encode()]
    assert len(_post(ProxyAnswers(ray), "/-/routes").headers.get_list("x-request-id")) == 1
