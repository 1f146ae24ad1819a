"""`zorse serve --grpc-port` as gRPC clients see it: every call, where it listens, a dead replica, and a stop."""

from __future__ import annotations

import queue
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
from tritonclient.grpc import InferenceServerClient, InferenceServerException, InferInput, service_pb2

from serving.ports import free_port
from tests.cluster.commands import Started, started
from tests.cluster.grpc_load import GrpcLoad
from tests.cluster.sockets import command_line, is_loopback, listening
from tests.serving import triton_grpc
from tests.serving.tiny import (
    LATENT_DIM,
    conditional_manifest,
    generator_graph,
    generator_manifest,
    inverter_graph,
    inverter_manifest,
    write,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]

LATENT = np.zeros((1, LATENT_DIM), np.float32)


@dataclass(frozen=True)
class Server:
    """A running server of three models, each in two processes."""

    command: Started
    port: int
    grpc_port: int

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    def is_ready(self) -> bool:
        try:
            with InferenceServerClient(self.target) as client:
                return bool(client.is_server_ready())
        except InferenceServerException:
            return False

    def replicas(self) -> set[psutil.Process]:
        """Return the processes of the model `digits`."""
        children = psutil.Process(self.command.process.pid).children(recursive=True)
        return {child for child in children if "ServeReplica:zorse.digits:model" in command_line(child)}

    def load(self) -> GrpcLoad:
        request = service_pb2.ModelInferRequest(model_name="digits", raw_input_contents=[LATENT.tobytes()])
        request.inputs.add(name="latent", datatype="FP32", shape=LATENT.shape)
        return GrpcLoad(self.target, request.SerializeToString())


@contextmanager
def _server(folder: Path, *options: str) -> Iterator[Server]:
    repository = folder / "repository"
    write(repository, generator_graph(), generator_manifest())
    write(repository, inverter_graph(), inverter_manifest())
    write(repository, generator_graph(classes=3), conditional_manifest())
    port, grpc_port = free_port(), free_port()
    ports = ("--port", str(port), "--grpc-port", str(grpc_port))
    with started(folder / "command", "serve", str(repository), *ports, "--replicas", "2", *options) as command:
        running = Server(command, port, grpc_port)
        command.wait_until(running.is_ready)
        yield running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with _server(tmp_path_factory.mktemp("grpc")) as running:
        yield running


def test_every_call_of_tritonclient_is_answered(server: Server) -> None:
    triton_grpc.run_all(server.target)


def test_server_listens_on_its_host_alone(server: Server) -> None:
    server.command.wait_until(lambda: ("127.0.0.1", server.grpc_port) in listening(server.command.process.pid))
    ports = listening(server.command.process.pid)
    assert {place: name for place, name in ports.items() if not is_loopback(place[0])} == {}


def test_replica_that_is_killed_fails_hardly_a_call(server: Server) -> None:
    load, before = server.load(), server.replicas()
    with load.running():
        load.wait_for(300)
        next(iter(before)).kill()
        server.command.wait_until(lambda: len(server.replicas()) == 2 and server.replicas() != before)
        load.wait_for(1000)
    failed = [answer for answer in load.answers if answer.code != "OK"]
    assert {answer.code for answer in failed} <= {"UNAVAILABLE"}, load.summary()
    # Those that the dead process had begun to answer cannot be repeated.
    assert len(failed) <= max(load.clients, len(load.answers) / 1000), load.summary()


def test_server_of_all_interfaces_stops_without_cutting_a_call(tmp_path: Path) -> None:
    with _server(tmp_path, "--host", "0.0.0.0", "--insecure") as server:
        outside = {place for place in listening(server.command.process.pid) if not is_loopback(place[0])}
        assert outside == {("0.0.0.0", server.port), ("0.0.0.0", server.grpc_port)}
        load, answers = server.load(), queue.Queue()
        client = InferenceServerClient(server.target)
        client.start_stream(lambda result, error: answers.put((result, error)))
        latent = InferInput("latent", list(LATENT.shape), "FP32").set_data_from_numpy(LATENT)
        with load.running():
            load.wait_for(200)
            client.async_stream_infer("digits", [latent])
            assert answers.get(timeout=60)[1] is None
            sent = time.monotonic()
            server.command.send(signal.SIGTERM, "process")
            error = answers.get(timeout=60)[1]
            server.command.wait_until(lambda: server.command.process.poll() is not None, running=False)
        client.stop_stream(cancel_requests=True)
        client.close()
    assert server.command.process.returncode == 0, server.command.log
    assert error.status() == "StatusCode.UNAVAILABLE"
    assert {answer.code for answer in load.answers if answer.sent < sent} == {"OK"}, load.summary()
    later = {answer.code for answer in load.answers if answer.sent >= sent and not answer.is_refused}
    assert later <= {"OK", "UNAVAILABLE"}, load.summary()
