"""A server as a command starts it: where it listens, and what clients get while a replica dies and while it stops."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import onnx
import psutil
import pytest

from serving.ports import free_port
from serving.readings import parse
from tests.cluster.commands import Started, started
from tests.cluster.load import Answer, Load
from tests.cluster.sockets import command_line, is_loopback, listening
from tests.serving.tiny import (
    generator_graph,
    generator_manifest,
    inverter_graph,
    inverter_manifest,
    slow_graph,
    write,
    write_manifest,
    write_repository,
)
from zorse_common.image_writer import encode
from zorse_common.private_ray import RAY_FOLDERS, ray_folder_prefix

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]

PROXIES = ("haproxy", "ray")
PATH = "/v2/models/digits/generate"
BODY = json.dumps({"n": 1}).encode()
HEAD = f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n".encode()
INCOMPLETE = (
    (HEAD,),
    (HEAD, b"Content-Length: 100\r\n\r\n{"),
    (HEAD, b"Content-Length: 1000000\r\n\r\n" + bytes(200_000)),
)


@dataclass(frozen=True)
class Server:
    """A running server of two replicas for each model."""

    command: Started
    port: int

    def get(self, path: str) -> httpx.Response | None:
        """Return the answer to GET, or None while nobody listens."""
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=5)
        except httpx.TransportError:
            return None

    @property
    def folder(self) -> Path:
        """The folder of the server's files."""
        workers = [child.pid for child in psutil.Process(self.command.process.pid).children()]
        (folder,) = (path for pid in workers for path in RAY_FOLDERS.glob(f"{ray_folder_prefix(pid)}*"))
        return folder

    def is_ready(self) -> bool:
        answer = self.get("/v2/health/ready")
        return answer is not None and answer.is_success

    def reading(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples that have these labels."""
        answer = self.get("/metrics")
        assert answer is not None
        return parse(answer.raise_for_status().text).total(name, **labels)

    def wait_for(self, value: float, name: str, **labels: str) -> None:
        """Wait until a metric has this value."""
        self.command.wait_until(lambda: self.reading(name, **labels) == value)

    def load(self) -> Load:
        return Load(self.port, PATH, BODY)

    def processes(self, word: str) -> list[psutil.Process]:
        """Return the processes with `word` in their command lines."""
        children = psutil.Process(self.command.process.pid).children(recursive=True)
        return [child for child in children if word in command_line(child)]

    def replicas(self, model: str = "digits") -> list[psutil.Process]:
        """Return the processes of a model."""
        return self.processes(f"ServeReplica:zorse.{model}:model")

    def has_replaced(self, before: set[int], model: str = "digits") -> bool:
        """Return whether as many processes as `before` run a model, and at least one is new."""
        now = {process.pid for process in self.replicas(model)}
        return len(now) == len(before) and now != before

    def listening(self, host: str) -> dict[tuple[str, int], str]:
        """Return where the server listens. While HAProxy reloads, the process that listens on its port changes."""
        while (host, self.port) not in (ports := listening(self.command.process.pid)):
            pass
        return ports

    def half_sent(self, *parts: bytes) -> socket.socket:
        """Return a connection on which a part of a request was sent."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        for part in parts:
            connection.sendall(part)
        return connection


@contextmanager
def served(folder: Path, *options: str, write_models: Callable[[Path], object] = write_repository) -> Iterator[Server]:
    write_models(folder / "repository")
    port = free_port()
    words = ("serve", str(folder / "repository"), "--port", str(port), "--replicas", "2", *options)
    with started(folder / "command", *words) as command:
        running = Server(command, port)
        command.wait_until(running.is_ready)
        yield running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server as it is started by default."""
    with served(tmp_path_factory.mktemp("server")) as running:
        yield running


def test_server_listens_on_loopback_alone(server: Server) -> None:
    ports = server.listening("127.0.0.1")
    assert {place: name for place, name in ports.items() if not is_loopback(place[0])} == {}


def test_server_hides_the_routes_of_ray(server: Server) -> None:
    for path in ("/-/routes", "/-/healthz", "/%2D/routes"):
        answer = server.get(path)
        assert answer is not None
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_folder_and_admin_socket_are_for_their_user_only(server: Server) -> None:
    assert stat.S_IMODE(server.folder.stat().st_mode) == 0o700
    # The server's other files, such as the replicas' sockets and Ray's, are protected by the folder alone.
    assert [stat.S_IMODE(path.stat().st_mode) for path in server.folder.glob("*/s")] == [0o600]
    assert {"haproxy", "r", "t"} <= {path.name for path in server.folder.iterdir()}


def test_server_logs_a_dead_process_and_prints_nothing_of_ray(server: Server) -> None:
    before = server.replicas()
    word = f"Worker PID: {before[0].pid} "
    before[0].kill()
    server.command.wait_until(lambda: word in server.command.log)
    told = [line for line in server.command.log.splitlines() if word in line]
    assert [json.loads(line)["level"] for line in told] == ["warning"]
    server.command.wait_until(lambda: server.has_replaced({process.pid for process in before}))


def test_haproxy_that_has_died_is_started_again_and_that_is_logged(server: Server) -> None:
    # After a reload the one before may still end.
    for process in server.processes("/haproxy.cfg"):
        process.kill()
    server.command.wait_until(lambda: server.get("/v2") is None)
    server.command.wait_until(server.is_ready)
    (line,) = (line for line in server.command.log.splitlines() if "HAProxy has died" in line)
    assert json.loads(line)["level"] == "error"


def test_gateway_that_has_died_delays_requests_or_asks_to_try_again(server: Server) -> None:
    (process,) = server.processes("ServeReplica:zorse:gateway")
    process.kill()
    answer = httpx.get(f"http://127.0.0.1:{server.port}/v2", timeout=60)
    while answer.status_code != 200:
        # The machine was too busy to start the next one within the time for which requests wait.
        assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "unavailable", "5")
        answer = httpx.get(f"http://127.0.0.1:{server.port}/v2", timeout=60)
    assert answer.json()["name"] == "zorse"
    assert process.pid not in [other.pid for other in server.processes("ServeReplica:zorse:gateway")]


@pytest.mark.parametrize("sent", INCOMPLETE)
def test_incomplete_request_is_answered_408(server: Server, sent: tuple[bytes, ...]) -> None:
    with server.half_sent(*sent) as connection:
        answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 408 ")
    # HAProxy's answer to incomplete headers cannot be changed.
    assert sent == (HEAD,) or b"content-type: application/json" in answer


@pytest.mark.parametrize("proxy", PROXIES)
def test_server_of_all_interfaces_stops_without_cutting_a_request(proxy: str, tmp_path: Path) -> None:
    with served(tmp_path, "--proxy", proxy, "--host", "0.0.0.0", "--insecure") as server:
        outside = {place for place in server.listening("0.0.0.0") if not is_loopback(place[0])}
        assert outside == {("0.0.0.0", server.port)}
        load = server.load()
        with load.running(), server.half_sent(HEAD, b"Content-Length: 100\r\n\r\n{"):
            load.wait_for(200)
            sent = time.monotonic()
            server.command.send(signal.SIGTERM, "process")
            server.command.wait_until(lambda: server.command.process.poll() is not None, running=False)
            seconds = time.monotonic() - sent
    assert server.command.process.returncode == 0, server.command.log
    assert seconds < 20
    assert _is_orderly_stop(load.answers, sent, proxy), load.summary()


@pytest.mark.parametrize("proxy", PROXIES)
def test_requests_of_clients_that_have_left_are_not_run(proxy: str, tmp_path: Path) -> None:
    with served(tmp_path, "--proxy", proxy, "--replicas", "1", write_models=_write_slow) as server:
        # The model runs for some seconds, and what comes after this request waits.
        with server.half_sent(*_picture(256)) as runs:
            server.wait_for(1, "zorse_in_flight")
            with contextlib.ExitStack() as waiting:
                for _ in range(4):
                    waiting.enter_context(server.half_sent(*_picture(32)))
                server.wait_for(4, "zorse_queued")
            assert runs.recv(4096).startswith(b"HTTP/1.1 200 ")
        server.wait_for(0, "zorse_in_flight")
        assert server.reading("zorse_rows_total") == 1


def test_broken_models_are_named_and_the_others_are_served(tmp_path: Path) -> None:
    with served(tmp_path, "--replicas", "1", write_models=_write_broken) as server:
        index = httpx.post(f"http://127.0.0.1:{server.port}/v2/repository/index").json()
        assert {entry["name"]: entry["state"] for entry in index} == {
            "digits": "READY",
            "corrupt": "UNAVAILABLE",
            "other": "UNAVAILABLE",
        }
        assert all(bool(entry["reason"]) == (entry["state"] == "UNAVAILABLE") for entry in index)
        assert httpx.post(f"http://127.0.0.1:{server.port}{PATH}", content=BODY).status_code == 200
        answer = server.get("/v2/models/other/ready")
        assert answer is not None
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
        server.command.wait_until(lambda: "/docs" in server.command.log)
        told = [line for line in server.command.log.splitlines() if line.startswith("skipped ")]
        assert sorted(line.split()[1] for line in told) == ["corrupt/1", "other/1"]


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("proxy", PROXIES)
def test_replicas_that_are_killed_again_and_again_fail_hardly_any(proxy: str, tmp_path: Path) -> None:
    with served(tmp_path, "--proxy", proxy) as server, contextlib.ExitStack() as slow:
        for _ in range(50):
            slow.enter_context(server.half_sent(HEAD, b"Content-Length: 100\r\n\r\n{"))
        load = server.load()
        with load.running():
            for _ in range(5):
                load.wait_for(500)
                before = {process.pid for process in server.replicas()}
                server.replicas()[0].kill()
                server.command.wait_until(lambda before=before: server.has_replaced(before))
            load.wait_for(500)
    assert _fails_hardly(load.answers), load.summary()


def _fails_hardly(answers: list[Answer]) -> bool:
    """Return whether at most one request in a thousand failed, each with 503 or in the middle of its answer."""
    failed = [answer for answer in answers if answer.status != 200]
    is_explained = all(answer.code == "unavailable" or answer.error == "IncompleteRead" for answer in failed)
    return is_explained and len(failed) <= len(answers) / 1000


def _write_broken(repository: Path) -> None:
    """Write a sound model, one whose file has another digest, and one whose graph is not that of its manifest."""
    write(repository, generator_graph(), generator_manifest("digits"))
    corrupt = write(repository, generator_graph(), generator_manifest("corrupt"))
    (corrupt / "model.onnx").write_bytes(b"no graph")
    manifest = generator_manifest("other")
    other = write(repository, generator_graph(), manifest)
    onnx.save(inverter_graph(), other / "model.onnx")
    write_manifest(other, manifest)


def _write_slow(repository: Path) -> None:
    write(repository, slow_graph(), inverter_manifest("slow"))


def _picture(side: int) -> tuple[bytes, bytes]:
    """Return the head and the body of a request to translate a picture of side × side pixels."""
    content = encode(np.zeros((side, side, 3), np.uint8))
    head = f"POST /v2/models/slow/translate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(content)}\r\n"
    return f"{head}Content-Type: image/png\r\n\r\n".encode(), content


def _is_orderly_stop(answers: list[Answer], stopped: float, proxy: str) -> bool:
    """Return whether requests before the signal got 200, and later ones that or 503, until the port was closed."""
    if any(answer.status != 200 for answer in answers if answer.sent < stopped):
        return False
    unanswered = [answer for answer in answers if answer.status is None and not answer.is_refused]
    # A connection that waits for its next request may be closed. Ray ends its own proxy with new connections too, and
    # amid refusals.
    if not all(proxy == "ray" or (answer.is_closed and answer.is_reused) for answer in unanswered):
        return False
    later = [answer for answer in answers if answer.status not in (200, None)]
    return all((answer.status, answer.code, answer.retry_after) == (503, "unavailable", "5") for answer in later)
