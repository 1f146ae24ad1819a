"""The gRPC server of a replica: grpc.aio on a Unix socket, behind HAProxy.

HAProxy reads the model's name out of the protobuf message and sends the call to a replica of that model, because stock
clients send no metadata that would name it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc

from serving.config import DRAIN_SECONDS
from serving.grpc.application import STREAM, GrpcApplication
from serving.haproxy_grpc import GRPC_SERVICE

_QUIET_SECONDS, _LONGEST_SECONDS = 0.1, 2.0
"""A server stops when no call has arrived for the first time, or after the second. It cancels calls that arrive then.

After HAProxy has loaded a new configuration, its old process sends calls of its old connections for a moment.
"""


class _Handler(grpc.GenericRpcHandler):
    """Finds the handler of a call. Messages stay bytes: what reads them comes after the checks.

    Calls with one message have handlers for many, which read it themselves, after the checks of key and size.
    """

    def __init__(self, application: GrpcApplication) -> None:
        self._handlers = {
            f"/{GRPC_SERVICE}/{method}": grpc.stream_unary_rpc_method_handler(_unary(application, method))
            for method in application.calls.methods
        }

        async def stream(messages: object, context: Any) -> None:
            await application.stream(context)

        self.last_call = time.monotonic()
        self._handlers[f"/{GRPC_SERVICE}/{STREAM}"] = grpc.stream_stream_rpc_method_handler(stream)

    def service(self, details: Any) -> Any:
        """Return the handler of the call, or None if there is no such call."""
        self.last_call = time.monotonic()
        return self._handlers.get(details.method)


class GrpcServer:
    """Serves an application on a Unix socket, in the running event loop."""

    def __init__(self, application: GrpcApplication, path: Path) -> None:
        self._application, self._path = application, path
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", application.max_bytes),
                ("grpc.max_send_message_length", -1),
            ]
        )
        self._handler = _Handler(application)
        self._server.add_generic_rpc_handlers((self._handler,))
        self._server.add_insecure_port(f"unix:{path}")
        self._start = asyncio.get_running_loop().create_task(self._server.start())

    async def close(self) -> None:
        """Wait until no calls arrive, finish those in flight, and remove the socket."""
        await self._start
        self._application.stop_streams()
        end = time.monotonic() + _LONGEST_SECONDS
        while (now := time.monotonic()) < min(end, self._handler.last_call + _QUIET_SECONDS):
            await asyncio.sleep(min(end, self._handler.last_call + _QUIET_SECONDS) - now)
        await self._server.stop(DRAIN_SECONDS)
        self._path.unlink(missing_ok=True)


def _unary(application: GrpcApplication, method: str) -> Callable[[object, Any], Any]:
    async def answer(messages: object, context: Any) -> bytes:
        return await application.unary(method, context)

    return answer
