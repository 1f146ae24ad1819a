"""The HTTP client for programs that run on an event loop: `Client` with `await`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Self, TypeVar

import httpx
import numpy as np
from numpy.typing import NDArray

from serving import client_calls as calls
from serving.client_calls import Answer, Call, CycleAnswer, Image, Images
from serving.client_transport import ASYNC_TIMER, Attempts, Connections, Outcome, Timer
from serving.codec import File
from serving.errors import ServingError
from serving.retrying import DEFAULT_RETRY, RetryPolicy

T = TypeVar("T")


class AsyncClient:
    """Calls a zorse server on an event loop, many requests at a time. All else is as for `Client`."""

    def __init__(
        self,
        url: str | Sequence[str] = "http://127.0.0.1:8000",
        api_key: str | None = None,
        timeout: float = 120.0,
        retry: RetryPolicy = DEFAULT_RETRY,
        transport: httpx.AsyncBaseTransport | None = None,
        timer: Timer = ASYNC_TIMER,
    ) -> None:
        self._timer = timer
        self._connections = Connections(httpx.AsyncClient, url, api_key, timeout, retry, transport, timer)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """As `Client.close`."""
        for http in self._connections.http:
            await http.aclose()

    async def ready(self) -> bool:
        """As `Client.ready`."""
        try:
            return await self._send(calls.ready(), self._connections.each_once())
        except ServingError:
            return False

    async def models(self) -> list[dict[str, Any]]:
        """As `Client.models`."""
        return await self._send(calls.models())

    async def index(self) -> list[dict[str, str]]:
        """As `Client.index`."""
        return await self._send(calls.index())

    async def metadata(self, model: str) -> dict[str, Any]:
        """As `Client.metadata`."""
        return await self._send(calls.metadata(model))

    async def metrics(self) -> str:
        """As `Client.metrics`."""
        return await self._send(calls.metrics())

    async def call(self, verb: str, model: str, image: Images | None = None, **keys: Any) -> Any:
        """As `Client.call`."""
        return await self._send(calls.value(verb, model, image, keys))

    async def fetch(self, verb: str, model: str, image: Images | None = None, **keys: Any) -> File:
        """As `Client.fetch`."""
        return await self._send(calls.fetch(verb, model, image, keys))

    async def generate(
        self, model: str, n: int | None = None, seed: int | None = None, first: int | None = None, **keys: Any
    ) -> NDArray[Any]:
        """As `Client.generate`."""
        return await self._send(calls.images("generate", model, {"n": n, "seed": seed, "first": first} | keys))

    async def translate(
        self,
        model: str,
        image: Image,
        value_range: tuple[float, float] | None = None,
        *,
        tile: bool = False,
        overlap: int | None = None,
    ) -> NDArray[np.uint8]:
        """As `Client.translate`."""
        return await self._send(calls.translate(model, image, value_range, tile, overlap))

    async def interpolate(self, model: str, **keys: Any) -> NDArray[Any]:
        """As `Client.interpolate`."""
        return await self._send(calls.images("interpolate", model, keys))

    async def arithmetic(self, model: str, **keys: Any) -> NDArray[Any]:
        """As `Client.arithmetic`."""
        return await self._send(calls.images("arithmetic", model, keys))

    async def cycle(self, model: str, image: Image, partner: str | None = None) -> CycleAnswer:
        """As `Client.cycle`."""
        return await self._send(calls.cycle(model, image, partner))

    async def infer(self, model: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """As `Client.infer`."""
        return await self._send(calls.infer(model, inputs))

    async def _send(self, call: Call[T], retry: RetryPolicy | None = None) -> T:
        attempts = self._connections.begin(call, retry)
        while (wait := attempts.wait_after(await self._attempt(attempts))) is not None:
            await self._timer.sleep(wait)
        return attempts.value()

    async def _attempt(self, attempts: Attempts[Any, httpx.AsyncClient]) -> Outcome:
        http, request = attempts.build()
        try:
            async with asyncio.timeout(attempts.seconds_left(self._timer.clock())):
                response = await http.send(request)
        except (httpx.RequestError, TimeoutError) as error:
            return error
        return Answer(response.status_code, response.reason_phrase, response.headers, response.content)
