"""`infer`: the Open Inference Protocol over HTTP, in JSON and in binary."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import threading
from typing import Any, ClassVar

import numpy as np
import pytest
from starlette.types import Message

from serving import codec
from serving.batching import Tensors
from serving.config import Limits
from serving.endpoints.infer import infer
from serving.errors import BadRequestError
from serving.feeds import latents
from serving.http import HttpRequest
from serving.open_inference import HEADER_LENGTH, json_length, pack, parse_infer, unpack_outputs
from serving.service import ModelService
from tests.serving.apps import server
from tests.serving.fakes import FakeEngine
from tests.serving.tiny import LATENT_DIM, generator_manifest, with_interface

RNG = np.random.default_rng(0)
SOURCE = RNG.integers(14, 256, (2, 18, 21, 3), dtype=np.uint8)


def read(data: bytes) -> np.ndarray:
    return codec.decode(data, 3, Limits())


@pytest.mark.parametrize("binary", [True, False])
def test_infer_in_json_and_in_binary(binary: bool) -> None:
    extra = {"id": "q1", "parameters": {"binary_data_output": binary}}
    content, headers = pack("inputs", {"source": SOURCE}, {"source": binary}, extra)
    response = server().post("/v2/models/invert/versions/1/infer", content=content, headers=headers)
    assert response.status_code == 200
    assert (HEADER_LENGTH in response.headers) == binary
    outputs = unpack_outputs(response.content, response.headers.get(HEADER_LENGTH))
    np.testing.assert_array_equal(outputs["image"], 255 - SOURCE)
    header = json.loads(response.content[: int(response.headers.get(HEADER_LENGTH, len(response.content)))])
    assert (header["model_name"], header["model_version"], header["id"]) == ("invert", "1", "q1")


@pytest.mark.parametrize(("spare", "binary", "status"), [(0, False, 200), (-1, False, 413), (-1, True, 200)])
def test_infer_limits_the_numbers_of_an_answer_in_json(spare: int, binary: bool, status: int) -> None:
    client = server(limits=Limits(bytes=4 * SOURCE.size + spare))
    content, headers = pack(
        "inputs", {"source": SOURCE}, {"source": True}, {"parameters": {"binary_data_output": binary}}
    )
    response = client.post("/v2/models/invert/infer", content=content, headers=headers)
    assert response.status_code == status
    assert status == 200 or "ask for binary tensors" in response.json()["error"]


def test_infer_of_a_generator_equals_generate() -> None:
    client = server()
    content, headers = pack("inputs", {"latent": latents(5, [0], LATENT_DIM)}, {"latent": True}, {})
    response = client.post("/v2/models/digits/infer", content=content, headers=headers)
    image = unpack_outputs(response.content, response.headers.get(HEADER_LENGTH))["image"]
    np.testing.assert_array_equal(image[0], read(client.post("/v2/models/digits/generate", json={"seed": 5}).content))


def test_infer_returns_the_chosen_outputs() -> None:
    body = {
        "inputs": [{"name": "source", "shape": [1, 1, 1, 3], "datatype": "UINT8", "data": [[[[14, 20, 30]]]]}],
        "outputs": [{"name": "image", "parameters": {"binary_data": False}}],
    }
    response = server().post("/v2/models/invert/infer", json=body)
    assert response.json()["outputs"] == [
        {"name": "image", "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [241, 235, 225]}
    ]
    body["outputs"] = [{"name": "mask"}]
    response = server().post("/v2/models/invert/infer", json=body)
    assert (response.status_code, response.json()["error"]) == (
        400,
        "there is no output 'mask': the outputs are image",
    )


def entry(**changes: Any) -> dict[str, Any]:
    return {"name": "latent", "shape": [1, 6], "datatype": "FP32", "data": [0.0] * 6, **changes}


def binary_entry(size: object, **changes: Any) -> dict[str, Any]:
    return {"name": "latent", "shape": [1, 6], "datatype": "FP32", "parameters": {"binary_data_size": size}, **changes}


@pytest.mark.parametrize(
    ("inputs", "tail", "message"),
    [
        ([], b"", "takes the inputs latent and got none"),
        ([entry(name="z")], b"", "got z"),
        ([entry(), entry()], b"", "given twice"),
        (
            [entry(datatype="FP64")],
            b"",
            "wrong at inputs.0.datatype: Input should be 'UINT8', 'UINT16', 'FP32' or 'INT64'",
        ),
        ([entry(datatype="INT64", data=[0] * 6)], b"", "must be float32"),
        ([entry(shape=[6])], b"", "must be float32 [batch, 6]"),
        ([entry(shape=[-1, 6])], b"", "wrong at inputs.0.shape.0: Input should be greater than or equal to 0"),
        ([entry(shape=[2, 6])], b"", "is not FP32 [2, 6]"),
        ([entry(data=["a"] * 6)], b"", "is not FP32"),
        ([entry(data=[[0.0], [0.0, 1.0]])], b"", "is not FP32"),
        ([entry(data=[float(10**30)] * 6, datatype="UINT8")], b"", "is not UINT8"),
        ([entry(data=[256] * 6, datatype="UINT8")], b"", "leaves 0…255"),
        ([entry(data=None)], b"", "neither data nor binary_data_size"),
        ([binary_entry(24)], b"\0" * 23, "needs 24 bytes"),
        ([binary_entry(20)], b"\0" * 20, "needs 24 bytes"),
        ([binary_entry("24")], b"\0" * 24, "needs 24 bytes"),
        ([binary_entry(24)], b"\0" * 25, "1 bytes follow the last tensor"),
        ([binary_entry(24)], b"\xff" * 24, "NaN"),
        ([binary_entry(24, shape=[10**12, 10**12])], b"\0" * 24, "needs"),
        ([entry(), binary_entry(0, name="z", shape=[10**30, 0])], b"", "is not FP32"),
        ([entry(data=[1e300] * 6)], b"", "NaN or infinity"),
    ],
)
def test_infer_refuses_bad_tensors(inputs: list[Any], tail: bytes, message: str) -> None:
    header = json.dumps({"inputs": inputs}).encode()
    headers = {HEADER_LENGTH: str(len(header))} if tail else {}
    response = server().post("/v2/models/digits/infer", content=header + tail, headers=headers)
    assert (response.status_code, response.json()["code"]) == (400, "bad_request")
    assert message in response.json()["error"]
    assert "\n" not in response.json()["error"]


@pytest.mark.parametrize(
    ("content", "length", "message"),
    [
        (b"", None, "wrong at its start"),
        (b"[1, 2]", None, "wrong at its start"),
        (b'{"inputs": [{"name": 1}]}', None, "wrong at inputs.0.name"),
        (b"\xff\xfe", None, "wrong at its start"),
        (b"{}", "3", "is '3' and the body has 2 bytes"),
        (b"{}", "-1", "is '-1'"),
        (b"{}", "x", "is 'x'"),
    ],
)
def test_infer_refuses_bodies_that_break_the_protocol(content: bytes, length: str | None, message: str) -> None:
    headers = {} if length is None else {HEADER_LENGTH: length}
    response = server().post("/v2/models/digits/infer", content=content, headers=headers)
    assert (response.status_code, response.json()["code"]) == (400, "bad_request")
    assert message in response.json()["error"]


@pytest.mark.parametrize(("method", "verb"), [("POST", "/infer"), ("GET", "/ready"), ("GET", "")])
def test_routes_refuse_another_version(method: str, verb: str) -> None:
    client = server()
    response = client.request(method, f"/v2/models/digits/versions/2{verb}", content=b"{}")
    error = "version 2 of digits is not served: version 1 is"
    assert (response.status_code, response.json()) == (404, {"error": error, "code": "not_found"})
    served = client.request(method, f"/v2/models/digits/versions/1{verb}", content=b"{}")
    assert served.json() == client.request(method, f"/v2/models/digits{verb}", content=b"{}").json()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.int64])
def test_tensors_are_unchanged_by_the_wire_format(dtype: type) -> None:
    array = RNG.integers(0, 200, (3, 0, 2)).astype(dtype), RNG.integers(0, 200, (3, 4, 2)).astype(dtype)
    tensors = {"empty": array[0], "full": array[1]}
    for binary in ({"empty": True, "full": False}, {"empty": False, "full": True}):
        content, headers = pack("inputs", tensors, binary, {})
        _, back = parse_infer(content, json_length(content, headers.get(HEADER_LENGTH)))
        for name, value in tensors.items():
            np.testing.assert_array_equal(back[name], value)
            assert back[name].dtype == value.dtype or value.size == 0


def test_integers_out_of_range_are_refused_and_never_wrapped() -> None:
    body = {"name": "x", "shape": [1], "datatype": "INT64", "data": [2**63]}
    content = json.dumps({"inputs": [body]}).encode()
    with pytest.raises(BadRequestError, match="its data leaves -9223372036854775808…9223372036854775807"):
        parse_infer(content, len(content))


def test_pack_takes_big_endian_and_refuses_unknown_dtypes() -> None:
    content, headers = pack("inputs", {"x": np.array([1, 2], ">f4")}, {"x": True}, {})
    assert parse_infer(content, int(headers[HEADER_LENGTH]))[1]["x"].tolist() == [1, 2]
    with pytest.raises(BadRequestError, match="there are no tensors of float64: use uint8, uint16, float32 or int64"):
        pack("inputs", {"x": np.zeros(2)}, {"x": True}, {})


class Watched(np.ndarray):
    """An array that records the threads in which its dtype is read, as it is to pack the array or to check it."""

    threads: ClassVar[set[int]] = set()

    @property
    def dtype(self) -> np.dtype[Any]:  # type: ignore[override]
        self.threads.add(threading.get_ident())
        return np.asarray(self).dtype


async def no_more() -> Message:
    raise AssertionError("the body is whole")


@pytest.mark.parametrize(("side", "is_here"), [(64, True), (1024, False)])
def test_large_binary_answers_are_packed_in_a_thread(side: int, is_here: bool) -> None:
    async def submit(tensors: Tensors, deadline: float | None = None) -> Tensors:
        return {"image": np.zeros((1, side, side, 3), np.uint8).view(Watched)}

    content, headers = pack(
        "inputs",
        {"latent": np.zeros((1, 6), np.float32)},
        {"latent": True},
        {"parameters": {"binary_data_output": True}},
    )
    service = ModelService(generator_manifest(), submit, Limits())
    Watched.threads.clear()
    answer = asyncio.run(infer(service, HttpRequest("POST", "", "", headers, no_more, content)))
    assert len(answer.body) > side * side * 3
    assert (Watched.threads == {threading.get_ident()}) == is_here


@pytest.mark.parametrize(("n", "is_here"), [(2, True), (200, False)])
def test_many_numbers_are_checked_in_a_thread(n: int, is_here: bool) -> None:
    manifest = generator_manifest()
    wide = dataclasses.replace(manifest.interface.inputs[0], shape=("batch", 512))
    service = ModelService(with_interface(manifest, inputs=(wide,)), FakeEngine().submit, Limits())
    latent = np.zeros((n, 512), np.float32).view(Watched)
    Watched.threads.clear()
    asyncio.run(service.run({"latent": latent}))
    assert (Watched.threads == {threading.get_ident()}) == is_here
