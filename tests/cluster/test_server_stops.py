"""A server that other machines may use, for each proxy: broken models, clients that leave, and its stop, the last."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput

from tests.cluster.grpc_load import GrpcLoad
from tests.cluster.servers import BODY, HEAD, LATENT, PATH, PROXIES, Server, is_orderly_stop, served, stop
from tests.cluster.sockets import is_loopback
from tests.serving.tiny import (
    generator_graph,
    generator_manifest,
    inverter_graph,
    inverter_manifest,
    slow_graph,
    write,
    write_manifest,
)
from zorse_common.image_writer import encode

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]


def write_models(repository: Path) -> None:
    """Write two sound models, one whose file has another digest, and one whose graph is not that of its manifest."""
    write(repository, generator_graph(), generator_manifest("digits"))
    write(repository, slow_graph(), inverter_manifest("slow"))
    corrupt = write(repository, generator_graph(), generator_manifest("corrupt"))
    (corrupt / "model.onnx").write_bytes(b"no graph")
    manifest = generator_manifest("other")
    other = write(repository, generator_graph(), manifest)
    onnx.save(inverter_graph(), other / "model.onnx")
    write_manifest(other, manifest)


@pytest.fixture(scope="module", params=PROXIES)
def proxy(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def server(proxy: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    options = ("--host", "0.0.0.0", "--insecure", "--max-body", "100000")
    with served(tmp_path_factory.mktemp("server"), write_models, *options, proxy=proxy) as running:
        yield running


def test_server_of_all_interfaces_listens_there_on_its_ports_alone(server: Server) -> None:
    outside = {place for place in server.listening("0.0.0.0") if not is_loopback(place[0])}
    assert outside == {("0.0.0.0", port) for port in (server.port, server.grpc_port) if port}


def test_broken_models_are_named_and_the_others_are_served(server: Server) -> None:
    index = httpx.post(f"{server.url}/v2/repository/index").json()
    assert {entry["name"]: entry["state"] for entry in index} == {
        "digits": "READY",
        "slow": "READY",
        "corrupt": "UNAVAILABLE",
        "other": "UNAVAILABLE",
    }
    assert all(bool(entry["reason"]) == (entry["state"] == "UNAVAILABLE") for entry in index)
    assert httpx.post(f"{server.url}{PATH}", content=BODY).status_code == 200
    answer = server.get("/v2/models/other/ready")
    assert answer is not None
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    server.command.wait_until(lambda: "/docs" in server.command.log)
    told = [line for line in server.command.log.splitlines() if line.startswith("skipped ")]
    assert sorted(line.split()[1] for line in told) == ["corrupt/1", "other/1"]


def test_answers_repeat_the_id_of_the_request_also_to_a_body_above_the_limit(server: Server) -> None:
    headers = {"Content-Type": "application/json", "X-Request-Id": "my-id"}
    for spaces, expected in ((90_000, (200, None)), (200_000, (413, "too_large"))):
        answer = httpx.post(f"{server.url}{PATH}", content=BODY + b" " * spaces, headers=headers, timeout=60)
        code = None if answer.is_success else answer.json()["code"]
        assert ((answer.status_code, code), answer.headers.get_list("x-request-id")) == (expected, ["my-id"])


def test_requests_of_clients_that_have_left_are_not_run(server: Server) -> None:
    # The model runs for a second, and what comes after this request waits.
    with server.half_sent(*_picture(160)) as runs:
        server.wait_for(1, "zorse_in_flight")
        with contextlib.ExitStack() as waiting:
            for _ in range(4):
                waiting.enter_context(server.half_sent(*_picture(32)))
            server.wait_for(4, "zorse_queued")
        assert runs.recv(4096).startswith(b"HTTP/1.1 200 ")
    server.wait_for(0, "zorse_in_flight")
    assert server.reading("zorse_rows_total", model="slow") == 1


def test_server_stops_without_cutting_a_request_or_a_call(server: Server, proxy: str) -> None:
    load = server.load()
    with load.running(), server.half_sent(HEAD, b"Content-Length: 100\r\n\r\n{"), contextlib.ExitStack() as more:
        load.wait_for(200)
        grpc_load = more.enter_context(_grpc_clients(server)) if server.grpc_port else None
        stopped = stop(server, "group" if proxy == "haproxy" else "process")
    assert server.command.process.returncode == 0, server.command.log
    assert is_orderly_stop(load.answers, stopped, proxy), load.summary()
    if grpc_load is not None:
        assert {answer.code for answer in grpc_load.answers if answer.sent < stopped} == {"OK"}, grpc_load.summary()
        later = {answer.code for answer in grpc_load.answers if answer.sent >= stopped and not answer.is_refused}
        assert later <= {"OK", "UNAVAILABLE"}, grpc_load.summary()


@contextlib.contextmanager
def _grpc_clients(server: Server) -> Iterator[GrpcLoad]:
    """Make calls, and hold a stream open, which ends with an error when the server stops in the block."""
    load, answers = server.grpc_load(), queue.Queue()
    client = InferenceServerClient(server.grpc_target)
    client.start_stream(lambda result, error: answers.put((result, error)))
    latent = InferInput("latent", list(LATENT.shape), "FP32").set_data_from_numpy(LATENT)
    with load.running():
        load.wait_for(200)
        client.async_stream_infer("digits", [latent])
        assert answers.get(timeout=60)[1] is None
        yield load
        assert answers.get(timeout=60)[1].status() == "StatusCode.UNAVAILABLE"
    client.stop_stream(cancel_requests=True)
    client.close()


def _picture(side: int) -> tuple[bytes, bytes]:
    """Return the head and the body of a request to translate a picture of side × side pixels."""
    content = encode(np.zeros((side, side, 3), np.uint8))
    head = f"POST /v2/models/slow/translate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(content)}\r\n"
    return f"{head}Content-Type: image/png\r\n\r\n".encode(), content
