"""Prepares the requests of a load as bytes, so that sending them costs the client nothing more."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import numpy as np
from numpy.typing import NDArray

from serving import codec
from serving.bench.sender import Target
from serving.config import Limits
from serving.errors import BenchError
from serving.open_inference import DATATYPES, pack
from zorse_common.image_writer import encode

INFER = "infer"
DISTINCT = 16
"""How many different random requests are prepared at least."""
BLOCK = 8
"""The side, in pixels, of the blocks of one colour in random images: about as compressible as photographs."""
Size = tuple[int, int]


@dataclass(frozen=True)
class Work:
    """What is requested.

    Attributes:
        verb: a verb, or "infer".
        keys: the keys of the verb's request; each request takes the next value of every list.
        images: image files to send; without any, random ones are made.
        sizes: heights and widths of random images, in pixels.
        batch: the images or latents in each request of `infer`.
        seed: the seed of random tensors and images.
    """

    verb: str = INFER
    keys: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    images: Sequence[Path] = ()
    sizes: Sequence[Size] = ((256, 256),)
    batch: int = 1
    seed: int = 0


def split_target(url: str) -> Target:
    """Return the host and port of a server's URL.

    Raises:
        BenchError: it is not `http://HOST[:PORT]` or `https://HOST[:PORT]`.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise BenchError(f"{url} is not a server's URL ({error}): give http://HOST:PORT") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
        raise BenchError(f"{url} is not a server's URL: give http://HOST:PORT")
    https = parts.scheme == "https"
    return Target(parts.hostname, port or (443 if https else 80), https)


def prepare_requests(
    target: Target, model: str, metadata: Mapping[str, Any], work: Work, api_key: str | None
) -> list[bytes]:
    """Return whole HTTP/1.1 requests for `work` on a model whose KServe v2 metadata is `metadata`.

    Raises:
        BenchError: the work does not fit the model, or an image file cannot be read.
        TooLargeError, ImageError: as `codec.decode`.
    """
    headers = {"X-API-Key": api_key} if api_key else {}
    path = f"/v2/models/{quote(model, safe='')}/{quote(work.verb, safe='')}"
    if work.verb == INFER:
        extra = {"parameters": {"binary_data_output": True}}
        packed = [pack("inputs", feeds, dict.fromkeys(feeds, True), extra) for feeds in _feeds(metadata, work)]
        return [_request(target, path, body, {**headers, **more}) for body, more in packed]
    if metadata.get("kind") == "translator":
        headers["Content-Type"] = "application/octet-stream"
        bodies = _image_files(metadata, work)
        queries = (f"{path}?{urlencode(keys, doseq=True)}" if keys else path for keys in _keys(work))
        return [_request(target, query, body, headers) for query, body in _together(queries, bodies, work)]
    headers["Content-Type"] = "application/json"
    count = max((len(values) for values in work.keys.values()), default=1)
    bodies = [json.dumps(keys).encode() for keys in itertools.islice(_keys(work), count)]
    return [_request(target, path, body, headers) for body in bodies]


def _request(target: Target, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    host = f"[{target.host}]" if ":" in target.host else target.host
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}:{target.port}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _keys(work: Work) -> Iterator[dict[str, Any]]:
    """Yield the keys of request after request, without end."""
    return ({key: values[number % len(values)] for key, values in work.keys.items()} for number in itertools.count())


def _together(queries: Iterator[str], bodies: Sequence[bytes], work: Work) -> Iterator[tuple[str, bytes]]:
    """Pair every body with a query, and go on until every value of every key has been used."""
    count = max([len(bodies), *(len(values) for values in work.keys.values())])
    return itertools.islice(zip(queries, itertools.cycle(bodies), strict=False), count)


def _image_files(metadata: Mapping[str, Any], work: Work) -> list[bytes]:
    if work.images:
        return [_read(path) for path in work.images]
    channels = _source(metadata)["shape"][-1]
    return [encode(image, "png") for image in _random_images(work, channels)]


def _feeds(metadata: Mapping[str, Any], work: Work) -> list[dict[str, NDArray[Any]]]:
    """Return the inputs of inference requests: the image files, or random tensors."""
    if work.images:
        source = _source(metadata)
        images = [codec.decode(_read(path), source["shape"][-1], Limits()) for path in work.images]
        dtype = DATATYPES[source["datatype"]]
        return [{source["name"]: np.repeat(image[None], work.batch, 0).astype(dtype)} for image in images]
    draw = np.random.default_rng(work.seed)
    sizes = itertools.islice(itertools.cycle(work.sizes), max(DISTINCT, len(work.sizes)))
    return [
        {entry["name"]: _random_tensor(entry, work.batch, size, draw) for entry in metadata["inputs"]} for size in sizes
    ]


def _random_tensor(entry: Mapping[str, Any], batch: int, size: Size, draw: np.random.Generator) -> NDArray[Any]:
    """Return a tensor for one input: the open axes are `batch`, height and width. Labels are 0."""
    open_axes = iter((batch, *size) if entry["shape"][:1] == [-1] else size)
    try:
        shape = [next(open_axes) if axis < 0 else axis for axis in entry["shape"]]
    except StopIteration:
        raise BenchError(f"the input {entry['name']} {entry['shape']} is not one that a load can be made for") from None
    dtype = DATATYPES.get(entry["datatype"])
    if dtype is None:
        raise BenchError(f"the input {entry['name']} is {entry['datatype']}, and loads are of {', '.join(DATATYPES)}")
    if dtype.kind == "f":
        return draw.standard_normal(shape).astype(dtype)
    return draw.integers(0, np.iinfo(dtype).max, shape, dtype) if dtype.kind == "u" else np.zeros(shape, dtype)


def _random_images(work: Work, channels: int) -> Iterator[NDArray[np.uint8]]:
    """Yield images of blocks of random colours, uint8 [h, w, channels], one of each size and `DISTINCT` at least."""
    draw = np.random.default_rng(work.seed)
    for height, width in itertools.islice(itertools.cycle(work.sizes), max(DISTINCT, len(work.sizes))):
        coarse = draw.integers(0, 256, (-(-height // BLOCK), -(-width // BLOCK), channels), np.uint8)
        yield coarse.repeat(BLOCK, 0).repeat(BLOCK, 1)[:height, :width]


def _source(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the input that is an image. Raises BenchError if there is none."""
    for entry in metadata["inputs"]:
        if len(entry["shape"]) == 4 and entry["shape"][-1] > 0:
            source: Mapping[str, Any] = entry
            return source
    raise BenchError(f"{metadata.get('name', 'the model')} takes no images: leave --image out")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BenchError(f"{path} cannot be read: {error.strerror}") from error
