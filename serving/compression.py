"""Compression of answers, where the client asks for it."""

from __future__ import annotations

import functools
import zlib

_WINDOW_BITS = {"gzip": 31, "deflate": 15}
"""The argument of zlib's encoder for each encoding of an answer."""
_LEVEL = 1
"""The fastest level: images that compress at all do so at this one."""


@functools.lru_cache(maxsize=256)
def response_encoding(accepted: str) -> str | None:
    """Return the encoding for the answer to a request whose header Accept-Encoding is `accepted`, None for no encoding.

    Many HTTP libraries send a list of all that they can read (`gzip, deflate, br`) with every request. Compression
    costs more than it saves on one machine, so that such a list alone does not ask for it. A client asks by naming one
    encoding, as tritonclient does, or by refusing `identity` (RFC 9110, section 12.5.3).
    """
    weights: dict[str, float] = {}
    for part in accepted.lower().split(","):
        name, *parameters = (text.strip() for text in part.split(";"))
        weights[name.removeprefix("x-")] = _weight(parameters)
    others = weights.get("*", 0.0)
    known = [name for name in _WINDOW_BITS if weights.get(name, others) > 0]
    if known and weights.get("identity", weights.get("*", 1.0)) <= 0:
        return max(known, key=lambda name: weights.get(name, others))
    named = [name for name, weight in weights.items() if weight > 0 and name not in ("identity", "*")]
    return named[0] if len(named) == 1 and named[0] in known else None


def compress(body: bytes, encoding: str) -> bytes:
    """Return `body` in an encoding that `response_encoding` returned."""
    encoder = zlib.compressobj(_LEVEL, wbits=_WINDOW_BITS[encoding])
    return encoder.compress(body) + encoder.flush()


def _weight(parameters: list[str]) -> float:
    """Return the weight among the parameters of an encoding, 1 if there is none, and 0 if it is not legal."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
