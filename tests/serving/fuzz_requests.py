"""The requests of the fuzzer: good ones for the models of a server, and their mutations."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import io
import json
import urllib.request
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

from serving.open_inference import DATATYPES, HEADER_LENGTH, pack

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "TGA")
_ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 255, 256, 2**31, 2**53 + 1, 2**63, 2**64, 10**40, 0.5, -0.0, 1e308, float("nan")),
    *(float("inf"), "", "a", "0", "-1", "a" * 5000, "\0", "\r\nX: y", "../../etc/passwd", "ü", "\U0001f993", "%00"),
    *([], {}, [[]], [[[[[[1]]]]]], [1] * 300, {"a": {"a": {}}}, [None], {"": ""}),
)
_ODD_HEADERS: tuple[tuple[str, str], ...] = (
    *(("content-type", kind) for kind in ("", "text/plain", "multipart/form-data", "multipart/form-data; boundary=x")),
    *(("content-type", kind) for kind in ("application/json; charset=utf-16", "image/png", "a" * 2000)),
    *(("content-encoding", kind) for kind in ("gzip", "deflate", "br", "", "gzip, gzip", "identity", "x-gzip")),
    *(("accept", kind) for kind in ("image/webp", "image/*;q=0", "*/*", "text/html", ";;;,,,q=", "a" * 2000)),
    *(("accept-encoding", kind) for kind in ("gzip", "deflate", "gzip;q=x", "identity;q=0, *", ",;,;=")),
    *((HEADER_LENGTH, kind) for kind in ("0", "1", "-1", "9" * 300, "x", "1e2", "\xff")),
    *(("x-request-timeout", kind) for kind in ("0.0001", "-1", "1e300", "nan", "x")),
    *((name, "\xff\xfe") for name in ("x-request-id", "if-none-match", "authorization", "x-api-key", "range")),
    *(("if-none-match", kind) for kind in ("*", '"a"', 'W/"a", "b"')),
    *(("expect", "100-continue"), ("origin", "http://example.com")),
    *(("cookie", "a" * 4000), ("forwarded", "for=1"), ("upgrade", "h2c"), ("range", "bytes=0-0")),
)
_METHODS = ("GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE")


@dataclass(frozen=True)
class Request:
    """One HTTP request."""

    method: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


def good_requests(url: str) -> list[Request]:
    """Return requests that the server at `url` answers with 200: its own routes, and those of its models."""
    made = [Request("GET", path) for path in ("/v2", "/v2/models", "/v2/logging", "/v2/trace/setting", "/openapi.json")]
    made += [Request("POST", "/v2/repository/index", {}, b'{"ready": true}')]
    for model in _read(f"{url}/v2/models"):
        prefix = f"/v2/models/{model['name']}"
        metadata = _read(f"{url}{prefix}")
        made += [Request("GET", prefix + path) for path in ("", "/ready", "/config", "/openapi.json")]
        made += [_infer(prefix, metadata, binary) for binary in (True, False)]
        if model["kind"] == "generator":
            made += [
                Request("POST", f"{prefix}/generate", {}, b'{"n": 3, "seed": 7, "layout": "zip"}'),
                Request("POST", f"{prefix}/generate?n=2&seed=5&format=jpeg"),
                Request("POST", f"{prefix}/generate", {"accept": "image/webp"}, b'{"n": 2, "truncation": 0.5}'),
                Request("POST", f"{prefix}/interpolate", {}, b'{"numbers": [1, 2], "steps": 3}'),
                Request("POST", f"{prefix}/arithmetic", {}, b'{"a": [1], "b": [2], "c": [3]}'),
            ]
        else:
            made += [Request("POST", f"{prefix}/translate", {}, _picture(file_format)) for file_format in FORMATS]
            made += [_form(prefix), _encoded(prefix)]
    return made


def mutated(request: Request, others: Sequence[Request], random: Random) -> Request:
    """Return `request` after one to four random mutations; parts of `others` may get into it."""
    for _ in range(random.randint(1, 4)):
        request = random.choices(_MUTATIONS, _WEIGHTS)[0](request, others, random)
    return request


def _read(url: str) -> Any:
    with urllib.request.urlopen(url) as answer:
        return json.load(answer)


def _infer(prefix: str, metadata: dict[str, Any], binary: bool) -> Request:
    random, tensors = np.random.default_rng(0), {}
    for tensor in metadata["inputs"]:
        shape = [1, *(16 if axis == -1 else axis for axis in tensor["shape"][1:])]
        dtype = DATATYPES[tensor["datatype"]]
        tensors[tensor["name"]] = (random.random(shape) * (255 if dtype.kind == "u" else 1)).astype(dtype)
    extra = {"id": "a", "parameters": {"binary_data_output": binary}}
    body, headers = pack("inputs", tensors, dict.fromkeys(tensors, binary), extra)
    return Request("POST", f"{prefix}/infer", headers, body)


def _picture(file_format: str) -> bytes:
    stream, pixels = io.BytesIO(), np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, file_format)
    return stream.getvalue()


def _form(prefix: str) -> Request:
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    body = head + _picture("PNG") + b"\r\n--x--\r\n"
    return Request("POST", f"{prefix}/translate", {"content-type": "multipart/form-data; boundary=x"}, body)


def _encoded(prefix: str) -> Request:
    images = [base64.b64encode(_picture(file_format)).decode() for file_format in ("PNG", "JPEG")]
    body = json.dumps({"images": images, "layout": "zip", "tile": True}).encode()
    return Request("POST", f"{prefix}/translate", {"content-type": "application/json"}, body)


def _with_body(request: Request, body: bytes) -> Request:
    """Return the request with another body; a stated length of its JSON stays."""
    return dataclasses.replace(request, body=body)


def _change_bytes(request: Request, others: Sequence[Request], random: Random) -> Request:
    body = bytearray(request.body)
    for _ in range(random.choice((1, 1, 2, 8, 64))):
        if body:
            body[random.randrange(min(len(body), random.choice((40, 400, 10**9))))] = random.randrange(256)
    return _with_body(request, bytes(body))


def _cut(request: Request, others: Sequence[Request], random: Random) -> Request:
    start, stop = sorted(random.randint(0, len(request.body)) for _ in range(2))
    keep = random.random() < 0.5
    return _with_body(request, request.body[:stop] if keep else request.body[:start] + request.body[stop:])


def _insert(request: Request, others: Sequence[Request], random: Random) -> Request:
    place, other = random.randint(0, len(request.body)), random.choice(others).body
    piece = random.choice(
        (other, other[: random.randint(0, 100)], random.randbytes(random.randint(1, 50)), b"[" * 5000)
    )
    return _with_body(request, request.body[:place] + piece + request.body[place:])


def _change_json(
    request: Request, others: Sequence[Request], random: Random, values: Sequence[Any] = _ODD_VALUES
) -> Request:
    """Change one value in the JSON of the body, mostly to one of `values`, and the header with its length."""
    length = int(request.headers.get(HEADER_LENGTH, len(request.body))) if _has_length(request) else len(request.body)
    try:
        value = json.loads(request.body[:length])
    except (ValueError, RecursionError):
        return _change_bytes(request, others, random)
    place = value
    while isinstance(place, dict | list) and place:
        key = random.choice(list(place)) if isinstance(place, dict) else random.randrange(len(place))
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner or random.random() < 0.3:
            _replace(place, key, random, values)
            break
        place = inner
    header = json.dumps(value).encode()
    headers = dict(request.headers)
    if HEADER_LENGTH in headers:
        headers[HEADER_LENGTH] = str(len(header))
    return dataclasses.replace(request, headers=headers, body=header + request.body[length:])


def _has_length(request: Request) -> bool:
    text = request.headers.get(HEADER_LENGTH, "")
    return text.isascii() and text.isdecimal() and len(text) < 9


def _replace(place: Any, key: Any, random: Random, values: Sequence[Any]) -> None:
    """Replace, remove or add a value of an object or a list."""
    action = random.random()
    if action < 0.7:
        place[key] = random.choice(values)
    elif action < 0.85:
        del place[key]
    elif isinstance(place, dict):
        place[random.choice(("seed", "n", "id", "parameters", "outputs", "labels", "", "__class__"))] = place[key]
    else:
        place.extend(place[:50])


def _change_header(request: Request, others: Sequence[Request], random: Random) -> Request:
    headers = dict(request.headers)
    if headers and random.random() < 0.2:
        headers.pop(random.choice(list(headers)))
    else:
        name, value = random.choice(_ODD_HEADERS)
        headers[name] = value
    return dataclasses.replace(request, headers=headers)


def _compress(request: Request, others: Sequence[Request], random: Random) -> Request:
    encoding, compress = random.choice((("gzip", gzip.compress), ("deflate", zlib.compress)))
    body = compress(request.body, 1)
    return dataclasses.replace(request, headers={**request.headers, "content-encoding": encoding}, body=body)


def _enlarge(request: Request, others: Sequence[Request], random: Random) -> Request:
    """Put a piece into the body a great many times, in JSON as the entries of a list; maybe compress the body."""
    size, place = 2 ** random.randint(12, 23), "place of the entries"
    changed = _change_json(request, others, random, (place,))
    header, quoted, rest = changed.body.partition(json.dumps(place).encode())
    if quoted:
        piece = random.choice((b"[]", b"{}", b"0", b"1e5", b'"a"', b"null", b"[[1]]"))
        row = b"[" + b",".join([piece] * (size // (len(piece) + 1) + 1)) + b"]"
        headers = dict(changed.headers)
        if HEADER_LENGTH in headers:
            headers[HEADER_LENGTH] = str(int(headers[HEADER_LENGTH]) + len(row) - len(quoted))
        changed = dataclasses.replace(changed, headers=headers, body=header + row + rest)
    else:
        # Segments of a JPEG, comments of a PPM, and other bytes, after the first bytes of a file or anywhere.
        piece = random.choice((b"\xff\xe1\x00\x02", b"#\n", b"\0", b"\xff", b"a"))
        start = min(random.choice((2, 3, random.randint(0, len(request.body)))), len(request.body))
        changed = _with_body(request, request.body[:start] + piece * (size // len(piece)) + request.body[start:])
    return _compress(changed, others, random) if random.random() < 0.5 else changed


def _change_query(request: Request, others: Sequence[Request], random: Random) -> Request:
    keys = (
        "n",
        "seed",
        "first",
        "labels",
        "format",
        "layout",
        "black",
        "white",
        "tile",
        "overlap",
        "truncation",
        "a",
        "",
    )
    value = random.choice(("", "1", "0", "-1", "x", "png", "true", "1e9", "%ff", "%00", "9" * 400, "a" * 2000, "[1]"))
    return dataclasses.replace(
        request, path=f"{request.path}{'&' if '?' in request.path else '?'}{random.choice(keys)}={value}"
    )


def _change_path(request: Request, others: Sequence[Request], random: Random) -> Request:
    path, _, query = request.path.partition("?")
    parts = path.split("/")
    place = random.randrange(1, len(parts))
    odd = (
        "",
        "..",
        "%2e%2e",
        "%00",
        "%ff",
        "versions/1",
        "versions/2",
        "a" * 300,
        quote("ü/\U0001f993"),
        "docs",
        "*",
        "%2f",
    )
    parts[place] = random.choice((*odd, *random.choice(others).path.partition("?")[0].split("/")))
    return dataclasses.replace(request, path="/".join(parts) + (f"?{query}" if query else ""))


def _change_method(request: Request, others: Sequence[Request], random: Random) -> Request:
    return dataclasses.replace(request, method=random.choice(_METHODS))


def _move_body(request: Request, others: Sequence[Request], random: Random) -> Request:
    """Send the body of another request."""
    other = random.choice(others)
    return dataclasses.replace(request, headers={**other.headers, **request.headers}, body=other.body)


_MUTATIONS: tuple[Callable[[Request, Sequence[Request], Random], Request], ...] = (
    _change_bytes,
    _cut,
    _insert,
    _change_json,
    _change_header,
    _compress,
    _change_query,
    _change_path,
    _change_method,
    _move_body,
    _enlarge,
)
_WEIGHTS = (4, 3, 2, 6, 3, 1, 2, 1, 1, 1, 1)
