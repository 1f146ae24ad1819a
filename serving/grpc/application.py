"""Everything around the calls: request ids, keys, limits, deadlines, errors, streams, metrics, logs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any

import grpc

from serving.access import Access
from serving.admission import Admission, Content
from serving.application import Application
from serving.errors import (
    InternalError,
    OverloadedError,
    ServingError,
    SlowRequestError,
    TooLargeError,
    UnavailableError,
)
from serving.grpc import open_inference_pb2 as pb
from serving.grpc.calls import INFER, Calls, route_name
from serving.grpc.context import HELD_BYTES, deadline_of, headers_of, read_message, refuse, transfer_seconds
from serving.grpc.messages import parsed
from serving.haproxy_grpc import MESSAGE_BYTES
from serving.metrics import ModelMetrics
from serving.open_inference import body_length
from zorse_common.errors import printable

STREAM = "ModelStreamInfer"
_REFUSALS = {401, 403, 429, 503}
_CLIENT_GONE = 499
_ROUTES = {
    "ServerLive": "/v2/health/live",
    "ServerReady": "/v2/health/ready",
    "RepositoryModelLoad": "/v2/repository/models/_/load",
    "RepositoryModelUnload": "/v2/repository/models/_/unload",
}
"""The HTTP routes of the calls for which `Access` has rules of their own."""
_STREAMS = 64
"""The most open streams of a process. Each may hold a message that is not complete yet, which is not counted."""
_PIPELINED = 16
"""The most requests of one stream in progress. Further ones are not read until the first of them is answered."""
_FINAL = b"triton_enable_empty_final_response"
"""The parameter of a request in a stream that asks to mark its last answer. Here each request has one answer."""
_LOGGER = logging.getLogger("serving")
_ACCESS_LOGGER = logging.getLogger("serving.access")


@dataclass(slots=True)
class _Call:
    """One request: a call, or a message of a stream. With `is_passed_on` it is counted by `calls`."""

    method: str
    deadline: float | None
    began: float = field(default_factory=time.perf_counter)
    is_passed_on: bool = False


@dataclass(frozen=True)
class GrpcApplication:
    """Checks each call, reads its message, has it answered by `calls`, and counts, times and logs it.

    It does for gRPC what `Application` does for HTTP, with the same fields. Calls are awaited with the context that
    grpc.aio has made for them. HAProxy states the bytes of the first message in `MESSAGE_BYTES`.
    """

    calls: Calls
    access: Access
    admission: Admission
    max_bytes: int
    metrics: ModelMetrics | None = None
    access_log: bool = False
    _reading: set[asyncio.Timeout] = field(default_factory=set)

    @staticmethod
    def beside(app: Application, calls: Calls, max_bytes: int) -> GrpcApplication:
        """Return the application of `calls` that shares keys, admission, metrics and logs with an HTTP application."""
        return GrpcApplication(calls, app.access, app.admission, max_bytes, app.metrics, app.access_log)

    async def unary(self, method: str, context: Any) -> bytes:
        """Return the answer to a call with one message, or end the call with an error."""
        headers = headers_of(context)
        call = _Call(method, deadline_of(context))
        with self.admission.content() as content:
            outcome = await self._outcome(call, self._answer_one(call, headers, content, context))
            if isinstance(outcome, ServingError):
                await refuse(context, outcome)
        if len(outcome) > HELD_BYTES:
            self._limit_sending(len(outcome), context)
        return outcome

    async def stream(self, context: Any) -> None:
        """Answer the messages of a stream in their order, with several of them in progress, until the client ends it.

        A message that fails is answered with its error; the stream goes on. While the server stops, the stream ends
        with UNAVAILABLE after the messages that were read.
        """
        headers, deadline = headers_of(context), deadline_of(context)
        refused = await self._outcome(_Call(STREAM, deadline), self._admit_stream(headers))
        if isinstance(refused, ServingError):
            await refuse(context, refused)
        end: ServingError | None = None
        # Bounded, so that a client that takes no answers cannot send further requests.
        queue: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue(_PIPELINED)
        with self.admission.content() as content:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(_write_all(queue, content, context))
                    reading = asyncio.timeout(None)
                    try:
                        async with reading:
                            self._reading.add(reading)
                            while (message := await context.read()) is not grpc.aio.EOF:
                                call = _Call(INFER, deadline)
                                await queue.put(group.create_task(self._answer_streamed(call, message, content)))
                    except TimeoutError:
                        end = UnavailableError()
                    finally:
                        self._reading.discard(reading)
                    await queue.put(None)
            except* SlowRequestError as errors:
                end = SlowRequestError(str(errors.exceptions[0]))
        if end is not None:
            await refuse(context, end)

    def stop_streams(self) -> None:
        """Read no further messages of open streams, and end each stream when what was read is answered."""
        now = asyncio.get_running_loop().time()
        for reading in self._reading:
            reading.reschedule(now)

    async def _answer_one(self, call: _Call, headers: dict[str, str], content: Content, context: Any) -> bytes:
        self.access.check(_ROUTES.get(call.method, call.method), headers, time.monotonic())
        nbytes = body_length(headers.get(MESSAGE_BYTES, "0")) or 0
        if nbytes > self.max_bytes:
            raise TooLargeError(f"the request has {nbytes} bytes and the server takes {self.max_bytes}")
        self.admission.check(nbytes)
        content.receive(nbytes)
        message = await read_message(nbytes, context)
        # A compressed one has more than was stated.
        content.receive(max(0, len(message) - nbytes))
        return await self._answer(call, message, content)

    async def _admit_stream(self, headers: dict[str, str]) -> bytes:
        self.access.check(STREAM, headers, time.monotonic())
        self.admission.check(0)
        if len(self._reading) >= _STREAMS:
            raise OverloadedError(f"the server has {_STREAMS} open streams and takes no more: try again in 1 s")
        return b""

    async def _answer_streamed(self, call: _Call, message: bytes, content: Content) -> bytes:
        """Return the answer to a message of a stream, which has the text and the code of an error."""
        outcome = await self._outcome(call, self._received(call, message, content))
        content.keep(-len(message))
        response = pb.ModelStreamInferResponse()
        if isinstance(outcome, ServingError):
            response.error_message = printable(str(outcome))
            response.infer_response.parameters["code"].string_param = outcome.code
        else:
            response.infer_response.ParseFromString(outcome)
        if isinstance(outcome, ServingError) or _FINAL in message:
            _complete(response, message)
        answer: bytes = response.SerializeToString()
        content.keep(len(answer))
        return answer

    async def _received(self, call: _Call, message: bytes, content: Content) -> bytes:
        # It is here, so that it counts even if there is no room for it.
        content.keep(len(message))
        self.admission.check(0)
        return await self._answer(call, message, content)

    async def _answer(self, call: _Call, message: bytes, content: Content) -> bytes:
        with self.admission.request():
            if self.metrics is not None:
                self.metrics.in_flight(self.admission.requests)
            call.is_passed_on = True
            return await self.calls.answer(call.method, message, call.deadline)

    async def _outcome(self, call: _Call, work: Awaitable[bytes]) -> bytes | ServingError:
        """Return the result of `work`, or the error that the client gets."""
        status = _CLIENT_GONE
        try:
            answer = await work
            status = 200
        except ServingError as error:
            status = error.status
            if self.metrics is not None and status in _REFUSALS:
                self.metrics.rejected(error.code)
            if not error.is_internal:
                return error
            _LOGGER.exception("gRPC %s failed", call.method)
            return InternalError()
        except Exception:
            status = 500
            _LOGGER.exception("gRPC %s failed", call.method)
            return InternalError()
        finally:
            self._note(call, status)
        return answer

    def _note(self, call: _Call, status: int) -> None:
        route, seconds = route_name(call.method), time.perf_counter() - call.began
        if self.metrics is not None:
            if not call.is_passed_on:
                self.metrics.request(route, status, seconds)
            self.metrics.in_flight(self.admission.requests)
        if self.access_log:
            fields = {"route": route, "status": status, "seconds": round(seconds, 6)}
            _ACCESS_LOGGER.info("gRPC %s", call.method, extra={"fields": fields})

    def _limit_sending(self, nbytes: int, context: Any) -> None:
        """Count `nbytes` of an answer until the client has taken them, and end the call if it takes too long."""
        content = self.admission.content()
        content.keep(nbytes)
        task = asyncio.current_task()
        assert task is not None
        limit = asyncio.get_running_loop().call_later(transfer_seconds(nbytes), task.cancel)

        def end(_: object) -> None:
            limit.cancel()
            content.keep(-nbytes)

        context.add_done_callback(end)


async def _write_all(queue: asyncio.Queue[asyncio.Task[bytes] | None], content: Content, context: Any) -> None:
    """Send the results of the queued tasks in their order, until None comes.

    Raises:
        SlowRequestError: the client does not take an answer in time.
    """
    while (task := await queue.get()) is not None:
        answer = await task
        try:
            async with asyncio.timeout(transfer_seconds(len(answer))):
                await context.write(answer)
        except TimeoutError:
            raise SlowRequestError(
                f"an answer of the stream was not taken in {transfer_seconds(len(answer)):.0f} s"
            ) from None
        content.keep(-len(answer))


def _complete(response: Any, message: bytes) -> None:
    """Add to the answer of a stream's message: to an error the request's id, and that it is the last where wanted."""
    try:
        request = parsed(pb.ModelInferRequest, message)
    except ServingError:
        return
    response.infer_response.id = request.id
    response.infer_response.model_name = request.model_name
    if request.parameters[_FINAL.decode()].bool_param:
        response.infer_response.parameters["triton_final_response"].bool_param = True
