"""The connections of a replica, on both event loops, with raw bytes over a real Unix socket and h11 as the client."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import json
import logging
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import h11
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from serving import http
from serving.http import PART_BYTES, ClientGoneError, HttpRequest, HttpResponse, SendResponse, read_body
from serving.replica_connection import Connection

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]
SEEN: contextvars.ContextVar[str] = contextvars.ContextVar("seen", default="nothing")
Answer = Callable[[HttpRequest], Awaitable[HttpResponse]]
Scene = Callable[[], Coroutine[Any, Any, None]]


class App:
    """Answers with `make`, quickly if the whole request has arrived and `quick` is true."""

    def __init__(self, make: Answer, *, quick: bool = True) -> None:
        self.make, self.quick = make, quick
        self.gone = 0

    def is_quick(self, request: HttpRequest) -> bool:
        return self.quick

    async def answer(self, request: HttpRequest, send: SendResponse) -> None:
        try:
            await send(await self.make(request), with_body=request.method != "HEAD")
        except ClientGoneError:
            self.gone += 1


async def body_of(request: HttpRequest) -> bytes:
    return request.body if request.is_whole else await read_body(request.headers, request.receive, 2**30)


async def echo(request: HttpRequest) -> HttpResponse:
    body = await body_of(request)
    return HttpResponse(f"{request.method} {request.path} {request.query} ".encode() + body, {"x-a": "b"})


class Client:
    """A connection to the replica. `answer` parses with h11."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.parser = h11.Connection(h11.CLIENT)

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of the next answer."""
        if self.parser.our_state is h11.DONE:
            self.parser.start_next_cycle()
        self.parser.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
        self.parser.send(h11.EndOfMessage())
        status, headers, body = 0, {}, b""
        while True:
            event = self.parser.next_event()
            if event is h11.NEED_DATA:
                self.parser.receive_data(await self.reader.read(2**16))
            elif isinstance(event, h11.Response):
                status = event.status_code
                headers = {name.decode(): value.decode() for name, value in event.headers}
            elif isinstance(event, h11.Data):
                body += event.data
            else:
                assert isinstance(event, h11.EndOfMessage)
                return status, headers, body

    async def is_closed(self) -> bool:
        """Wait for the end of the connection, and return whether nothing came before it."""
        try:
            return await self.reader.read() == b""
        except ConnectionResetError:
            return True


class Server:
    """A listening socket, and the open connections."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.connections: set[Connection] = set()
        self._clients: list[Client] = []

    async def client(self) -> Client:
        self._clients.append(Client(*await asyncio.open_unix_connection(self.path)))
        return self._clients[-1]

    async def close_clients(self) -> None:
        for client in self._clients:
            client.writer.transport.abort()
            with contextlib.suppress(OSError):
                await client.writer.wait_closed()


@contextlib.asynccontextmanager
async def serving(app: App) -> AsyncIterator[Server]:
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(str(Path(folder) / "s"))
        listening = await loop.create_unix_server(lambda: Connection(app, server.connections), server.path)
        try:
            yield server
        finally:
            listening.close()
            for connection in list(server.connections):
                connection.transport.abort()
                await connection.closed
            await server.close_clients()
            await asyncio.sleep(0)  # the loop closes a socket after it has told the protocol


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def play(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Callable[[Scene], None]:
    """Run a scene on a loop; nothing may be in asyncio's log after it."""

    def run(scene: Scene) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(asyncio.wait_for(scene(), 60))
        assert [record.message for record in caplog.records if record.name == "asyncio"] == []

    return run


Play = Callable[[Scene], None]


def post(body: bytes, path: str = "/p?q=1", headers: str = "") -> bytes:
    return f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode() + body


@pytest.mark.parametrize("quick", [True, False])
def test_connection_is_kept_for_many_requests(play: Play, quick: bool) -> None:
    async def scene() -> None:
        async with serving(App(echo, quick=quick)) as server:
            client = await server.client()
            for number in range(50):
                client.send(post(b"%d" % number, "/a%20b?q=%41"))
                status, headers, body = await client.answer("POST")
                assert (status, body) == (200, b"POST /a b q=%%41 %d" % number)
                assert headers["content-length"] == str(len(body))
                assert headers["x-a"] == "b"
            assert len(server.connections) == 1

    play(scene)


CUTS = st.sets(st.integers(1, 100), max_size=4)
REQUEST = st.tuples(st.sampled_from(["GET", "POST", "HEAD"]), st.binary(max_size=40), CUTS)


@pytest.mark.parametrize("loop", LOOPS, ids=["asyncio", "uvloop"])
@settings(max_examples=40, deadline=None)
@given(st.lists(REQUEST, min_size=1, max_size=4), st.booleans())
def test_connection_answers_the_same_however_the_bytes_are_split(
    loop: Callable[[], asyncio.AbstractEventLoop], requests: list[tuple[str, bytes, set[int]]], quick: bool
) -> None:
    async def scene() -> None:
        async with serving(App(echo, quick=quick)) as server:
            client = await server.client()
            for method, content, places in requests:
                raw = f"{method} /x HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content)}\r\n\r\n".encode() + content
                cuts = sorted(place for place in places if place < len(raw))
                for start, stop in zip([0, *cuts], [*cuts, len(raw)], strict=True):
                    client.send(raw[start:stop])
                    for _ in range(3):
                        await asyncio.sleep(0)
                status, headers, body = await client.answer(method)
                expected = f"{method} /x  ".encode() + content
                assert (status, headers["content-length"]) == (200, str(len(expected)))
                assert body == (b"" if method == "HEAD" else expected)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(asyncio.wait_for(scene(), 60))


def test_connection_reads_a_large_body_no_faster_than_the_application(play: Play) -> None:
    size = 40 * PART_BYTES
    taken: list[int] = []
    turn = asyncio.Semaphore(0)

    async def make(request: HttpRequest) -> HttpResponse:
        more = True
        while more:
            await turn.acquire()
            message = await request.receive()
            taken.append(len(message["body"]))
            more = message["more_body"]
        return HttpResponse(str(sum(taken)).encode())

    async def scene() -> None:
        async with serving(App(make)) as server:
            client = await server.client()
            client.send(post(bytes(size)))
            sending = asyncio.create_task(client.writer.drain())
            for _ in range(200):
                turn.release()
                await asyncio.sleep(0)
            while not taken or sum(taken) < size:
                turn.release()
                await asyncio.sleep(0)
            turn.release()
            assert (await client.answer("POST"))[2] == str(size).encode()
            await sending
            # What has arrived when reading is paused, and what the loop reads at once.
            assert max(taken) <= 2 * PART_BYTES + 2**18

    play(scene)


def test_connection_goes_on_after_a_large_body_that_the_application_did_not_read(play: Play) -> None:
    gate = asyncio.Event()

    async def make(request: HttpRequest) -> HttpResponse:
        await gate.wait()
        return HttpResponse(b"no", status=413)

    async def scene() -> None:
        async with serving(App(make)) as server:
            client = await server.client()
            client.send(post(bytes(20 * PART_BYTES)))
            (connection,) = server.connections or [None]
            while connection is None or connection.transport.is_reading():
                await asyncio.sleep(0)
                (connection,) = server.connections or [None]
            gate.set()
            assert (await client.answer("POST"))[0] == 413
            await client.writer.drain()
            client.send(post(b""))
            assert (await client.answer("POST"))[0] == 413
            assert connection._exchange is not None
            assert connection._exchange.request.body == b""

    play(scene)


def test_connection_reads_chunks_and_closes_because_trailers_are_no_headers_of_the_next(play: Play) -> None:
    async def scene() -> None:
        async with serving(App(echo)) as server:
            client = await server.client()
            head = b"POST /c HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
            client.send(head + b"2\r\nab\r\n")
            await asyncio.sleep(0)
            client.send(b"3\r\ncde\r\n0\r\nx-request-timeout: 1\r\n\r\n")
            _, headers, body = await client.answer("POST")
            assert (body, headers["connection"]) == (b"POST /c  abcde", "close")
            assert await client.is_closed()

    play(scene)


@pytest.mark.parametrize("status", [204, 304])
def test_connection_sends_no_length_without_a_body(play: Play, status: int) -> None:
    async def make(request: HttpRequest) -> HttpResponse:
        return HttpResponse(b"", {"etag": '"x"'}, status)

    async def scene() -> None:
        async with serving(App(make)) as server:
            client = await server.client()
            for _ in range(2):
                client.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
                got, headers, body = await client.answer()
                assert (got, "content-length" in headers, body) == (status, False, b"")

    play(scene)


def test_connection_sends_a_large_quick_answer_to_a_slow_reader(play: Play) -> None:
    content = bytes(range(256)) * (20 * PART_BYTES // 256)

    async def make(request: HttpRequest) -> HttpResponse:
        return HttpResponse(content)

    async def scene() -> None:
        async with serving(App(make)) as server:
            client = await server.client()
            for _ in range(2):
                client.send(post(b""))
                await until(lambda: any(c._writable is not None for c in server.connections))
                (connection,) = server.connections
                assert connection.transport.get_write_buffer_size() <= 2 * PART_BYTES + 2**10
                assert (await client.answer("POST"))[2] == content

    play(scene)


def test_connection_gives_up_a_client_that_takes_nothing(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "SENDER_SECONDS", 0.05)

    async def make(request: HttpRequest) -> HttpResponse:
        return HttpResponse(bytes(20 * PART_BYTES))

    async def scene() -> None:
        app = App(make)
        async with serving(app) as server:
            client = await server.client()
            client.send(post(b""))
            await until(lambda: app.gone == 1)
            await until(lambda: not server.connections)

    play(scene)


@pytest.mark.parametrize("sent", [b"POST / HT", post(b"abc")[:-1]])
def test_connection_notices_a_client_that_leaves_within_its_request(play: Play, sent: bytes) -> None:
    async def scene() -> None:
        app = App(echo)
        async with serving(app) as server:
            client = await server.client()
            client.send(sent)
            await until(lambda: bool(server.connections))
            client.writer.close()
            await until(lambda: not server.connections)
            await until(lambda: app.gone == sent.startswith(b"POST /p"))

    play(scene)


@pytest.mark.parametrize("length", [2, 20 * PART_BYTES])
def test_connection_tells_of_a_client_that_leaves_before_its_answer(
    play: Play, length: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def make(request: HttpRequest) -> HttpResponse:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        return HttpResponse(bytes(length))

    async def scene() -> None:
        app = App(make)
        async with serving(app) as server:
            client = await server.client()
            client.send(post(b"abc"))
            await until(lambda: any(c._task is not None for c in server.connections))
            client.writer.close()
            await until(lambda: app.gone == 1)

    play(scene)
    assert caplog.records == []


@pytest.mark.parametrize("together", [True, False])
def test_connection_closes_after_the_first_of_two_requests_at_once(play: Play, together: bool) -> None:
    gate = asyncio.Event()

    async def make(request: HttpRequest) -> HttpResponse:
        await gate.wait()
        return await echo(request)

    async def scene() -> None:
        async with serving(App(make)) as server:
            client = await server.client()
            client.send(post(b"1") + (post(b"2") if together else b""))
            await until(lambda: any(c._task is not None for c in server.connections))
            if not together:
                client.send(post(b"2"))
                (connection,) = server.connections
                await until(lambda: not connection.transport.is_reading())
            gate.set()
            _, headers, body = await client.answer("POST")
            assert (body, headers["connection"]) == (b"POST /p q=1 1", "close")
            assert await client.is_closed()

    play(scene)


@pytest.mark.parametrize("before", [0, 1])
def test_connection_answers_garbage_with_400(play: Play, before: int) -> None:
    async def scene() -> None:
        async with serving(App(echo)) as server:
            client = await server.client()
            for _ in range(before):
                client.send(post(b"x"))
                await client.answer("POST")
            client.send(b"\x16\x03\x01garbage\r\n\r\n")
            status, headers, body = await client.answer()
            assert (status, headers["connection"]) == (400, "close")
            assert json.loads(body) == {"error": "the request is not valid HTTP", "code": "bad_request"}
            assert await client.is_closed()

    play(scene)


def test_connection_ends_with_a_broken_body(play: Play) -> None:
    async def scene() -> None:
        app = App(echo)
        async with serving(app) as server:
            client = await server.client()
            client.send(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nno chunk\r\n")
            assert await client.is_closed()
            assert app.gone == 1

    play(scene)


def test_connection_answers_a_request_for_another_protocol_and_closes(play: Play) -> None:
    async def scene() -> None:
        async with serving(App(echo)) as server:
            client = await server.client()
            client.send(b"GET /u HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n")
            status, headers, body = await client.answer()
            assert (status, headers["connection"], body) == (200, "close", b"GET /u  ")
            assert await client.is_closed()

    play(scene)


async def _broken_header(request: HttpRequest) -> HttpResponse:
    return HttpResponse(b"", {"x-a": "1\r\nx-b: 2"})


async def _raises(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("broken")


async def _raises_later(request: HttpRequest) -> HttpResponse:
    await asyncio.sleep(0)
    raise RuntimeError("broken later")


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize(
    ("make", "error"),
    [(_broken_header, "a header of an answer has a line break"), (_raises, "broken"), (_raises_later, "broken later")],
)
def test_connection_closes_and_logs_when_the_application_fails(
    play: Play, make: Answer, error: str, quick: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        async with serving(App(make, quick=quick)) as server:
            client = await server.client()
            client.send(post(b""))
            assert await client.is_closed()

    play(scene)
    (record,) = caplog.records
    assert (record.message, record.levelno) == ("POST /p failed", logging.ERROR)
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == error


@pytest.mark.parametrize("is_busy", [True, False])
def test_connection_closes_when_idle(play: Play, is_busy: bool) -> None:
    gate = asyncio.Event()

    async def make(request: HttpRequest) -> HttpResponse:
        if request.path == "/wait":
            await gate.wait()
        return HttpResponse(b"ok")

    async def scene() -> None:
        async with serving(App(make)) as server:
            client = await server.client()
            client.send(post(b""))
            await client.answer("POST")
            (connection,) = server.connections
            if is_busy:
                client.send(post(b"", "/wait"))
                await until(lambda: connection._task is not None)
            connection.close_when_idle()
            gate.set()
            if is_busy:
                assert (await client.answer("POST"))[1]["connection"] == "close"
            assert await client.is_closed()

    play(scene)


@pytest.mark.parametrize("turns", [0, 1, 3])
def test_quick_answer_waits_times_out_and_keeps_its_context(play: Play, turns: int) -> None:
    async def make(request: HttpRequest) -> HttpResponse:
        before = SEEN.get()
        SEEN.set(request.path)
        for _ in range(turns):
            await asyncio.sleep(0)
        if turns:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await asyncio.get_running_loop().create_future()
        return HttpResponse(f"{before} {SEEN.get()}".encode())

    async def scene() -> None:
        async with serving(App(make)) as server:
            client = await server.client()
            for path in ("/1", "/2"):
                client.send(post(b"", path))
                assert (await client.answer("POST"))[2] == f"nothing {path}".encode()

    play(scene)
