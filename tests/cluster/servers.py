"""Servers as a command starts them, and what programs ask of them."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import psutil
from tritonclient.grpc import InferenceServerClient, InferenceServerException, service_pb2

from serving.ports import free_port
from serving.readings import parse
from tests.cluster.commands import Started, Target, started
from tests.cluster.grpc_load import GrpcLoad
from tests.cluster.load import Answer, Load
from tests.cluster.sockets import command_line, listening
from tests.serving.tiny import LATENT_DIM
from zorse_common.private_ray import RAY_FOLDERS, ray_folder_prefix

PROXIES = ("haproxy", "ray")
PATH = "/v2/models/digits/generate"
BODY = json.dumps({"n": 1}).encode()
HEAD = f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n".encode()
LATENT = np.zeros((1, LATENT_DIM), np.float32)


@dataclass(frozen=True)
class Server:
    """A running server. `grpc_port` is 0 if it has none."""

    command: Started
    port: int
    grpc_port: int

    def get(self, path: str) -> httpx.Response | None:
        """Return the answer to GET, or None while nobody listens."""
        try:
            return httpx.get(f"{self.url}{path}", timeout=60)
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
        return answer is not None and answer.is_success and (not self.grpc_port or self._is_grpc_ready())

    def _is_grpc_ready(self) -> bool:
        try:
            with InferenceServerClient(self.grpc_target) as client:
                return bool(client.is_server_ready())
        except InferenceServerException:
            return False

    def reading(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples that have these labels."""
        answer = self.get("/metrics")
        assert answer is not None
        return parse(answer.raise_for_status().text).total(name, **labels)

    def wait_for(self, value: float, name: str, **labels: str) -> None:
        """Wait until a metric has this value."""
        self.command.wait_until(lambda: self.reading(name, **labels) == value)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def grpc_target(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    def load(self) -> Load:
        return Load(self.port, PATH, BODY)

    def grpc_load(self) -> GrpcLoad:
        request = service_pb2.ModelInferRequest(model_name="digits", raw_input_contents=[LATENT.tobytes()])
        request.inputs.add(name="latent", datatype="FP32", shape=LATENT.shape)
        return GrpcLoad(self.grpc_target, request.SerializeToString())

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
def served(
    folder: Path, write_models: Callable[[Path], object], *options: str, proxy: str = "haproxy"
) -> Iterator[Server]:
    """Start a server of the models that `write_models` writes, and yield it once it is ready.

    Behind HAProxy it answers gRPC too.
    """
    write_models(folder / "repository")
    port, grpc_port = free_port(), free_port() if proxy == "haproxy" else 0
    words = ["serve", str(folder / "repository"), "--port", str(port), "--proxy", proxy]
    if grpc_port:
        words += ["--grpc-port", str(grpc_port)]
    with started(folder / "command", *words, *options) as command:
        running = Server(command, port, grpc_port)
        command.wait_until(running.is_ready)
        yield running


def fails_hardly(answers: list[Answer]) -> bool:
    """Return whether at most one request in a thousand failed, each with 503 or in the middle of its answer."""
    failed = [answer for answer in answers if answer.status != 200]
    is_explained = all(answer.code == "unavailable" or answer.error == "IncompleteRead" for answer in failed)
    return is_explained and len(failed) <= len(answers) / 1000


def stop(server: Server, to: Target) -> float:
    """Send SIGTERM and wait for the end of the command. Returns when it was sent, in seconds of a monotonic clock."""
    sent = time.monotonic()
    server.command.send(signal.SIGTERM, to)
    server.command.wait_until(lambda: server.command.process.poll() is not None, running=False)
    return sent


def is_orderly_stop(answers: list[Answer], stopped: float, proxy: str) -> bool:
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
