"""Streams over gRPC: how many requests are in progress, and what ends them."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferenceServerException, InferInput, InferRequestedOutput

from tests.serving.gated_submit import Gate
from tests.serving.grpc_invert import server, source
from tests.serving.grpc_live import LiveGrpc
from tests.serving.triton_grpc_client import SECONDS, refused


@contextmanager
def stream(live: LiveGrpc) -> Iterator[tuple[Callable[..., None], queue.Queue[tuple[Any, Any]]]]:
    """Open a stream; yield the function that sends a request, and the answers."""
    client, answers = InferenceServerClient(live.target("invert")), queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    yield lambda **options: client.async_stream_infer("invert", source(), **options), answers
    client.stop_stream()
    client.close()


def test_stream_keeps_a_bounded_number_of_requests_in_progress() -> None:
    gate = Gate()
    with server(submit=gate.submit) as live, stream(live) as (send, answers):
        for k in range(60):
            send(request_id=str(k))
        for _ in range(17):
            assert gate.arrived.acquire(timeout=SECONDS)
        gate.opened.set()
        ids = [answers.get(timeout=SECONDS)[0].get_response().id for _ in range(60)]
    assert ids == [str(k) for k in range(60)]
    assert 17 <= gate.most <= 18


def test_stream_ends_in_order_when_the_server_stops() -> None:
    gate = Gate()
    with server(submit=gate.submit) as live, stream(live) as (send, answers):
        send()
        assert gate.arrived.acquire(timeout=SECONDS)
        closing = asyncio.run_coroutine_threadsafe(live.servers.pop("invert").close(), live.loop)
        # The stream takes no more, and what it took is answered.
        gate.opened.set()
        assert answers.get(timeout=SECONDS)[1] is None
        error = answers.get(timeout=SECONDS)[1]
        assert isinstance(error, InferenceServerException)
        assert (error.status(), "starts, stops" in error.message()) == ("StatusCode.UNAVAILABLE", True)
        closing.result(SECONDS)
    assert not Path(live.target("invert").removeprefix("unix:")).exists()


def test_nothing_counts_as_in_progress_once_calls_and_streams_have_ended() -> None:
    image = np.zeros((1, 300, 300, 3), np.uint8)
    large = [InferInput("source", list(image.shape), "UINT8").set_data_from_numpy(image)]
    with server() as live:
        admission = live.admissions["invert"]
        with stream(live) as (send, answers):
            for _ in range(20):
                send()
            send(model_version="2")
            for _ in range(21):
                answers.get(timeout=SECONDS)
        client = InferenceServerClient(live.target("invert"))
        client.infer("invert", large)
        refused("NOT_FOUND", "version 2", client.infer, "invert", large, "2")
        refused("DEADLINE_EXCEEDED", "within", client.infer, "invert", large, timeout=1)
        client.close()
        # The end of a call is noticed after the client has its answer.
        live.run(_until(lambda: (admission.requests, admission.bytes, admission.images) == (0, 0, 0)))


async def _until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not done():
            await asyncio.sleep(0.001)


def test_client_that_leaves_a_stream_ends_its_runs() -> None:
    gate = Gate()
    with server(submit=gate.submit) as live:
        client = InferenceServerClient(live.target("invert"))
        client.start_stream(lambda result, error: None)
        for _ in range(3):
            client.async_stream_infer("invert", source(), outputs=[InferRequestedOutput("image")])
            assert gate.arrived.acquire(timeout=SECONDS)
        client.stop_stream(cancel_requests=True)
        for _ in range(3):
            assert gate.left.acquire(timeout=SECONDS)
        client.close()
    assert gate.cancelled == 3
