"""A server whose replicas follow the work: from none to the most and back, without a failed request."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput

from serving.idle_models import IDLE_PREFIX
from serving.ports import free_port
from serving.readings import parse
from tests.cluster.commands import Started, started
from tests.cluster.load import Load
from tests.serving.tiny import inverter_manifest, slow_graph, write
from zorse_common.image_writer import encode

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

SOURCE = np.zeros((1, 16, 16, 3), np.uint8)
TRANSLATE = "/v2/models/slow/translate"


@dataclass
class Server:
    """A running server of one slow model, and what a look every now and then saw: (is ready, replicas)."""

    command: Started
    port: int
    grpc_port: int | None = None
    seen: list[tuple[bool, int]] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/v2/health/ready", timeout=30).is_success
        except httpx.TransportError:
            return False

    def replicas(self) -> int:
        page = httpx.get(f"{self.url}/metrics", timeout=30).raise_for_status().text
        return round(parse(page).total("zorse_replicas", model="slow"))

    def wait_for(self, replicas: int) -> None:
        self.command.wait_until(lambda: self.replicas() == replicas)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Look again and again while the block runs."""
        self._ended.clear()
        thread = threading.Thread(target=self._watch)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.2):
            self.seen.append((self.is_ready(), self.replicas()))

    def load(self, clients: int) -> Load:
        return Load(self.port, TRANSLATE, encode(SOURCE[0]), "image/png", clients)


@contextmanager
def elastic(folder: Path, *options: str, grpc: bool = False) -> Iterator[Server]:
    write(folder / "repository", slow_graph(), inverter_manifest("slow"))
    port, grpc_port = free_port(), free_port() if grpc else None
    words = ["serve", str(folder / "repository"), "--port", str(port), *options]
    words += [] if grpc_port is None else ["--grpc-port", str(grpc_port)]
    with started(folder / "command", *words) as command:
        server = Server(command, port, grpc_port)
        command.wait_until(server.is_ready)
        yield server
        command.send(signal.SIGTERM, "process")
        assert command.process.wait() == 0
        command.wait_until(lambda: not command.left(), running=False)


def ask_about(server: Server) -> None:
    """Ask about the model in every way, which starts no replica."""
    about = httpx.get(f"{server.url}/v2/models/slow", timeout=30).raise_for_status().json()
    assert (about["name"], about["versions"]) == ("slow", ["1"])
    assert httpx.get(f"{server.url}/v2/models/slow/ready", timeout=30).json() == {"name": "slow", "ready": True}
    assert httpx.get(f"{server.url}/v2/models/slow/versions/2", timeout=30).status_code == 404
    assert httpx.get(f"{server.url}{IDLE_PREFIX}/v2/models/slow", timeout=30).status_code == 404
    (entry,) = httpx.post(f"{server.url}/v2/repository/index", timeout=30).json()
    assert (entry["name"], entry["state"]) == ("slow", "READY")
    words = [sys.executable, "-m", "zorse", "serve", "status", "--url", server.url, "--json"]
    status = json.loads(subprocess.run(words, capture_output=True, text=True, check=True, env=os.environ).stdout)
    assert (status["ready"], status["models"][0]["name"], status["models"][0]["replicas"]) == (True, "slow", 0)
    if server.grpc_port is not None:
        with InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
            assert client.is_model_ready("slow")
            assert client.get_model_metadata("slow").name == "slow"
            assert client.get_model_config("slow").config.name == "slow"


def infer_by_grpc(server: Server) -> None:
    with InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        source = InferInput("source", list(SOURCE.shape), "UINT8").set_data_from_numpy(SOURCE)
        image = client.infer("slow", [source]).as_numpy("image")
    assert image is not None
    assert np.array_equal(image, 255 - SOURCE)


def check_profile(server: Server, clients: int, most: int) -> None:
    """Send nothing, then much, then little, then nothing, and check every answer."""
    server.wait_for(0)
    ask_about(server)
    assert server.replicas() == 0
    with server.watched():
        peak, rest = server.load(clients), server.load(1)
        with rest.running():
            with peak.running():
                server.wait_for(most)
            server.wait_for(1)
            rest.wait_for(10)
        server.wait_for(0)
    for load in (peak, rest):
        assert {answer.status for answer in load.answers} == {200}, load.summary()
    assert all(ready for ready, _ in server.seen), server.seen
    assert max(replicas for _, replicas in server.seen) == most


def test_replica_comes_for_work_and_goes_after_it(tmp_path: Path) -> None:
    with elastic(tmp_path, "--replicas", "0:1", "--scale-down-after", "1", grpc=True) as server:
        check_profile(server, 2, 1)


@pytest.mark.soak
@pytest.mark.parametrize("options", [(), ("--proxy", "ray")])
def test_replicas_follow_the_work_from_none_to_the_most_and_back(tmp_path: Path, options: tuple[str, ...]) -> None:
    with elastic(tmp_path, "--replicas", "0:4", "--scale-down-after", "3", *options, grpc=not options) as server:
        for _ in range(3):
            check_profile(server, 8, 4)
        if not options:
            infer_by_grpc(server)


@pytest.mark.soak
def test_version_that_comes_while_the_model_is_idle_proves_itself_and_is_served(tmp_path: Path) -> None:
    options = ("--replicas", "0:2", "--scale-down-after", "1", "--follow", "--follow-interval", "0.5")
    with elastic(tmp_path, *options) as server:
        server.wait_for(0)
        with server.watched():
            folder = write(tmp_path / "staged", slow_graph(), inverter_manifest("slow", version=2))
            folder.rename(tmp_path / "repository" / "slow" / "2")
            server.command.wait_until(lambda: '"update_done"' in server.command.log)
            server.wait_for(0)
        assert all(ready for ready, _ in server.seen), server.seen
        assert httpx.get(f"{server.url}/v2/models/slow", timeout=30).json()["versions"] == ["2"]
        load = server.load(2)
        with load.running():
            load.wait_for(4)
        assert {answer.status for answer in load.answers} == {200}, load.summary()
