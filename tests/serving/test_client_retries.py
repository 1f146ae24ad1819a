"""Clients of servers that fail: what is sent again, where to, and when the client gives up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx
import pytest

from serving.async_client import AsyncClient
from serving.client import Client
from serving.client_transport import Timer
from serving.errors import (
    BadRequestError,
    DeadlineError,
    OverloadedError,
    RateLimitError,
    ServerError,
    ServingError,
    UnavailableError,
    UnreachableError,
)
from serving.retrying import RetryPolicy
from tests.serving.timed_server import TimedServer, answer, timed_server

MODELS = answer("200 OK", b"[]")
URLS = ("http://a", "http://b")


class Clock:
    """A time that passes only where a client waits or a request takes `cost` seconds."""

    def __init__(self) -> None:
        self.now, self.waits = 0.0, list[float]()

    def sleep(self, seconds: float) -> None:
        self.waits += [seconds] if seconds else []
        self.now += seconds

    def timer(self) -> Timer:
        return Timer(lambda: self.now, self.sleep, lambda: 0.5)


class Script:
    """Answers one request after the other by the entries of `outcomes`, the last one for ever, and keeps them."""

    def __init__(self, clock: Clock, *outcomes: httpx.Response | Exception, cost: float = 0.0) -> None:
        self._clock, self._outcomes, self._cost = clock, list(outcomes), cost
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        self._clock.now += self._cost
        outcome = self._outcomes.pop(0) if len(self._outcomes) > 1 else self._outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        return httpx.Response(outcome.status_code, headers=outcome.headers, content=outcome.content)

    @property
    def hosts(self) -> list[str]:
        return [request.url.host for request in self.requests]


def failed(status: int, code: str, retry_after: str | None = None) -> httpx.Response:
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return httpx.Response(status, json={"error": "no", "code": code}, headers=headers)


GOOD = httpx.Response(200, json=[])
CUT = httpx.ReadError("cut")


def client(clock: Clock, script: Script, *urls: str, timeout: float = 120, attempts: int = 6) -> Client:
    retry = RetryPolicy(attempts)
    return Client(urls or "http://a", None, timeout, retry, httpx.MockTransport(script), clock.timer())


LOST = httpx.Response(500, text="The actor died unexpectedly before finishing this task.")
"""What Ray Serve's own proxy answers where a replica dies."""


@pytest.mark.parametrize("outcome", [httpx.ConnectError("x"), CUT, LOST, failed(503, "overloaded", "0")])
@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_client_sends_a_request_as_often_as_allowed(outcome: httpx.Response | Exception, attempts: int) -> None:
    clock = Clock()
    script = Script(clock, outcome)
    with (
        client(clock, script, attempts=attempts) as opened,
        pytest.raises((OverloadedError, ServerError, UnreachableError)),
    ):
        opened.models()
    assert len(script.requests) == attempts


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        (failed(400, "bad_request", "0"), BadRequestError),
        (failed(500, "internal", "0"), ServingError),
        (failed(503, "overloaded"), OverloadedError),
        (failed(504, "deadline"), DeadlineError),
        (httpx.ReadTimeout("late"), DeadlineError),
    ],
)
def test_client_does_not_repeat(outcome: httpx.Response | Exception, kind: type[ServingError]) -> None:
    clock = Clock()
    script = Script(clock, outcome)
    with client(clock, script, *URLS) as opened, pytest.raises(kind):
        opened.models()
    assert len(script.requests) == 1


def test_client_waits_as_long_as_the_server_wants() -> None:
    clock = Clock()
    script = Script(clock, failed(429, "rate_limit", "3"), failed(503, "unavailable", "5"), GOOD)
    assert client(clock, script).models() == []
    assert clock.waits == [3.125, 5.25]


def test_client_keeps_the_deadline_and_sends_what_is_left_of_it() -> None:
    clock = Clock()
    script = Script(clock, failed(503, "unavailable", "5"), cost=1)
    with client(clock, script, timeout=14) as opened, pytest.raises(UnavailableError):
        opened.models()
    assert clock.now <= 14
    left = [float(request.headers["X-Request-Timeout"]) for request in script.requests]
    assert left == pytest.approx([14, 7.875, 1.625])


def test_client_does_not_wait_past_the_deadline() -> None:
    clock = Clock()
    script = Script(clock, failed(429, "rate_limit", "1000"))
    with client(clock, script) as opened, pytest.raises(RateLimitError) as caught:
        opened.models()
    assert caught.value.headers == {"Retry-After": "1000"}
    assert clock.waits == []


@pytest.mark.parametrize("outcome", [CUT, failed(503, "unavailable", "5")])
def test_client_turns_to_another_endpoint_at_once(outcome: httpx.Response | Exception) -> None:
    clock = Clock()
    script = Script(clock, outcome, GOOD)
    assert client(clock, script, *URLS).models() == []
    assert script.hosts == ["a", "b"]
    assert clock.waits == []


def test_client_leaves_an_endpoint_that_is_gone_alone_for_a_while() -> None:
    clock = Clock()
    script = Script(clock, httpx.ConnectError("x"), GOOD)
    opened = client(clock, script, *URLS)
    for _ in range(5):
        opened.models()
    assert script.hosts == ["a", *"bbbbb"]
    clock.now += 60
    opened.models()
    opened.models()
    assert set(script.hosts[6:]) == {"a", "b"}


def test_client_is_ready_if_one_endpoint_is() -> None:
    clock = Clock()
    assert client(clock, Script(clock, CUT, GOOD), *URLS).ready()
    assert not client(clock, Script(clock, failed(503, "unavailable", "5")), *URLS).ready()
    assert clock.waits == []


@pytest.mark.parametrize("arguments", [([],), ("http://a", None, 0), ("http://a", None, float("inf"))])
def test_client_refuses_wrong_arguments(arguments: tuple[object, ...]) -> None:
    with pytest.raises(BadRequestError):
        Client(*arguments)  # type: ignore[arg-type]


async def _cut_first(number: int, body: bytes) -> bytes:
    return MODELS if number else b""


def test_client_repeats_over_a_real_connection_that_is_cut() -> None:
    def check(server: TimedServer, ask: Callable[[str], object]) -> None:
        assert ask(f"http://127.0.0.1:{server.port}") == []
        assert len(server.requests) == 2

    async def ask_async(url: str) -> object:
        async with AsyncClient(url) as opened:
            return await opened.models()

    def ask(url: str) -> object:
        with Client(url) as opened:
            return opened.models()

    with timed_server(_cut_first) as server:
        check(server, ask)
    with timed_server(_cut_first) as server:
        check(server, lambda url: asyncio.run(ask_async(url)))


def test_client_reuses_its_connection() -> None:
    async def respond(number: int, body: bytes) -> bytes:
        return MODELS

    with timed_server(respond) as server, Client(f"http://127.0.0.1:{server.port}") as opened:
        for _ in range(5):
            opened.models()
        assert server.connections == 1


@pytest.mark.parametrize("is_async", [False, True])
def test_client_ends_an_answer_that_never_comes(is_async: bool) -> None:
    async def respond(number: int, body: bytes) -> bytes:
        await asyncio.Event().wait()
        return b""

    async def ask(url: str) -> None:
        async with AsyncClient(url, timeout=0.2) as opened:
            await opened.models()

    def run(url: str) -> object:
        if is_async:
            return asyncio.run(ask(url))
        with Client(url, timeout=0.2) as opened:
            return opened.models()

    with timed_server(respond) as server:
        with pytest.raises(DeadlineError, match=r"has not answered within 0\.2 s"):
            run(f"http://127.0.0.1:{server.port}")
        assert len(server.requests) <= 1


def test_async_client_has_a_hundred_requests_in_flight() -> None:
    together = asyncio.Event()
    arrived = 0

    async def respond(number: int, body: bytes) -> bytes:
        nonlocal arrived
        arrived += 1
        if arrived == 100:
            together.set()
        await together.wait()
        return MODELS

    async def ask(url: str) -> list[object]:
        async with AsyncClient(url) as opened:
            return list(await asyncio.gather(*(opened.models() for _ in range(100))))

    with timed_server(respond) as server:
        assert asyncio.run(ask(f"http://127.0.0.1:{server.port}")) == [[]] * 100


def test_async_client_has_the_methods_of_client() -> None:
    assert {n for n in vars(Client) if n[0] != "_"} == {n for n in vars(AsyncClient) if n[0] != "_"}
