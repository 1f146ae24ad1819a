"""The checks of `triton_grpc` that run models."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import (
    InferInput,
    InferRequestedOutput,
    service_pb2,
    service_pb2_grpc,
)

from tests.serving.triton_grpc_client import (
    SECONDS,
    Client,
    arrays,
    models,
    refused,
    tensors,
)


def check_inference(client: Client) -> None:
    """Inference with ids, versions, compression, timeouts, priorities and own parameters, also asynchronously."""
    for entry in client.get_model_repository_index().models:
        model, version = entry.name, entry.version
        inputs = tensors(client, model)
        result = client.infer(model, inputs, request_id="first")
        expected = result.as_numpy("image")
        answer = result.get_response()
        assert (answer.model_name, answer.model_version, answer.id) == (model, version, "first")
        assert list(result.get_output("image").shape) == list(expected.shape)
        assert result.as_numpy("nothing") is None
        variants: list[dict[str, Any]] = [
            {"outputs": [InferRequestedOutput("image")]},
            {"model_version": version},
            {"timeout": 10_000_000},
            {"client_timeout": SECONDS},
            {"priority": 3},
            {"parameters": {"own": 1}},
            {"headers": {"x-request-id": "a", "application": "another"}},
            {"compression_algorithm": "gzip"},
            {"compression_algorithm": "deflate"},
        ]
        for options in variants:
            got = client.infer(model, inputs, **options)
            np.testing.assert_array_equal(got.as_numpy("image"), expected, err_msg=str(options))
        answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
        put = _putter(answers)
        for k in range(5):
            client.async_infer(model, inputs, put, request_id=str(k))
        seen = set()
        for _ in range(5):
            outcome, error = answers.get(timeout=SECONDS)
            assert error is None
            seen.add(outcome.get_response().id)
            np.testing.assert_array_equal(outcome.as_numpy("image"), expected)
        assert seen == set("01234")


def check_typed_contents(client: Client) -> None:
    """Numbers in the fields of their datatype give the same image as raw ones."""
    fields = {"FP32": "fp32_contents", "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents"}
    stub = service_pb2_grpc.GRPCInferenceServiceStub(client._channel)
    for model in models(client):
        metadata = client.get_model_metadata(model)
        request = service_pb2.ModelInferRequest(model_name=model)
        for tensor in metadata.inputs:
            array = arrays(metadata)[tensor.name]
            entry = request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=array.shape)
            getattr(entry.contents, fields[tensor.datatype]).extend(array.ravel().tolist())
        answer = stub.ModelInfer(request, timeout=SECONDS)
        expected = client.infer(model, tensors(client, model)).as_numpy("image")
        assert answer.raw_output_contents[0] == expected.tobytes()
        getattr(request.inputs[0].contents, fields[metadata.inputs[0].datatype]).pop()
        with pytest.raises(grpc.RpcError, match="numbers"):
            stub.ModelInfer(request, timeout=SECONDS)


def check_stream(client: Client) -> None:
    """A stream of requests to one model, and one to all models, are answered in order; errors do not end it."""
    names = models(client)
    inputs = {name: tensors(client, name) for name in names}
    expected = {name: client.infer(name, inputs[name]).as_numpy("image") for name in names}
    for order in ([names[0]] * 20, names * 3):
        answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
        client.start_stream(_putter(answers))
        for k, name in enumerate(order):
            client.async_stream_infer(name, inputs[name], request_id=str(k), enable_empty_final_response=k == 1)
        client.async_stream_infer("nothing", inputs[names[0]], request_id="none")
        client.async_stream_infer(names[0], inputs[names[0]], model_version="999")
        client.async_stream_infer(names[0], inputs[names[0]], sequence_id=5)
        client.async_stream_infer(names[0], inputs[names[0]], request_id="last")
        for k, name in enumerate(order):
            result, error = answers.get(timeout=SECONDS)
            assert error is None, error
            response = result.get_response()
            assert (response.id, response.model_name) == (str(k), name)
            assert response.parameters["triton_final_response"].bool_param == (k == 1)
            np.testing.assert_array_equal(result.as_numpy("image"), expected[name])
        for text in ("no model nothing", "version 999", "keeps no state"):
            result, error = answers.get(timeout=SECONDS)
            assert result is None
            assert text in str(error)
        result, error = answers.get(timeout=SECONDS)
        assert result.get_response().id == "last"
        client.stop_stream()
        assert answers.empty()


def check_refused_inference(client: Client) -> None:
    """Sequences, classes, unknown outputs, versions, models and datatypes are refused."""
    for model in models(client):
        inputs = tensors(client, model)
        for sequence in (7, "seven"):
            refused("UNIMPLEMENTED", "no state", client.infer, model, inputs, sequence_id=sequence, sequence_start=True)
        classes = InferRequestedOutput("image", class_count=3)
        refused("UNIMPLEMENTED", "classification", client.infer, model, inputs, outputs=[classes])
        mask = InferRequestedOutput("mask")
        refused("INVALID_ARGUMENT", "no output 'mask'", client.infer, model, inputs, outputs=[mask])
        refused("NOT_FOUND", "version 999", client.infer, model, inputs, model_version="999")
        refused("INVALID_ARGUMENT", "timeout is '-1'", client.infer, model, inputs, timeout=-1)
        refused("INVALID_ARGUMENT", "twice", client.infer, model, [*inputs, inputs[0]])
        first = inputs[0].name()
        for datatype, array in {
            "BYTES": np.array([[b"a"]], dtype=np.object_),
            "FP16": np.zeros((1, 1), np.float16),
            "FP64": np.zeros((1, 1)),
            "BOOL": np.zeros((1, 1), np.bool_),
            "INT8": np.zeros((1, 1), np.int8),
        }.items():
            wrong = InferInput(first, [1, 1], datatype).set_data_from_numpy(array)
            refused("INVALID_ARGUMENT", "inputs.0.datatype", client.infer, model, [wrong])
        unknown = InferInput("z", [1], "FP32").set_data_from_numpy(np.zeros(1, np.float32))
        refused("INVALID_ARGUMENT", "takes the inputs", client.infer, model, [unknown])
    refused("NOT_FOUND", "no model nothing", client.infer, "nothing", [])


def check_statistics(client: Client) -> None:
    """The statistics of all models, of a model and of a version count requests, images and runs."""
    index = client.get_model_repository_index().models
    everything = client.get_inference_statistics().model_stats
    assert [entry.name for entry in everything] == [entry.name for entry in index]
    for entry in index:
        model, version = entry.name, entry.version
        before = client.get_inference_statistics(model).model_stats[0]
        for n in (1, 3):
            client.infer(model, tensors(client, model, n))
        refused("UNIMPLEMENTED", "no state", client.infer, model, tensors(client, model), sequence_id=1)
        after = client.get_inference_statistics(model, version).model_stats[0]
        assert (after.name, after.version) == (model, version)
        assert after.inference_count == before.inference_count + 4
        assert before.execution_count < after.execution_count <= before.execution_count + 2
        assert after.inference_stats.success.count == before.inference_stats.success.count + 2
        assert after.inference_stats.fail.count == before.inference_stats.fail.count + 1
        refused("NOT_FOUND", "999", client.get_inference_statistics, model, "999")
    refused("NOT_FOUND", "nothing", client.get_inference_statistics, "nothing")


def _putter(answers: queue.Queue[tuple[Any, Any]]) -> Callable[[Any, Any], None]:
    """Return a callback of the client that puts what it gets into `answers`."""
    return lambda result, error: answers.put((result, error))
