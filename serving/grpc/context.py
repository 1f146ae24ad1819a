"""What is read from and done with the context of one call, as grpc.aio makes it."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Any, NoReturn

import grpc

from serving.errors import BadRequestError, ServingError, SlowRequestError
from serving.haproxy_text import SENDER_SECONDS
from serving.logs import REQUEST_ID, harmless
from zorse_common.errors import printable

HELD_BYTES = 48 * 2**10
"""A message of so many bytes is complete when a call arrives here: HAProxy has waited for it."""
_BYTES_PER_SECOND = 64 * 2**10
"""How fast a client must at least send a large message, or take one."""
_CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""The code of gRPC for each HTTP status of an error; all others are INVALID_ARGUMENT."""


def headers_of(context: Any) -> dict[str, str]:
    """Return a call's metadata as headers, and take its request's id from them."""
    # Metadata whose names end with -bin are bytes, and none of them is of interest.
    headers = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
    REQUEST_ID.set(harmless(headers.get("x-request-id") or secrets.token_hex(8)))
    return headers


def deadline_of(context: Any) -> float | None:
    """Return the time until which the client waits, in the event loop's time, or None if it does not say."""
    remaining = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining


def transfer_seconds(nbytes: int) -> float:
    """Return how long a message may be on its way."""
    return SENDER_SECONDS + nbytes / _BYTES_PER_SECOND


async def read_message(nbytes: int, context: Any) -> bytes:
    """Return the one message of a call, which has `nbytes`.

    Raises:
        BadRequestError: the client has sent none.
        SlowRequestError: it takes too long.
    """
    try:
        async with asyncio.timeout(transfer_seconds(nbytes) if nbytes > HELD_BYTES else None):
            message = await context.read()
    except TimeoutError:
        raise SlowRequestError(
            f"the {nbytes} bytes of the message did not arrive in {transfer_seconds(nbytes):.0f} s: send them faster"
        ) from None
    if message is grpc.aio.EOF:
        raise BadRequestError("the call has no message")
    content: bytes = message
    return content


async def refuse(context: Any, error: ServingError) -> NoReturn:
    """End a call with the code, the text and the headers of `error`."""
    code = _CODES.get(error.status, grpc.StatusCode.INVALID_ARGUMENT)
    if error.code == "unsupported":
        code = grpc.StatusCode.UNIMPLEMENTED
    trailing = [(name.lower(), value) for name, value in error.headers.items() if name != "Connection"]
    await context.abort(code, printable(str(error)), (("x-error-code", error.code), *trailing))
    raise AssertionError("abort raises")
