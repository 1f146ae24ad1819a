"""The server of a replica on a Unix socket."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import httpx

from serving.http import HttpRequest, HttpResponse, SendResponse
from serving.replica_server import ReplicaServer


class Waiting:
    """Answers when `event` is set."""

    def __init__(self, event: asyncio.Event) -> None:
        self.event = event

    def is_quick(self, request: HttpRequest) -> bool:
        return True

    async def answer(self, request: HttpRequest, send: SendResponse) -> None:
        await self.event.wait()
        await send(HttpResponse(b"ok"))


def client(path: Path) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(path)), base_url="http://replica")


async def appeared(path: Path) -> None:
    while not path.exists():
        await asyncio.sleep(0.001)


def test_replica_server_answers_and_leaves_signals_alone(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)

    async def scene() -> None:
        ready = asyncio.Event()
        ready.set()
        path = tmp_path / "replica1"
        server = ReplicaServer(Waiting(ready), path)
        await asyncio.wait_for(appeared(path), 20)
        assert signal.getsignal(signal.SIGTERM) is before
        async with client(path) as http:
            response = await http.get("/")
        assert (response.text, "server" in response.headers) == ("ok", False)
        assert not server.has_ended
        await server.close()
        assert server.has_ended
        assert not path.exists()

    asyncio.run(scene())


def test_replica_server_finishes_requests_in_flight_when_it_closes(tmp_path: Path) -> None:
    async def scene() -> None:
        ready = asyncio.Event()
        path = tmp_path / "replica1"
        server = ReplicaServer(Waiting(ready), path)
        await asyncio.wait_for(appeared(path), 20)
        async with client(path) as http:
            request = asyncio.create_task(http.get("/"))
            while not server._connections:
                await asyncio.sleep(0.001)
            closing = asyncio.create_task(server.close())
            await asyncio.sleep(0)
            assert not closing.done()
            ready.set()
            assert (await request).text == "ok"
        await asyncio.wait_for(closing, 20)

    asyncio.run(scene())
