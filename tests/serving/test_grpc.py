"""gRPC on a Unix socket: stock `tritonclient.grpc`, and calls that are refused, cancelled, late or stopped."""

from __future__ import annotations

import json
import logging
import queue
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient.grpc import InferenceServerClient
from tritonclient.grpc import service_pb2 as stock

from serving.batching import Tensors
from serving.config import AccessSettings, ApiKey, Limits
from serving.errors import InternalError, OverloadedError
from serving.haproxy_grpc import MESSAGE_BYTES
from serving.keys import plain_key
from serving.logs import JsonFormatter
from tests.serving import triton_grpc
from tests.serving.gated_submit import Gate
from tests.serving.grpc_invert import SOURCE, server, source
from tests.serving.grpc_live import LiveGrpc, live_grpc
from tests.serving.tiny import conditional_manifest, generator_manifest, inverter_manifest
from tests.serving.triton_grpc_client import SECONDS, refused

INFER = "/inference.GRPCInferenceService/ModelInfer"


def request(**fields: Any) -> bytes:
    """Return the bytes of a request to `invert`, with further fields."""
    tensor = {"name": "source", "datatype": "UINT8", "shape": SOURCE.shape}
    message = stock.ModelInferRequest(
        **{"model_name": "invert", "inputs": [tensor], "raw_input_contents": [SOURCE.tobytes()], **fields}
    )
    content: bytes = message.SerializeToString()
    return content


def error_of(live: LiveGrpc, content: bytes, *metadata: tuple[str, str], model: str = "") -> grpc.RpcError:
    """Return the error with which the server answers an inference."""
    with grpc.insecure_channel(live.target(model)) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(INFER)(content, timeout=SECONDS, metadata=metadata)
    return caught.value


def trailing(error: Any) -> dict[str, str]:
    return {entry.key: entry.value for entry in error.trailing_metadata()}


def test_every_call_of_the_client_is_answered() -> None:
    manifests = [generator_manifest(), inverter_manifest(), conditional_manifest()]
    local = AccessSettings(is_local=True)
    with tempfile.TemporaryDirectory() as folder, live_grpc(Path(folder), manifests, access=local) as live:
        triton_grpc.run_all(live.target())


def test_models_are_loaded_and_unloaded_with_a_key_or_on_a_local_server() -> None:
    with server() as live:
        client = InferenceServerClient(live.target())
        refused("PERMISSION_DENIED", "start it with --keys", client.unload_model, "invert")
        refused("PERMISSION_DENIED", "start it with --keys", client.load_model, "invert")
        client.close()
    with server(access=AccessSettings(keys=(plain_key("secret"),))) as live:
        client = InferenceServerClient(live.target())
        refused("UNAUTHENTICATED", "requires its API key", client.unload_model, "invert")
        client.unload_model("invert", headers={"x-api-key": "secret"})
        (entry,) = client.get_model_repository_index(headers={"x-api-key": "secret"}).models
        assert (entry.name, entry.state, entry.reason) == ("invert", "UNAVAILABLE", "unloaded")
        client.close()


def test_calls_need_the_key_except_those_of_health() -> None:
    with server(access=AccessSettings(keys=(plain_key("secret"),))) as live:
        client = InferenceServerClient(live.target())
        assert client.is_server_live()
        assert client.is_server_ready()
        text = "this server requires its API key"
        refused("UNAUTHENTICATED", text, client.get_server_metadata)
        refused("UNAUTHENTICATED", text, client.infer, "invert", source(), headers={"x-api-key": "wrong"})
        for headers in ({"x-api-key": "secret"}, {"authorization": "Bearer secret"}):
            assert client.infer("invert", source(), headers=headers).get_response().model_name == "invert"
        answers: queue.Queue[Any] = queue.Queue()
        client.start_stream(lambda result, error: answers.put(error))
        # It is refused before it has a message.
        error = answers.get(timeout=SECONDS)
        assert (error.status(), text in error.message()) == ("StatusCode.UNAUTHENTICATED", True)
        client.stop_stream()
        client.close()


def test_key_that_has_used_up_its_rate_is_told_when_to_try_again() -> None:
    key = ApiKey(name="slow", sha256=ApiKey.digest(b"secret"), rate="1/h")
    with server(access=AccessSettings(keys=(key,))) as live:
        client = InferenceServerClient(live.target())
        client.get_server_metadata(headers={"x-api-key": "secret"})
        client.close()
        error = error_of(live, request(), ("x-api-key", "secret"))
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "the key 'slow' has used up its rate" in error.details()
        assert trailing(error)["x-error-code"] == "rate_limit"
        assert 3500 < int(trailing(error)["retry-after"]) <= 3600


async def _overloaded(tensors: Tensors, deadline: float | None = None) -> Tensors:
    raise OverloadedError("the server is busy with 10 s of work", 7)


async def _broken(tensors: Tensors, deadline: float | None = None) -> Tensors:
    raise RuntimeError("a secret")


async def _engine_fails(tensors: Tensors, deadline: float | None = None) -> Tensors:
    raise InternalError("a secret")


def test_overloaded_server_is_unavailable() -> None:
    with server(submit=_overloaded) as live:
        error = error_of(live, request(), model="invert")
        assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, "the server is busy with 10 s of work")
        assert (trailing(error)["x-error-code"], trailing(error)["retry-after"]) == ("overloaded", "7")


@pytest.mark.parametrize("submit", [_broken, _engine_fails])
def test_failure_inside_the_server_stays_there(submit: Any, caplog: pytest.LogCaptureFixture) -> None:
    with server(submit=submit) as live:
        error = error_of(live, request(), model="invert")
    assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "internal error")
    assert "a secret" in caplog.text


def test_run_ends_when_the_deadline_of_the_client_has_passed() -> None:
    gate = Gate()
    with server(submit=gate.submit) as live:
        client = InferenceServerClient(live.target())
        # A busy machine may need longer until the request is there.
        for seconds in (0.2, 2, 20):
            refused("DEADLINE_EXCEEDED", "", client.infer, "invert", source(), client_timeout=seconds)
            if gate.arrived.acquire(blocking=False):
                break
        assert gate.left.acquire(timeout=SECONDS)
        client.close()
    assert gate.cancelled == 1


def test_deadline_of_the_client_is_that_of_the_run() -> None:
    gate = Gate()
    gate.opened.set()
    with server(submit=gate.submit) as live:
        client = InferenceServerClient(live.target())
        client.infer("invert", source(), client_timeout=100)
        client.infer("invert", source(), client_timeout=1000)
        client.infer("invert", source())
        client.infer("invert", source(), client_timeout=1000, timeout=1_000_000)
        client.close()
        first, second, none, third = gate.deadlines
        assert first is not None
        assert second is not None
        assert third is not None
        assert none is None
        assert second - first > 500
        assert third < first


def test_request_whose_own_timeout_has_passed_is_told_so() -> None:
    with server() as live:
        client = InferenceServerClient(live.target())
        refused("DEADLINE_EXCEEDED", "within", client.infer, "invert", source(), timeout=1)
        client.close()


def test_call_that_is_cancelled_is_not_run_further_and_is_counted() -> None:
    gate = Gate()
    with server(submit=gate.submit) as live, grpc.insecure_channel(live.target("invert")) as channel:
        call = channel.unary_unary(INFER).future(request())
        assert gate.arrived.acquire(timeout=SECONDS)
        call.cancel()
        assert gate.left.acquire(timeout=SECONDS)
    assert gate.cancelled == 1
    assert counted(live, "grpc_infer") == {499: 1}


def counted(live: LiveGrpc, route: str) -> dict[int, int]:
    """Return how many requests of a route `invert` has answered, by their status."""
    metrics = live.metrics["invert"]
    values = metrics._files.histogram.values
    return {
        status: round(sum(values[key] for key in histogram._buckets))
        for (name, status), histogram in metrics._requests.items()
        if name == route
    }


def test_calls_are_counted_once_wherever_they_arrive() -> None:
    with server() as live:
        for target in (live.target(), live.target("invert")):
            client = InferenceServerClient(target)
            client.infer("invert", source())
            refused("NOT_FOUND", "version 2", client.infer, "invert", source(), "2")
            client.close()
    assert counted(live, "grpc_infer") == {200: 2, 404: 2}


def test_message_is_refused_by_the_size_that_the_proxy_states_before_it_is_read() -> None:
    with server(limits=Limits(bytes=1000)) as live, grpc.insecure_channel(live.target()) as channel:
        silent = threading.Event()

        def nothing() -> Iterator[bytes]:
            silent.wait()
            yield b""

        call = channel.stream_unary(INFER).future(nothing(), timeout=SECONDS, metadata=((MESSAGE_BYTES, "1001"),))
        error = call.exception()
        silent.set()
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error.details() == "the request has 1001 bytes and the server takes 1000"
        assert error_of(live, request()).code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_compressed_message_that_grows_beyond_the_limit_is_refused() -> None:
    with server(limits=Limits(bytes=100_000)) as live, grpc.insecure_channel(live.target()) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(INFER)(bytes(10**7), compression=grpc.Compression.Gzip, timeout=SECONDS)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("content", "code", "text"),
    [
        (b"\xff\xff", "INVALID_ARGUMENT", "is not a ModelInferRequest of the protocol"),
        (b"\x2a\x00" * 100_000, "RESOURCE_EXHAUSTED", "more than 512 fields"),
        (b"\x0a\xff\xff\xff\x0f" + bytes(70_000), "INVALID_ARGUMENT", "is not a ModelInferRequest"),
        (request(id="i" * 2_000_000), "RESOURCE_EXHAUSTED", "bytes outside of raw_input_contents"),
        (request(raw_input_contents=[]), "INVALID_ARGUMENT", "its uint_contents has 0 numbers"),
        (request(raw_input_contents=[b"", b""]), "INVALID_ARGUMENT", "has 2 tensors for 1 inputs"),
        (request(raw_input_contents=[b"abc"]), "INVALID_ARGUMENT", "needs 1200 bytes"),
        (request(model_name=""), "NOT_FOUND", "there is no model"),
    ],
)
def test_malformed_request_is_refused(content: bytes, code: str, text: str) -> None:
    with server() as live:
        error = error_of(live, content)
    assert error.code().name == code
    assert text in error.details()


def test_request_id_is_in_the_access_log(caplog: pytest.LogCaptureFixture) -> None:

    lines: list[dict[str, Any]] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(json.loads(JsonFormatter("invert", 1).format(record)))

    logger, handler = logging.getLogger("serving.access"), Handler()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with server(access_log=True) as live:
            client = InferenceServerClient(live.target("invert"))
            client.infer("invert", source(), headers={"x-request-id": "mine"})
            client.close()
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    (line,) = lines
    assert (line["request_id"], line["route"], line["status"]) == ("mine", "grpc_infer", 200)
    assert line["message"] == "gRPC ModelInfer"
