"""Between the messages of the protocol and arrays. Messages are typed as `Any`: their classes are generated."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from pydantic import ValidationError

from serving.errors import BadRequestError, TooLargeError
from serving.json_bodies import MAX_JSON
from serving.open_inference import DATATYPES, InferRequest, datatype, wrong_request

_CONTENTS = {"UINT8": "uint_contents", "UINT16": "uint_contents", "FP32": "fp32_contents", "INT64": "int64_contents"}
"""The field of a tensor's numbers by its datatype, where they are not in `raw_input_contents`."""
_RAW_CONTENTS = 7
"""The number of the field `raw_input_contents`."""
_SMALL_BYTES = 2**16
_MAX_FIELDS = 512
"""More than the inputs, outputs and parameters of a request may be."""


def parsed(kind: Any, content: bytes) -> Any:
    """Return the message of the class `kind` in `content`.

    Raises:
        BadRequestError: `content` is not such a message.
        TooLargeError: it has more fields, or more bytes outside of raw tensors, than a request needs. A message of many
            small fields takes fifty times its bytes when it is parsed.
    """
    try:
        if len(content) > _SMALL_BYTES:
            _check_fields(content)
        return kind.FromString(content)
    except (DecodeError, IndexError) as error:
        raise BadRequestError(f"the message is not a {kind.DESCRIPTOR.name} of the protocol") from error


def _check_fields(content: bytes) -> None:
    """Raise TooLargeError as `parsed` does, and IndexError if the fields do not end with `content`."""
    position, others = 0, 0
    for _ in range(_MAX_FIELDS):
        if position == len(content):
            return
        key, position = _varint(content, position)
        size, position = _varint(content, position)
        # Every field of the messages that may be this large has a length.
        if key & 7 != 2 or position + size > len(content):
            raise IndexError
        position += size
        others += 0 if key >> 3 == _RAW_CONTENTS else size
        if others > MAX_JSON:
            raise TooLargeError(
                f"the message has more than {MAX_JSON} bytes outside of raw_input_contents: send large tensors there"
            )
    raise TooLargeError(f"the message has more than {_MAX_FIELDS} fields")


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """Return the number at `position`, and the position after it. Raises IndexError if it does not end."""
    value = 0
    for shift in range(0, 70, 7):
        byte = content[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise IndexError


def numbers(request: Any) -> int:
    """Return how many numbers of a `ModelInferRequest` are not raw, and must be converted one by one."""
    return sum(len(getattr(entry.contents, field)) for entry in request.inputs for field in set(_CONTENTS.values()))


def infer_request(request: Any) -> tuple[InferRequest, dict[str, NDArray[Any]]]:
    """Return the request and the inputs of a `ModelInferRequest`, as `open_inference.parse_infer` does.

    Raises:
        BadRequestError: a field is not legal, or the numbers of a tensor do not fit its shape and datatype.
        UnsupportedError: an input is in shared memory.
    """
    fields = {
        "id": request.id or None,
        "parameters": parameters(request.parameters),
        "inputs": [
            {
                "name": entry.name,
                "datatype": entry.datatype,
                "shape": list(entry.shape),
                "parameters": parameters(entry.parameters),
            }
            for entry in request.inputs
        ],
        "outputs": [{"name": entry.name, "parameters": parameters(entry.parameters)} for entry in request.outputs],
    }
    try:
        checked = InferRequest.model_validate(fields)
    except ValidationError as error:
        raise wrong_request(error) from error
    checked.check_inputs()
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(checked.inputs):
        raise BadRequestError(f"raw_input_contents has {len(raw)} tensors for {len(checked.inputs)} inputs")
    inputs: dict[str, NDArray[Any]] = {}
    for index, entry in enumerate(checked.inputs):
        contents = request.inputs[index].contents
        values = _from_raw(entry, raw[index]) if raw else _from_contents(entry, contents)
        inputs[entry.name] = values.reshape(entry.shape)
    return checked, inputs


def parameters(entries: Any) -> dict[str, Any]:
    """Return the values of a map of parameters, without those that have none."""
    chosen = {key: value.WhichOneof("parameter_choice") for key, value in entries.items()}
    return {key: getattr(entries[key], field) for key, field in chosen.items() if field is not None}


def add_outputs(response: Any, outputs: Mapping[str, NDArray[Any]], names: Iterable[str]) -> None:
    """Add the outputs `names` to a `ModelInferResponse` in raw form."""
    for name in names:
        array = outputs[name]
        kind = datatype(array.dtype)
        response.outputs.add(name=name, datatype=kind, shape=array.shape)
        response.raw_output_contents.append(np.ascontiguousarray(array, DATATYPES[kind]).tobytes())


def _from_raw(entry: Any, content: bytes) -> NDArray[Any]:
    dtype = DATATYPES[entry.datatype]
    need = dtype.itemsize * math.prod(entry.shape)
    if len(content) != need:
        raise BadRequestError(
            f"{entry.name} as {entry.datatype} {entry.shape} needs {need} bytes: "
            f"its part of raw_input_contents has {len(content)}"
        )
    return np.frombuffer(content, dtype)


def _from_contents(entry: Any, contents: Any) -> NDArray[Any]:
    field, dtype = _CONTENTS[entry.datatype], DATATYPES[entry.datatype]
    given = getattr(contents, field)
    if len(given) != math.prod(entry.shape):
        raise BadRequestError(
            f"{entry.name} is not {entry.datatype} {entry.shape}: its {field} has {len(given)} numbers"
        )
    wide = np.dtype(np.uint32) if field == "uint_contents" else dtype
    values = np.fromiter(given, wide, len(given))
    if wide != dtype and values.size and values.max() > np.iinfo(dtype).max:
        raise BadRequestError(f"{entry.name} is not {entry.datatype}: its data leaves 0…{np.iinfo(dtype).max}")
    return values.astype(dtype, copy=False)
