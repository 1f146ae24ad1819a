"""Compression of answers, where the client asks for it."""

from __future__ import annotations

import functools
import zlib

from serving.negotiation import weights

WINDOW_BITS = {"gzip": 31, "deflate": 15}
"""The argument of zlib for each encoding of a body."""
_LEVEL = 1
"""The fastest level: images that compress at all do so at this one."""


@functools.lru_cache(maxsize=256)
def response_encoding(accepted: str) -> str | None:
    """Return the encoding for the answer to a request whose header Accept-Encoding is `accepted`, None for no encoding.

    Many HTTP libraries send a list of all that they can read (`gzip, deflate, br`) with every request. Compression
    costs more than it saves on one machine, so that such a list alone does not ask for it. A client asks by naming one
    encoding, as tritonclient does, or by refusing `identity` (RFC 9110, section 12.5.3).
    """
    wanted = {name.removeprefix("x-"): weight for name, weight in weights(accepted).items()}
    others = wanted.get("*", 0.0)
    known = [name for name in WINDOW_BITS if wanted.get(name, others) > 0]
    if known and wanted.get("identity", wanted.get("*", 1.0)) <= 0:
        return max(known, key=lambda name: wanted.get(name, others))
    named = [name for name, weight in wanted.items() if weight > 0 and name not in ("identity", "*")]
    return named[0] if len(named) == 1 and named[0] in known else None


def compress(body: bytes, encoding: str) -> bytes:
    """Return `body` in an encoding that `response_encoding` returned."""
    encoder = zlib.compressobj(_LEVEL, wbits=WINDOW_BITS[encoding])
    return encoder.compress(body) + encoder.flush()
