"""The wire format of inference for any tensors and any bytes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from serving.errors import BadRequestError, UnsupportedError
from serving.open_inference import DATATYPES, HEADER_LENGTH, json_length, pack, parse_infer, unpack_outputs

TENSOR = st.sampled_from(list(DATATYPES.values())).flatmap(
    lambda dtype: arrays.arrays(
        dtype,
        arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
        elements={"allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else None,
    )
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=8,
)
FIELDS = {
    "name": st.just("x"),
    "shape": st.lists(st.integers(-1, 3), max_size=3),
    "datatype": st.sampled_from(list(DATATYPES)),
}


@given(tensors=st.lists(st.tuples(TENSOR, st.booleans()), min_size=1, max_size=4), big_endian=st.booleans())
def test_tensors_are_unchanged_by_pack_and_parse(tensors: list[tuple[NDArray[Any], bool]], big_endian: bool) -> None:
    named = {
        f"t{k}": array.astype(array.dtype.newbyteorder(">" if big_endian else "<"))
        for k, (array, _) in enumerate(tensors)
    }
    binary = {f"t{k}": in_binary for k, (_, in_binary) in enumerate(tensors)}
    content, headers = pack("inputs", named, binary, {"id": "q"})
    request, back = parse_infer(content, json_length(content, headers.get(HEADER_LENGTH)))
    assert request.id == "q"
    answer, headers = pack("outputs", named, binary, {})
    for read in (back, unpack_outputs(answer, headers.get(HEADER_LENGTH))):
        for name, array in named.items():
            np.testing.assert_array_equal(read[name], array)
            assert read[name].shape == array.shape
            assert read[name].dtype == array.dtype.newbyteorder("<")


@given(content=st.binary(max_size=300), length=st.none() | st.text(max_size=5) | st.integers(0, 300).map(str))
def test_any_bytes_are_read_or_refused_in_one_line(content: bytes, length: str | None) -> None:
    _read_or_refuse(content, length)


@given(
    inputs=st.lists(st.fixed_dictionaries(FIELDS, optional={"data": JSON, "parameters": JSON}), max_size=2),
    more=st.dictionaries(st.sampled_from(["id", "parameters", "outputs"]), JSON),
    tail=st.none() | st.binary(max_size=30),
)
def test_any_request_is_read_or_refused_in_one_line(
    inputs: list[Any], more: dict[str, Any], tail: bytes | None
) -> None:
    header = json.dumps({"inputs": inputs, **more}).encode()
    _read_or_refuse(header + (tail or b""), None if tail is None else str(len(header)))


def _read_or_refuse(content: bytes, length: str | None) -> None:
    try:
        request, inputs = parse_infer(content, json_length(content, length))
        request.requested_outputs(["image"])
        request.timeout()
    except (BadRequestError, UnsupportedError) as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017
        return
    for entry in request.inputs:
        assert inputs[entry.name].shape == tuple(entry.shape)
        assert inputs[entry.name].dtype == DATATYPES[entry.datatype]
