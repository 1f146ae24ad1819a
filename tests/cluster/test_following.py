"""A server that follows its repository: versions come while clients send requests without pause."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from export.manifest import GOLDEN_FILE
from serving.ports import free_port
from serving.readings import parse
from tests.cluster.client_load import Answer, ClientLoad
from tests.cluster.commands import Started, started
from tests.serving.tiny import LATENT_DIM, generator_graph, generator_manifest, write, write_manifest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]

CLIENTS = 8
BODY = json.dumps(
    {"inputs": [{"name": "latent", "shape": [1, LATENT_DIM], "datatype": "FP32", "data": [0.1] * LATENT_DIM}]}
).encode()


def publish(repository: Path, name: str, version: int, *, broken: bool = False) -> None:
    """Publish a version at once, as an export does. The golden sample of a broken one is that of another network."""
    staged = repository.parent / "staged"
    manifest = generator_manifest(name, version)
    folder = write(staged, generator_graph(), manifest)
    if broken:
        with np.load(folder / GOLDEN_FILE) as golden:
            arrays = {key: array if key.startswith("input") else 255 - array for key, array in golden.items()}
        np.savez(folder / GOLDEN_FILE, allow_pickle=False, **arrays)
        write_manifest(folder, manifest)
    place = repository / name / str(version)
    place.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(place)
    shutil.rmtree(staged)


@dataclass
class Clients:
    """Clients that ask one model without pause and repeat nothing, and what they were answered."""

    port: int
    answers: list[Answer] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self) -> Iterator[Clients]:
        threads = [threading.Thread(target=self._send, args=(bool(number % 2),)) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._ended.set()
            for thread in threads:
                thread.join()

    def _send(self, keep: bool) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        while not self._ended.is_set():
            sent, status, version = time.monotonic(), "", ""
            try:
                connection.request("POST", "/v2/models/digits/infer", BODY, {"Content-Type": "application/json"})
                response = connection.getresponse()
                content = json.loads(response.read())
                answer: int | str = response.status
                version = str(content.get("model_version", status))
            except (OSError, http.client.HTTPException) as error:
                answer = type(error).__name__
                connection.close()
            self.answers.append(Answer(sent, time.monotonic(), answer, version))
            if not keep:
                connection.close()
        connection.close()


@dataclass(frozen=True)
class Server:
    """A running server that follows `repository`."""

    command: Started
    repository: Path
    port: int

    def models(self) -> dict[str, int]:
        try:
            answer = httpx.get(f"http://127.0.0.1:{self.port}/v2/models", timeout=10)
        except httpx.TransportError:
            return {}
        return {model["name"]: model["version"] for model in answer.json()} if answer.is_success else {}

    def index(self) -> list[dict[str, Any]]:
        answer = httpx.post(f"http://127.0.0.1:{self.port}/v2/repository/index", timeout=10)
        return list(answer.raise_for_status().json())

    def events(self) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.command.log.splitlines() if line.startswith("{")]
        return [line for line in lines if "event" in line]

    def has_event(self, event: str, version: int) -> bool:
        return any((line["event"], line.get("version")) == (event, version) for line in self.events())

    def wait_for(self, event: str, version: int) -> None:
        self.command.wait_until(lambda: self.has_event(event, version))

    def wait_for_version(self, version: int) -> None:
        self.command.wait_until(lambda: self.models() == {"digits": version})

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/v2/health/ready", timeout=10).is_success
        except httpx.TransportError:
            return False


@contextmanager
def following(folder: Path, *options: str) -> Iterator[Server]:
    publish(folder / "repository", "digits", 1)
    with serving(folder / "command", folder / "repository", free_port(), *options) as server:
        yield server
        server.command.send(signal.SIGTERM, "process")
        assert server.command.process.wait() == 0
        server.command.wait_until(lambda: not server.command.left(), running=False)


@contextmanager
def serving(folder: Path, repository: Path, port: int, *options: str) -> Iterator[Server]:
    """Start a server that follows `repository`, with the command's files in `folder`."""
    words = ("serve", str(repository), "--port", str(port), "--follow", "--follow-interval", "0.2")
    with started(folder, *words, *options) as command:
        server = Server(command, repository, port)
        command.wait_until(server.is_ready)
        yield server


def roll(
    server: Server, updates: int, load: Clients | ClientLoad, disturb: Callable[[int], None] = lambda version: None
) -> None:
    """Publish versions from 2 on, every third of them broken, under load, and check every answer.

    `disturb` is called with each version after it was published.
    """
    moments: list[tuple[float, float, int, int]] = []
    good = 1
    with load.running():
        for version in range(2, 2 + updates):
            broken, began = version % 3 == 0, time.monotonic()
            publish(server.repository, "digits", version, broken=broken)
            disturb(version)
            server.wait_for("update_refused" if broken else "update_done", version)
            moments.append((began, time.monotonic(), good, good if broken else version))
            good = good if broken else version
            server.wait_for_version(good)
            server.command.wait_until(server.is_ready)
    for sent, ended, _, answered, *_ in (answer for answer in load.answers if answer.status == 200):
        # What was current before a request's start, during it, or while an update that it overlaps was in progress.
        current = {str(v) for began, done, *pair in moments if sent <= done + 5 and ended >= began for v in pair}
        before = [new for _, done, _, new in moments if done <= sent]
        assert answered in current | {str(before[-1] if before else 1)}, (answered, sent, ended, moments)
    assert not any(int(answer.version) % 3 == 0 for answer in load.answers if answer.status == 200)


@pytest.mark.parametrize(
    ("options", "updates"),
    [
        (("--replicas", "1"), 2),
        pytest.param(("--replicas", "2", "--proxy", "ray"), 2, marks=pytest.mark.soak),
        pytest.param(("--replicas", "1"), 30, marks=pytest.mark.soak),
        pytest.param(("--replicas", "3"), 30, marks=pytest.mark.soak),
    ],
)
def test_updates_under_load_lose_no_request_and_serve_no_broken_version(
    tmp_path: Path, options: tuple[str, ...], updates: int
) -> None:
    with following(tmp_path, *options) as server:
        clients = Clients(server.port)
        roll(server, updates, clients)
        assert [answer for answer in clients.answers if answer.status != 200] == []
        broken = [entry for entry in server.index() if entry["state"] == "UNAVAILABLE"]
        newest = 1 + updates
        assert [entry["version"] for entry in broken] == ([str(newest)] if newest % 3 == 0 else [])
        assert all("golden" in entry["reason"] for entry in broken)
        page = parse(httpx.get(f"http://127.0.0.1:{server.port}/metrics").raise_for_status().text)
        refused = page.total("zorse_updates_total", model="digits", outcome="refused")
        assert refused == sum(version % 3 == 0 for version in range(2, 2 + updates))
        # Models come and go too.
        publish(server.repository, "letters", 1)
        server.command.wait_until(lambda: "letters" in server.models())
        answer = httpx.post(f"http://127.0.0.1:{server.port}/v2/models/letters/generate?n=1", timeout=30)
        assert answer.is_success
        (server.repository / "letters").rename(tmp_path / "deleted")
        server.command.wait_until(lambda: "letters" not in server.models())
        server.command.wait_until(lambda: any(line["event"] == "model_stopped" for line in server.events()))
        answer = httpx.get(f"http://127.0.0.1:{server.port}/v2/models/letters", timeout=30)
        assert answer.status_code == 404
