"""The messages of gRPC: they are those of the public protocol, and carry what they should."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from tritonclient.grpc import model_config_pb2, service_pb2

from serving.config import GatewaySettings
from serving.errors import BadRequestError
from serving.grpc import open_inference_pb2 as pb
from serving.grpc.calls import GatewayCalls, ModelCalls
from serving.grpc.messages import add_outputs, infer_request, numbers, parsed
from serving.grpc.server import STREAM
from serving.haproxy_grpc import GRPC_SERVICE, NAMING_CALLS
from serving.surroundings import in_folder

# Messages with the same content have one class here.
STOCK_NAMES = {
    "ModelRequest": ["ModelReadyRequest", "ModelMetadataRequest", "ModelConfigRequest", "ModelStatisticsRequest"],
    "RepositoryModelRequest": ["RepositoryModelLoadRequest", "RepositoryModelUnloadRequest"],
    "SharedMemoryRequest": [
        f"{kind}SharedMemory{call}Request"
        for kind in ("System", "Cuda")
        for call in ("Status", "Register", "Unregister")
    ],
    "TraceSettings": ["TraceSettingRequest"],
    "LogSettings": ["LogSettingsRequest", "LogSettingsResponse"],
    "Empty": [],
}
TYPES = {name: number for name, number in vars(FieldDescriptor).items() if name.startswith("TYPE_")}


def stock(name: str) -> Descriptor:
    """Return the descriptor of a message of Triton's client."""
    files = (service_pb2.DESCRIPTOR, model_config_pb2.DESCRIPTOR)
    return next(file.message_types_by_name[name] for file in files if name in file.message_types_by_name)


def fields(message: Descriptor, known: Descriptor) -> dict[str, Any]:
    """Return number, type, kind and inner fields of those fields of `message` that `known` has."""
    found = {}
    for field in message.fields:
        if field.name in known.fields_by_name:
            inner = field.message_type
            content = fields(inner, known.fields_by_name[field.name].message_type) if inner else None
            found[field.name] = (field.number, field.type, field.is_repeated, content)
    return found


@pytest.mark.parametrize("name", sorted(pb.DESCRIPTOR.message_types_by_name))
def test_messages_are_those_of_the_public_protocol(name: str) -> None:
    own = pb.DESCRIPTOR.message_types_by_name[name]
    for stock_name in STOCK_NAMES.get(name, [name]):
        assert fields(stock(stock_name), own) == fields(own, own)


def test_datatypes_have_the_numbers_of_the_public_protocol() -> None:
    values = model_config_pb2.DESCRIPTOR.enum_types_by_name["DataType"].values_by_name
    own = pb.DESCRIPTOR.enum_types_by_name["DataType"].values
    assert {value.name: value.number for value in own} == {value.name: values[value.name].number for value in own}


def test_every_call_of_the_public_protocol_is_served_and_routed_by_its_first_field() -> None:
    service = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert service.full_name == GRPC_SERVICE
    none: Any = None
    settings = GatewaySettings(models=())
    gateway, model = GatewayCalls(settings, in_folder(settings), none, none), ModelCalls(none, none, none)
    assert {*gateway.methods, STREAM} == set(service.methods_by_name)
    assert {*model.methods, STREAM} == set(NAMING_CALLS)
    named = {
        method.name
        for method in service.methods
        if {"name", "model_name"} & {f.name for f in method.input_type.fields[:1]}
    }
    assert set(NAMING_CALLS) == {name for name in named if name.startswith("Model")}


@pytest.mark.parametrize(("datatype", "dtype"), [("UINT8", "u1"), ("UINT16", "<u2"), ("FP32", "<f4"), ("INT64", "<i8")])
def test_tensors_come_and_go_unchanged(datatype: str, dtype: str) -> None:
    array = np.arange(12, dtype=dtype).reshape(2, 3, 2)
    request = pb.ModelInferRequest(raw_input_contents=[array.tobytes()])
    request.inputs.add(name="x", datatype=datatype, shape=array.shape)
    typed = pb.ModelInferRequest()
    contents = typed.inputs.add(name="x", datatype=datatype, shape=array.shape).contents
    field = {"U": "uint_contents", "F": "fp32_contents", "I": "int64_contents"}[datatype[0]]
    getattr(contents, field).extend(array.ravel().tolist())
    assert (numbers(request), numbers(typed)) == (0, 12)
    for message in (request, typed):
        checked, inputs = infer_request(parsed(pb.ModelInferRequest, message.SerializeToString()))
        np.testing.assert_array_equal(inputs["x"], array)
        assert inputs["x"].dtype == np.dtype(dtype)
        assert checked.id is None
    response = pb.ModelInferResponse()
    add_outputs(response, {"y": array, "z": array}, ["y"])
    assert [(o.name, o.datatype, list(o.shape)) for o in response.outputs] == [("y", datatype, [2, 3, 2])]
    assert list(response.raw_output_contents) == [array.tobytes()]


def test_number_that_its_datatype_does_not_hold_is_refused() -> None:
    request = pb.ModelInferRequest()
    request.inputs.add(name="x", datatype="UINT8", shape=[2]).contents.uint_contents.extend([255, 256])
    with pytest.raises(BadRequestError, match="x is not UINT8: its data leaves 0…255"):
        infer_request(request)


def test_large_message_of_raw_tensors_is_read() -> None:
    request = pb.ModelInferRequest(model_name="m", raw_input_contents=[bytes(2**21)] * 3)
    assert parsed(pb.ModelInferRequest, request.SerializeToString()) == request
