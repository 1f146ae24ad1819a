"""Bad requests of inference: JSON, tensors, parameters, binary bodies, headers and encodings."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any

from serving.open_inference import HEADER_LENGTH
from tests.serving.bad_request import INFER, LABELLED, BadRequest


def entry(**changes: Any) -> dict[str, Any]:
    """Return the JSON of a good input, with `changes`; what is changed to ... is left out."""
    whole = {"name": "latent", "shape": [1, 6], "datatype": "FP32", "data": [0.0] * 6, **changes}
    return {key: value for key, value in whole.items() if value is not ...}


def infer(
    name: str, word: str, *inputs: object, code: str = "bad_request", path: str = INFER, **more: Any
) -> BadRequest:
    """Return a JSON inference request."""
    return BadRequest(name, path, json.dumps({"inputs": inputs, **more}).encode(), 400, code, word)


def unsupported(name: str, word: str, *inputs: object, **more: Any) -> BadRequest:
    """Return a JSON inference request for what the server does not do."""
    return infer(name, word, *inputs, code="unsupported", **more)


def raw_infer(name: str, word: str, body: bytes, **headers: str) -> BadRequest:
    """Return an inference request with any body."""
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return BadRequest(name, INFER, body, 400, "bad_request", word, headers=named)


def binary(name: str, word: str, tail: bytes, length: str | None = None, **changes: Any) -> BadRequest:
    """Return a binary inference request."""
    whole = {"parameters": {"binary_data_size": 24}, "data": ..., **changes}
    header = json.dumps({"inputs": [entry(**whole)]}).encode()
    headers = {HEADER_LENGTH: str(len(header)) if length is None else length}
    return BadRequest(name, INFER, header + tail, 400, "bad_request", word, headers=headers)


def encoded(
    name: str, encoding: str, body: bytes, word: str, status: int = 400, code: str = "bad_request"
) -> BadRequest:
    """Return a request with a compressed body."""
    return BadRequest(name, INFER, body, status, code, word, headers={"content-encoding": encoding})


def _json() -> Iterator[BadRequest]:
    for name, body, word in (
        ("empty body", b"", "wrong at its start"),
        ("half of an object", b'{"inputs": [', "wrong at its start"),
        ("list", b"[1]", "wrong at its start"),
        ("JSON text", b'"inputs"', "wrong at its start"),
        ("null", b"null", "wrong at its start"),
        ("bytes that are not UTF-8", b'{"inputs": "\xff\xfe"}', "wrong at"),
        ("UTF-16", '{"inputs": []}'.encode("utf-16"), "wrong at its start"),
        ("something after the end", b'{"inputs": []} x', "trailing"),
        ("100,000 brackets", b'{"inputs": ' + b"[" * 100_000, "wrong at its start"),
        ("100,000 braces", b'{"a":' * 100_000, "wrong at its start"),
        ("5,000 digits", b'{"inputs": [{"shape": [' + b"9" * 5000 + b"]}]}", "wrong at"),
        ("half a pair of surrogates", b'{"id": "\\ud800", "inputs": []}', "wrong at its start"),
        (
            "not a number",
            json.dumps({"inputs": [entry(data=[float("nan")] * 6)]}).encode(),
            "NaN or infinity",
        ),
        ("the same key twice", b'{"inputs": [1], "inputs": []}', "takes the inputs latent and got none"),
    ):
        yield raw_infer(name, word, body)


def _tensors() -> Iterator[BadRequest]:
    yield infer("no inputs", "takes the inputs latent and got none")
    yield BadRequest("inputs is an object", INFER, b'{"inputs": {}}', 400, "bad_request", "wrong at inputs")
    yield infer("an input that is a number", "wrong at inputs.0", 1)
    yield infer("a name that is a number", "inputs.0.name", entry(name=1))
    yield infer("no name", "inputs.0.name", entry(name=...))
    yield infer("no shape", "inputs.0.shape", entry(shape=...))
    yield infer("no datatype", "inputs.0.datatype", entry(datatype=...))
    for shape in ([-1, 6], [1.5, 6], [True, 6], ["1", 6], [None, 6]):
        yield infer(f"shape {shape}", "inputs.0.shape.0", entry(shape=shape))
    yield infer("shape without axes", "must be float32 [batch, 6]", entry(shape=[], data=[1.0]))
    yield infer("17 axes", "inputs.0.shape", entry(shape=[1] * 17))
    yield infer("huge shape", "is not FP32", entry(shape=[2**62, 2**62]))
    yield infer("empty batch", "must be float32 [batch, 6]", entry(shape=[0, 6], data=[]))
    for datatype in ("FP64", "FP16", "BF16", "BYTES", "BOOL", "INT8", "fp32", ""):
        yield infer(f"datatype {datatype!r}", "inputs.0.datatype", entry(datatype=datatype))
    yield infer("another datatype than the model's", "must be float32", entry(datatype="INT64", data=[0] * 6))
    for data in (["a"] * 6, [True] * 6, [None] * 6, [[0.0], [0.0, 1.0]], [{}] * 6, [0.0] * 5, [10**400] * 6):
        yield infer(f"data {str(data)[:20]}", "latent is not FP32", entry(data=data))
    for data in ([[0.0] * 3] * 3, [[0.0] * 6, 1], [[[0.0] * 6]], [[0.0] * 6] * 2, [0.0, [0.0]] * 3):
        yield infer(f"nested data {str(data)[:40]}", "latent is not FP32", entry(data=data))
    many = (b'{"inputs": [{"name": "latent", "datatype": "FP32", "shape": [1, 6], "data": [', b"0]}]}")
    yield raw_infer("100,000 empty lists for numbers", "latent is not FP32", (b"[]," * 100_000).join(many))
    for name, part, word in (
        ("1.2 MB of numbers", b"0," * 600_000, "1048576"),
        ("300,000 lists for numbers", b"[]," * 300_000, "lists and objects"),
    ):
        yield BadRequest(name, INFER, part.join(many), 413, "too_large", word)
    long = "x" * 10**6
    yield infer("an input with a name of 1 MB", "wrong at inputs.0.name", entry(name=long))
    yield infer("ten inputs with long names", "got xxx", *(entry(name=f"{long[:250]}{n}") for n in range(10)))
    yield infer("65 inputs", "wrong at inputs", *([entry()] * 65))
    yield infer("data that is text", "inputs.0.data", entry(data="AAAA"))
    yield infer("no data", "neither data nor binary_data_size", entry(data=...))
    yield infer("numbers beyond FP32", "NaN or infinity", entry(data=[1e300] * 6))
    yield infer("an input twice", "given twice", entry(), entry())
    yield infer("an unknown input", "got z", entry(name="z"))
    yield infer("no label", "takes the inputs label, latent", entry(), path=f"{LABELLED}/infer")
    for name, word, changes in (
        ("label beyond the classes", "label must lie in [0, 2]", {"data": [3]}),
        ("label that is negative", "label must lie in [0, 2]", {"data": [-1]}),
        ("label with a fraction", "label is not INT64", {"data": [0.5]}),
        ("label of 64 bits and more", "leaves", {"data": [2**63]}),
        ("label for two", "different batch sizes", {"data": [0, 1], "shape": [2]}),
        ("label with an axis too many", "label must be int64 [batch]", {"data": [0], "shape": [1, 1]}),
    ):
        label = {"name": "label", "shape": [1], "datatype": "INT64", **changes}
        yield infer(name, word, entry(), label, path=f"{LABELLED}/infer")


def _parameters() -> Iterator[BadRequest]:
    yield infer("unknown output", "there is no output 'mask'", entry(), outputs=[{"name": "mask"}])
    yield infer("an output twice", "requested twice", entry(), outputs=[{"name": "image"}, {"name": "image"}])
    yield infer("outputs is text", "wrong at outputs", entry(), outputs="image")
    for key, name in (("classification", "classes"), ("shared_memory_region", "an output in shared memory")):
        yield unsupported(name, key, entry(), outputs=[{"name": "image", "parameters": {key: 1}}])
    yield unsupported("an input in shared memory", "memory", entry(parameters={"shared_memory_region": "a"}))
    output = {"name": "image", "parameters": {"binary_data": 1}}
    yield infer("binary_data that is a number", "give true or false", entry(), outputs=[output])
    yield infer("binary_data_output = yes", "give true or false", entry(), parameters={"binary_data_output": "yes"})
    for timeout in (-1, "1", 1.5, True, 10**30):
        yield infer(f"timeout {timeout!r}", "whole number of microseconds", entry(), parameters={"timeout": timeout})
    yield unsupported("a sequence", "keeps no state", entry(), parameters={"sequence_id": 1})
    yield infer("parameters is a list", "wrong at parameters", entry(), parameters=[])
    yield infer("an id that is a number", "wrong at id", entry(), id=7)
    yield infer("an id of 3 kB", "wrong at id", entry(), id="x" * 3000)
    yield unsupported("a sequence with a name of 1 MB", "keeps no", entry(), parameters={"sequence_" + "x" * 10**6: 1})
    yield infer("an output with a name of 1 MB", "wrong at outputs.0.name", entry(), outputs=[{"name": "x" * 10**6}])


def _binary() -> Iterator[BadRequest]:
    for length in ("9" * 5000, "-1", "1e3", "0x10", "", "+5", "1_0"):
        yield binary(f"header length {length[:5]!r}", HEADER_LENGTH, bytes(24), length)
    yield binary("header length of the whole body", "wrong at its start", bytes(24), "133")
    yield binary("header length 0", "wrong at its start", bytes(24), "0")
    yield binary("too few bytes", "23 bytes are left", bytes(23))
    yield binary("too many bytes", "1 bytes follow the last tensor", bytes(25))
    yield binary("NaN in binary", "NaN or infinity", b"\xff" * 24)
    for size in ("24", 24.5, -24, None, 20, 2**70):
        yield binary(f"binary_data_size {size!r}", "latent", bytes(24), parameters={"binary_data_size": size})
    yield binary("no binary_data_size", "neither data nor", bytes(24), parameters={})
    yield binary("shape of 10^24 numbers", "needs", bytes(24), shape=[10**12, 10**12])
    header = json.dumps({"inputs": [entry(parameters={"binary_data_size": 24}, data=...)]}).encode()
    yield raw_infer("binary without a header length", "wrong at its start", header + bytes(24))


def _headers() -> Iterator[BadRequest]:
    for timeout in ("-1", "0", "soon", "nan", "inf", "", "1 s", "1e999"):
        yield raw_infer(
            f"X-Request-Timeout {timeout!r}", "positive number of seconds", b"{}", x_request_timeout=timeout
        )
    stated = {"content-length": "100000000000"}
    yield BadRequest("stated length of 100 GB", INFER, b"", 413, "too_large", "the server takes", headers=stated)
    good = gzip.compress(b"{}" * 99, mtime=0)
    yield encoded("brotli", "br", b"{}", "deflate, gzip", 415, "unsupported_media")
    yield encoded("two encodings", "gzip, deflate", b"{}", "send it uncompressed", 415, "unsupported_media")
    yield encoded("plain body that is said to be gzip", "gzip", b"{}", "not in the encoding gzip")
    yield encoded("half of a gzip", "gzip", good[:-9], "ends in the middle")
    yield encoded("gzip with a wrong checksum", "gzip", good[:-8] + bytes(8), "not in the encoding gzip")
    yield encoded("more after the gzip", "gzip", good + b"x", "continues after the end")
    yield encoded("empty gzip", "gzip", b"", "ends in the middle")
    yield encoded("deflate without its header", "deflate", zlib.compress(b"{}")[2:], "not in the encoding deflate")
    yield encoded("gzip bomb", "gzip", gzip.compress(bytes(40 * 2**20)), "bytes", 413, "too_large")


BAD_INFERENCE = tuple(request for group in (_json, _tensors, _parameters, _binary, _headers) for request in group())
