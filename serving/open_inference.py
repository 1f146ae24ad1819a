"""The wire format of the Open Inference Protocol (KServe v2) over HTTP, with its binary tensor extension."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, NonNegativeInt, ValidationError

from export.interface import Kind
from serving.errors import BadRequestError

HEADER_LENGTH = "Inference-Header-Content-Length"
DATATYPES: dict[str, np.dtype[Any]] = {
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "FP32": np.dtype("<f4"),
    "INT64": np.dtype("<i8"),
}
_NAMES = {dtype: name for name, dtype in DATATYPES.items()}


class TensorMetadata(BaseModel):
    """One input or output; -1 stands for a dynamic axis."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """KServe v2 model metadata, with the model's kind."""

    name: str
    versions: list[str]
    platform: str = "onnxruntime_onnx"
    kind: Kind
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ServerMetadata(BaseModel):
    """KServe v2 server metadata."""

    name: str = "zorse"
    version: str
    extensions: list[str] = ["binary_tensor_data"]


class _Input(BaseModel):
    name: str
    shape: list[NonNegativeInt]
    datatype: Literal["UINT8", "UINT16", "FP32", "INT64"]
    parameters: dict[str, Any] = {}
    data: list[Any] | None = None


class _Output(BaseModel):
    name: str
    parameters: dict[str, Any] = {}


class InferRequest(BaseModel):
    """The JSON of an inference request."""

    id: str | None = None
    parameters: dict[str, Any] = {}
    inputs: list[_Input]
    outputs: list[_Output] | None = None

    def requested_outputs(self, produced: list[str]) -> dict[str, bool]:
        """Map the name of each requested output to whether its data is sent in binary. By default all are requested.

        Raises:
            BadRequestError: the model has no such output.
        """
        binary = self.parameters.get("binary_data_output") is True
        if not self.outputs:
            return dict.fromkeys(produced, binary)
        unknown = [output.name for output in self.outputs if output.name not in produced]
        if unknown:
            raise BadRequestError(f"there is no output {unknown[0]!r}: the outputs are {', '.join(produced)}")
        return {output.name: output.parameters.get("binary_data", binary) is True for output in self.outputs}


def body_length(text: str) -> int | None:
    """Return the number of bytes that a header states, or None if it is not a number of at most 18 digits."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else None


def parse_infer(content: bytes, header_length: str | None) -> tuple[InferRequest, dict[str, NDArray[Any]]]:
    """Return the JSON and the inputs of an inference request whose body is `content`.

    `header_length` is the value of the header `HEADER_LENGTH`, if it was sent.

    Raises:
        BadRequestError: the body is not JSON of the protocol, or the bytes of a tensor do not fit its shape and dtype.
    """
    length = len(content)
    if header_length is not None:
        stated = body_length(header_length)
        if stated is None or stated > len(content):
            raise BadRequestError(f"{HEADER_LENGTH} is {header_length[:40]!r} and the body has {len(content)} bytes")
        length = stated
    try:
        request = InferRequest.model_validate_json(content[:length])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadRequestError(f"the inference request is wrong at {where or 'its start'}: {first['msg']}") from error
    tail = memoryview(content)[length:]
    inputs: dict[str, NDArray[Any]] = {}
    for entry in request.inputs:
        if entry.name in inputs:
            raise BadRequestError(f"the input {entry.name!r} is given twice")
        size = entry.parameters.get("binary_data_size")
        try:
            values, tail = (_from_json(entry), tail) if size is None else _from_binary(entry, size, tail)
            inputs[entry.name] = values.reshape(entry.shape)
        except (ValueError, OverflowError) as error:
            raise BadRequestError(f"{entry.name} is not {entry.datatype} {entry.shape}: {error}") from error
    if tail:
        raise BadRequestError(f"{len(tail)} bytes follow the last tensor: check every binary_data_size")
    return request, inputs


def _from_binary(entry: _Input, size: object, tail: memoryview) -> tuple[NDArray[Any], memoryview]:
    dtype = DATATYPES[entry.datatype]
    need = dtype.itemsize * math.prod(entry.shape)
    if size != need or len(tail) < need:
        raise BadRequestError(
            f"{entry.name} as {entry.datatype} {entry.shape} needs {need} bytes: "
            f"binary_data_size is {size!r} and {len(tail)} bytes are left"
        )
    return np.frombuffer(tail[:need], dtype), tail[need:]


def _from_json(entry: _Input) -> NDArray[Any]:
    """Return the numbers of the JSON. Raises ValueError or OverflowError if they are not of the tensor's dtype."""
    dtype = DATATYPES[entry.datatype]
    if entry.data is None:
        raise BadRequestError(f"{entry.name} has neither data nor binary_data_size")
    values = np.array(entry.data) if entry.data else np.empty(0, dtype)
    if values.dtype.kind not in "iufb" or (dtype.kind != "f" and values.dtype.kind == "f"):
        raise ValueError(f"its data is {values.dtype}")
    if dtype.kind != "f" and values.size:
        limits = np.iinfo(dtype)
        if values.min() < limits.min or values.max() > limits.max:
            raise ValueError(f"its data leaves {limits.min}…{limits.max}")
    with np.errstate(over="ignore"):  # to infinity, which no model takes
        return values.astype(dtype)


def datatype(dtype: np.dtype[Any]) -> str:
    """Return the protocol's name of `dtype`.

    Raises:
        BadRequestError: the dtype is not in `DATATYPES`.
    """
    name = _NAMES.get(dtype.newbyteorder("<"))
    if name is None:
        raise BadRequestError(f"there are no tensors of {dtype}: use uint8, uint16, float32 or int64")
    return name


def pack(
    field: Literal["inputs", "outputs"],
    tensors: Mapping[str, NDArray[Any]],
    binary: Mapping[str, bool],
    extra: Mapping[str, Any],
) -> tuple[bytes, dict[str, str]]:
    """Return the body and headers of a request or response.

    `extra` are further keys of its JSON. `binary` has the names of the tensors to send, and for each whether its data
    is sent in binary or as JSON numbers.

    Raises:
        BadRequestError: the dtype of a tensor is not in `DATATYPES`.
    """
    entries: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for name, in_binary in binary.items():
        array = tensors[name]
        entry: dict[str, Any] = {"name": name, "datatype": datatype(array.dtype), "shape": list(array.shape)}
        if in_binary:
            blobs.append(array.astype(DATATYPES[entry["datatype"]], copy=False).tobytes())
            entry["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            entry["data"] = array.ravel().tolist()
        entries.append(entry)
    header = json.dumps({**extra, field: entries}).encode()
    if not blobs:
        return header, {"Content-Type": "application/json"}
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(header))}
    return b"".join([header, *blobs]), headers


def unpack_outputs(content: bytes, header_length: str | None) -> dict[str, NDArray[Any]]:
    """Return the arrays of an inference response, the inverse of `pack`.

    Raises:
        BadRequestError: the response breaks the protocol.
    """
    try:
        length = len(content) if header_length is None else int(header_length)
        header = json.dumps({"inputs": json.loads(content[:length])["outputs"]}).encode()
    except (ValueError, KeyError, TypeError) as error:
        raise BadRequestError(f"this is no inference response ({type(error).__name__}: {error})") from error
    return parse_infer(header + content[length:], str(len(header)))[1]
