"""The wire format of the Open Inference Protocol (KServe v2) over HTTP, with its binary tensor extension."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from itertools import chain
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError
from pydantic_core import to_json

from serving.errors import BadRequestError, UnsupportedError
from zorse_common.errors import shortened

HEADER_LENGTH = "inference-header-content-length"
"""The header with the number of bytes of the JSON before binary tensors."""
DATATYPES: dict[str, np.dtype[Any]] = {
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "FP32": np.dtype("<f4"),
    "INT64": np.dtype("<i8"),
}
_NAMES = {dtype: name for name, dtype in DATATYPES.items()}
_NO_SHARED_MEMORY = "this server reads no shared memory, send the data in the request"
_REFUSED = {
    "shared_memory_region": _NO_SHARED_MEMORY,
    "shared_memory_byte_size": _NO_SHARED_MEMORY,
    "shared_memory_offset": _NO_SHARED_MEMORY,
    "classification": "the model makes images and no classes",
}
"""The parameters of tensors for what the server does not do, and why it does not."""


class _Tensor(BaseModel):
    model_config = ConfigDict(strict=True)

    name: str = Field(max_length=256)
    parameters: dict[str, Any] = {}

    def check_parameters(self) -> None:
        """Raises UnsupportedError if the tensor has a parameter for what the server does not do."""
        for parameter in self.parameters:
            if parameter in _REFUSED:
                raise UnsupportedError(f"{self.name} has the parameter {parameter}: {_REFUSED[parameter]}")


class _Input(_Tensor):
    shape: list[NonNegativeInt] = Field(max_length=16, fail_fast=True)
    datatype: Literal["UINT8", "UINT16", "FP32", "INT64"]
    data: list[Any] | None = None


class InferRequest(BaseModel):
    """The JSON of an inference request."""

    model_config = ConfigDict(strict=True)

    id: str | None = Field(default=None, max_length=256)
    parameters: dict[str, Any] = {}
    inputs: list[_Input] = Field(max_length=64, fail_fast=True)
    outputs: list[_Tensor] | None = Field(default=None, max_length=64, fail_fast=True)

    def check_inputs(self) -> None:
        """Check that no input is given twice or has a parameter for what the server does not do.

        Raises:
            BadRequestError, UnsupportedError: one is or has.
        """
        names: set[str] = set()
        for entry in self.inputs:
            if entry.name in names:
                raise BadRequestError(f"the input {entry.name!r} is given twice")
            names.add(entry.name)
            entry.check_parameters()

    def requested_outputs(self, produced: list[str]) -> dict[str, bool]:
        """Map the name of each requested output to whether its data is sent in binary. By default all are requested.

        Raises:
            BadRequestError: the model has no such output, it is requested twice, or a parameter is not a boolean.
            UnsupportedError: an output is requested as classes or in shared memory.
        """
        binary = _flag(self.parameters, "binary_data_output", False)
        if not self.outputs:
            return dict.fromkeys(produced, binary)
        requested: dict[str, bool] = {}
        for output in self.outputs:
            if output.name not in produced:
                raise BadRequestError(f"there is no output {output.name!r}: the outputs are {', '.join(produced)}")
            if output.name in requested:
                raise BadRequestError(f"the output {output.name!r} is requested twice")
            output.check_parameters()
            requested[output.name] = _flag(output.parameters, "binary_data", binary)
        return requested

    def timeout(self) -> float | None:
        """Return the seconds within which the client needs the answer, or None if it does not say.

        The parameter `timeout` is in microseconds, and 0 stands for no limit. `priority` has no effect, as for a model
        of Triton without priority levels: requests run by their deadlines.

        Raises:
            BadRequestError: the timeout is not a number of microseconds.
            UnsupportedError: the request belongs to a sequence.
        """
        if not self.parameters:
            return None
        for key in self.parameters:
            if key.startswith("sequence_"):
                raise UnsupportedError(
                    f"the request has the parameter {shortened(key)}: the model keeps no state, leave it out"
                )
        microseconds = self.parameters.get("timeout", 0)
        if type(microseconds) is not int or not 0 <= microseconds < 2**63:
            raise BadRequestError(f"timeout is {str(microseconds)[:40]!r}: give a whole number of microseconds")
        return microseconds / 1e6 if microseconds else None


def body_length(text: str) -> int | None:
    """Return the number of bytes that a header states, or None if it is not a number of at most 18 digits."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else None


def json_length(content: bytes, header_length: str | None) -> int:
    """Return the number of bytes of the JSON at the start of the body `content`.

    `header_length` is the value of the header `HEADER_LENGTH`, if it was sent.

    Raises:
        BadRequestError: the header is not a number of bytes that the body has.
    """
    if header_length is None:
        return len(content)
    stated = body_length(header_length)
    if stated is None or stated > len(content):
        raise BadRequestError(f"{HEADER_LENGTH} is {header_length[:40]!r} and the body has {len(content)} bytes")
    return stated


def parse_infer(content: bytes, length: int) -> tuple[InferRequest, dict[str, NDArray[Any]]]:
    """Return the JSON and the inputs of an inference request whose body is `content`.

    `length` is the number of bytes of the JSON at the start of the body; see `json_length`.

    Raises:
        BadRequestError: the body is not JSON of the protocol, or the bytes of a tensor do not fit its shape and dtype.
        UnsupportedError: an input is in shared memory.
    """
    text = content[:length]
    request = _parse_repeated(text) if length <= _REPEATED_BYTES else _parse_json(text)
    tail = memoryview(content)[length:]
    inputs: dict[str, NDArray[Any]] = {}
    for entry in request.inputs:
        size = entry.parameters.get("binary_data_size")
        try:
            values, tail = (_from_json(entry), tail) if size is None else _from_binary(entry, size, tail)
            inputs[entry.name] = values.reshape(entry.shape)
        except (ValueError, OverflowError) as error:
            raise BadRequestError(f"{entry.name} is not {entry.datatype} {entry.shape}: {error}") from error
    if tail:
        raise BadRequestError(f"{len(tail)} bytes follow the last tensor: check every binary_data_size")
    return request, inputs


def wrong_request(error: ValidationError) -> BadRequestError:
    """Return the error for an inference request that `InferRequest` does not take."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return BadRequestError(f"the inference request is wrong at {where or 'its start'}: {first['msg']}")


def _parse_json(text: bytes) -> InferRequest:
    try:
        request = InferRequest.model_validate_json(text)
    except ValidationError as error:
        raise wrong_request(error) from error
    request.check_inputs()
    return request


_parse_repeated = functools.lru_cache(maxsize=64)(_parse_json)
"""Parses the JSON before binary tensors, which is the same in most requests of a client. Nobody changes the result."""
_REPEATED_BYTES = 512


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
    numbers = _flat(entry.data, entry.shape)
    # numpy takes seconds for a list in which numbers, texts and lists are mixed.
    if not set(map(type, numbers)) <= {int, float}:
        raise ValueError("its data is not numbers")
    values = np.array(numbers) if numbers else np.empty(0, dtype)
    if values.dtype.kind not in "iuf" or (dtype.kind != "f" and values.dtype.kind == "f"):
        raise ValueError(f"its data is {'not numbers' if values.dtype.kind not in 'iuf' else values.dtype}")
    if dtype.kind != "f" and values.size:
        limits = np.iinfo(dtype)
        if values.min() < limits.min or values.max() > limits.max:
            raise ValueError(f"its data leaves {limits.min}…{limits.max}")
    with np.errstate(over="ignore"):  # to infinity, which no model takes
        return values.astype(dtype)


def _flat(data: list[Any], shape: list[int]) -> list[Any]:
    """Return the entries of `data`, which is flat or nested as `shape` says. Raises ValueError if it is neither."""
    if not data or type(data[0]) is not list:
        if len(data) != math.prod(shape):
            raise ValueError(f"its data has {len(data)} numbers")
        return data
    if len(data) != shape[0]:
        raise ValueError(f"its data has {len(data)} lists")
    for axis in shape[1:]:
        if set(map(type, data)) != {list} or set(map(len, data)) != {axis}:
            raise ValueError("its data is nested in another way than its shape")
        data = list(chain.from_iterable(data))
    return data


def datatype(dtype: np.dtype[Any]) -> str:
    """Return the protocol's name of `dtype`.

    Raises:
        BadRequestError: the dtype is not in `DATATYPES`.
    """
    name = _NAMES.get(dtype) or _NAMES.get(dtype.newbyteorder("<"))
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
    arrays: list[Any] = []
    for name, in_binary in binary.items():
        array = tensors[name]
        entry: dict[str, Any] = {"name": name, "datatype": datatype(array.dtype), "shape": array.shape}
        if in_binary:
            array = np.ascontiguousarray(array, DATATYPES[entry["datatype"]])
            entry["parameters"] = {"binary_data_size": array.nbytes}
            arrays.append(array)
        else:
            entry["data"] = array.ravel().tolist()
        entries.append(entry)
    header = to_json({**extra, field: entries})
    if not arrays:
        return header, {"content-type": "application/json"}
    # The arrays are joined as buffers: a large tensor is copied once.
    headers = {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(header))}
    return b"".join([header, *arrays]), headers


def _flag(parameters: Mapping[str, Any], key: str, default: bool) -> bool:
    value = parameters.get(key, default)
    if not isinstance(value, bool):
        raise BadRequestError(f"{key} is {str(value)[:40]!r}: give true or false")
    return value


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
    return parse_infer(header + content[length:], len(header))[1]
