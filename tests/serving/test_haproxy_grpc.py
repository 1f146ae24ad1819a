"""HAProxy, the real one, finds the model of a gRPC call in its message, in front of servers without Ray."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput, service_pb2

from serving.batcher import Submit
from serving.config import AccessSettings
from serving.haproxy import find_haproxy
from serving.haproxy_grpc import GRPC_SERVICE, grpc_sections
from serving.haproxy_text import UNAVAILABLE
from tests.serving import triton_grpc, triton_grpc_client
from tests.serving.gated_submit import Gate
from tests.serving.grpc_live import live_grpc
from tests.serving.tiny import conditional_manifest, generator_manifest, inverter_manifest
from tests.serving.triton_grpc_client import SECONDS, refused

MANIFESTS = [generator_manifest(), inverter_manifest(), conditional_manifest()]
LOCAL = AccessSettings(is_local=True)
MODELS = {manifest.name: f"/v2/models/{manifest.name}" for manifest in MANIFESTS}
GATEWAY = {"gateway": "/"}
DEFAULTS = """global
    tune.bufsize 65536
defaults
    mode http
    timeout client 9s
    timeout connect 9s
    timeout server 0
    option abortonclose
"""


@contextmanager
def haproxy(paths: dict[str, str], *changes: tuple[str, str], submit: Submit | None = None) -> Iterator[str]:
    """Run HAProxy in front of the servers of `paths`, each with the path of its application; yield the target.

    `changes` are texts of the configuration and what takes their places.
    """
    binary = find_haproxy()
    if binary is None:
        pytest.skip("HAProxy is not installed")
    # The server of a replica is named as Ray does, with the replica's id at the end.
    sections = {"frontend http_frontend": [f"    acl is_http-{name} path {path}" for name, path in paths.items()]}
    with tempfile.TemporaryDirectory() as folder, live_grpc(Path(folder), MANIFESTS, submit=submit, access=LOCAL):
        for name in paths:
            lines = [f"backend http-{name}", f"    server R-{name} unix@{folder}/{name} check"]
            sections[lines[0]] = lines
        added = grpc_sections(sections, f"    bind unix@{folder}/front proto h2", folder, list(paths))
        backends = [lines for key, lines in sections.items() if key.startswith("backend ")]
        text = DEFAULTS + "".join(f"{line}\n" for lines in (*backends, *added) for line in lines)
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        config, pid = Path(folder, "haproxy.cfg"), Path(folder, "pid")
        config.write_text(text, encoding="utf-8")
        subprocess.run([binary, "-D", "-p", str(pid), "-f", str(config)], check=True)
        try:
            yield f"unix:{folder}/front"
        finally:
            os.kill(int(pid.read_text()), signal.SIGTERM)


def inputs_of(side: int) -> list[InferInput]:
    image = np.full((1, side, side, 3), 200, np.uint8)
    return [InferInput("source", list(image.shape), "UINT8").set_data_from_numpy(image)]


def test_every_call_of_the_client_is_answered_through_haproxy() -> None:
    with haproxy(MODELS | GATEWAY) as target:
        triton_grpc.run_all(target)


def test_calls_go_to_the_model_that_they_name() -> None:
    with haproxy(MODELS) as target:
        client = InferenceServerClient(target)
        for model in MODELS:
            metadata = client.get_model_metadata(model)
            assert metadata.name == client.get_model_config(model).config.name == model
            result = client.infer(model, triton_grpc_client.inputs_of(metadata))
            assert result.get_response().model_name == model
        # The name is at the beginning of a message that HAProxy does not hold whole.
        for side in (20, 300):
            assert client.infer("invert", inputs_of(side)).as_numpy("image").shape == (1, side, side, 3)
        # Nothing of this names a model that is served.
        refused("UNAVAILABLE", UNAVAILABLE, client.is_server_live)
        refused("UNAVAILABLE", UNAVAILABLE, client.infer, "nothing", inputs_of(20))
        refused("UNAVAILABLE", UNAVAILABLE, client.infer, "invert", inputs_of(300), compression_algorithm="gzip")
        client.close()


def test_compressed_request_reaches_its_model_through_the_gateway() -> None:
    with haproxy(MODELS | GATEWAY) as target:
        client = InferenceServerClient(target)
        result = client.infer("invert", inputs_of(300), compression_algorithm="gzip")
        assert result.as_numpy("image").shape == (1, 300, 300, 3)
        client.close()


def test_stream_goes_to_the_model_of_its_first_request_and_may_begin_without_one() -> None:
    for paths in (MODELS, GATEWAY):
        with haproxy(paths, ("inspect-delay 1s", "inspect-delay 100ms")) as target:
            client, answers = InferenceServerClient(target), queue.Queue()
            client.start_stream(lambda result, error, put=answers.put: put((result, error)))
            if paths is GATEWAY:
                with pytest.raises(queue.Empty):
                    answers.get(timeout=0.5)
            client.async_stream_infer("invert", inputs_of(20))
            result, error = answers.get(timeout=SECONDS)
            assert error is None
            assert result.get_response().model_name == "invert"
            client.stop_stream()
            client.close()


def test_call_without_its_message_is_ended() -> None:
    ended = threading.Event()

    def nothing() -> Iterator[bytes]:
        ended.wait()
        yield b""

    with haproxy(MODELS, ("wait-for-body time 10s", "wait-for-body time 100ms")) as target:
        with grpc.insecure_channel(target) as channel, pytest.raises(grpc.RpcError) as caught:
            channel.stream_unary(f"/{GRPC_SERVICE}/ModelInfer")(nothing(), timeout=SECONDS)
        ended.set()
        error: Any = caught.value
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert error.details() == "the request was not complete in time: send its headers and body faster"


@pytest.mark.parametrize("paths", [MODELS, GATEWAY])
def test_call_that_is_cancelled_is_not_run_further(paths: dict[str, str]) -> None:
    gate = Gate()
    request = service_pb2.ModelInferRequest(model_name="invert", raw_input_contents=[bytes(1200)])
    request.inputs.add(name="source", datatype="UINT8", shape=[1, 20, 20, 3])
    with haproxy(paths, submit=gate.submit) as target, grpc.insecure_channel(target) as channel:
        call = channel.unary_unary(f"/{GRPC_SERVICE}/ModelInfer").future(request.SerializeToString(), timeout=SECONDS)
        assert gate.arrived.acquire(timeout=SECONDS)
        call.cancel()
        assert gate.left.acquire(timeout=SECONDS)
    assert gate.cancelled == 1
    # The time that the client has left came with the call.
    assert gate.deadlines[0] is not None


def test_request_has_an_id_that_is_answered() -> None:
    with haproxy(GATEWAY) as target, grpc.insecure_channel(target) as channel:
        call = channel.unary_unary(f"/{GRPC_SERVICE}/ServerLive")
        _, answered = call.with_call(b"", metadata=(("x-request-id", "mine"),))
        assert ("x-request-id", "mine") in [tuple(entry) for entry in answered.initial_metadata()]
