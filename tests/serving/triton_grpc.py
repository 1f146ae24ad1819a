"""Everything that stock `tritonclient.grpc` can call, against any server: `python -m tests.serving.triton_grpc TARGET`.

Each check is a function of the client. The models are those of the server's repository index, and their inputs are made
from their metadata. At the end every public method of the client was called, and of the asynchronous client too.
"""

from __future__ import annotations

import asyncio
import inspect
import queue
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient.grpc import (
    InferenceServerClient,
    InferenceServerClientPlugin,
    InferenceServerException,
    InferInput,
    InferRequestedOutput,
    aio,
    service_pb2,
    service_pb2_grpc,
)
from tritonclient.utils import triton_to_np_dtype

SIDE = 32
"""The height and width of the images that are sent."""
SECONDS = 60
"""How long an answer may take before a check fails."""


class Recording:
    """Keeps the names of the methods that were called."""

    called: set[str]

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_") and name != "called":
            self.called.add(name)
        return super().__getattribute__(name)


class Client(Recording, InferenceServerClient):  # type: ignore[misc]
    """The stock client."""

    def __init__(self, target: str) -> None:
        self.called = set()
        super().__init__(target)


class AsyncClient(Recording, aio.InferenceServerClient):  # type: ignore[misc]
    """The stock asynchronous client."""

    def __init__(self, target: str) -> None:
        self.called = set()
        super().__init__(target)


def refused(code: str, text: str, call: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """Check that `call` fails with this code of gRPC and with `text` in its message."""
    with pytest.raises(InferenceServerException) as caught:
        call(*arguments, **options)
    check_error(caught.value, code, text)


def check_error(error: InferenceServerException, code: str, text: str) -> None:
    """Check the code and the message of an error."""
    assert error.status() == f"StatusCode.{code}", error
    assert text in error.message()


def models(client: Client) -> list[str]:
    """Return the names of the server's models."""
    return [entry.name for entry in client.get_model_repository_index().models]


def arrays(metadata: Any, n: int = 2) -> dict[str, NDArray[Any]]:
    """Return seeded inputs of `n` rows for the model with this metadata."""
    random, made = np.random.default_rng(0), {}
    for tensor in metadata.inputs:
        shape = [n, *(SIDE if axis == -1 else axis for axis in list(tensor.shape)[1:])]
        if tensor.datatype == "FP32":
            made[tensor.name] = random.standard_normal(shape, dtype=np.float32)
        else:
            values = random.integers(0, 2 if tensor.datatype == "INT64" else 256, shape)
            made[tensor.name] = values.astype(triton_to_np_dtype(tensor.datatype))
    return made


def inputs_of(metadata: Any, n: int = 2) -> list[InferInput]:
    """Return `arrays` as the client's inputs."""
    datatypes = {tensor.name: tensor.datatype for tensor in metadata.inputs}
    return [
        InferInput(name, list(array.shape), datatypes[name]).set_data_from_numpy(array)
        for name, array in arrays(metadata, n).items()
    ]


def tensors(client: Client, model: str, n: int = 2) -> list[InferInput]:
    """Return inputs of `n` rows for the model."""
    return inputs_of(client.get_model_metadata(model), n)


def check_server(client: Client) -> None:
    """Liveness, readiness and metadata of the server."""
    assert client.is_server_live()
    assert client.is_server_ready()
    metadata = client.get_server_metadata(headers={"x-request-id": "a"})
    assert {"binary_tensor_data", "model_configuration", "statistics"} <= set(metadata.extensions)
    assert client.get_server_metadata(as_json=True)["name"] == metadata.name


def check_models(client: Client) -> None:
    """Readiness, metadata, configuration and versions of every model."""
    for entry in client.get_model_repository_index().models:
        name, version = entry.name, entry.version
        assert entry.state == "READY", entry
        assert client.is_model_ready(name)
        assert client.is_model_ready(name, version)
        assert not client.is_model_ready(name, "999")
        metadata = client.get_model_metadata(name)
        assert (metadata.name, list(metadata.versions)) == (name, [version])
        assert client.get_model_metadata(name, version) == metadata
        config = client.get_model_config(name).config
        assert client.get_model_config(name, version).config == config
        assert config.name == name
        for declared_side, side in ((config.input, metadata.inputs), (config.output, metadata.outputs)):
            for declared, tensor in zip(declared_side, side, strict=True):
                dims = list(tensor.shape)[1 if config.max_batch_size else 0 :]
                kind = type(declared).DESCRIPTOR.fields_by_name["data_type"].enum_type
                name_of_kind = kind.values_by_number[declared.data_type].name
                assert (declared.name, name_of_kind, list(declared.dims)) == (
                    tensor.name,
                    f"TYPE_{tensor.datatype}",
                    dims,
                )
        refused("NOT_FOUND", "version 999", client.get_model_metadata, name, "999")
        refused("NOT_FOUND", "version 999", client.get_model_config, name, "999")
    assert not client.is_model_ready("nothing")
    refused("NOT_FOUND", "no model nothing", client.get_model_metadata, "nothing")
    refused("NOT_FOUND", "no model nothing", client.get_model_config, "nothing")


def check_repository(client: Client) -> None:
    """The repository index; loading and unloading are refused."""
    name = models(client)[0]
    again = "start the server again"
    refused("UNIMPLEMENTED", again, client.load_model, name)
    refused("UNIMPLEMENTED", again, client.load_model, name, config="{}", files={"file:1/model.onnx": b"a"})
    refused("UNIMPLEMENTED", again, client.unload_model, name)
    refused("UNIMPLEMENTED", again, client.unload_model, name, unload_dependents=True)
    refused("NOT_FOUND", "nothing", client.load_model, "nothing")
    refused("NOT_FOUND", "nothing", client.unload_model, "nothing")


def check_settings(client: Client) -> None:
    """Trace and log settings are answered, and changes refused."""
    for model in (None, *models(client)):
        trace = client.get_trace_settings(model)
        assert list(trace.settings["trace_level"].value) == ["OFF"]
        unchanged = {"trace_level": ["OFF"], "trace_rate": None, "trace_count": "0"}
        assert client.update_trace_settings(model, settings=unchanged) == trace
        changed = {"trace_level": ["TIMESTAMPS"]}
        refused("UNIMPLEMENTED", "trace_level is ['OFF']", client.update_trace_settings, model, changed)
        refused("INVALID_ARGUMENT", "no setting 'colour'", client.update_trace_settings, model, {"colour": "1"})
    log = client.get_log_settings(as_json=True)["settings"]
    assert log["log_error"] == {"bool_param": True}
    values = {key: next(iter(value.values())) for key, value in log.items()}
    assert client.update_log_settings(values, as_json=True)["settings"] == log
    assert client.update_log_settings({"log_format": None}, as_json=True)["settings"] == log
    refused("UNIMPLEMENTED", "log_error is True", client.update_log_settings, {"log_error": False})
    refused("NOT_FOUND", "nothing", client.get_trace_settings, "nothing")


def check_shared_memory(client: Client) -> None:
    """No shared memory is registered, and none can be."""
    assert not client.get_system_shared_memory_status().regions
    assert not client.get_cuda_shared_memory_status().regions
    refused("NOT_FOUND", "no region 'a'", client.get_system_shared_memory_status, "a")
    refused("NOT_FOUND", "no region 'a'", client.get_cuda_shared_memory_status, "a")
    refused("UNIMPLEMENTED", "no shared memory", client.register_system_shared_memory, "a", "/a", 64)
    refused("UNIMPLEMENTED", "no shared memory", client.register_cuda_shared_memory, "a", b"aGFuZGxl", 0, 64)
    client.unregister_system_shared_memory()
    client.unregister_system_shared_memory("a")
    client.unregister_cuda_shared_memory()
    client.unregister_cuda_shared_memory("a")
    for model in models(client):
        inputs, output = tensors(client, model), InferRequestedOutput("image")
        output.set_shared_memory("a", 64)
        refused("UNIMPLEMENTED", "no shared memory", client.infer, model, inputs, outputs=[output])
        inputs[0].set_shared_memory("a", 64)
        refused("UNIMPLEMENTED", "no shared memory", client.infer, model, inputs)


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


def _putter(answers: queue.Queue[tuple[Any, Any]]) -> Callable[[Any, Any], None]:
    """Return a callback of the client that puts what it gets into `answers`."""
    return lambda result, error: answers.put((result, error))


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


class _AddHeader(InferenceServerClientPlugin):  # type: ignore[misc]
    def __call__(self, request: Any) -> None:
        request.headers["x-request-id"] = "plugin"


def check_plugin(client: Client) -> None:
    """A plugin of the client adds a header."""
    client.register_plugin(_AddHeader())
    assert client.plugin() is not None
    assert client.is_server_live(headers={})
    client.unregister_plugin()


CHECKS: dict[str, Callable[[Client], None]] = {
    name.removeprefix("check_"): function
    for name, function in list(globals().items())
    if name.startswith("check_") and name != "check_error"
}


async def check_async_client(client: AsyncClient) -> None:
    """Every call of the asynchronous client."""

    async def fails(code: str, text: str, call: Coroutine[Any, Any, Any]) -> None:
        with pytest.raises(InferenceServerException) as caught:
            await call
        check_error(caught.value, code, text)

    assert await client.is_server_live()
    assert await client.is_server_ready()
    assert (await client.get_server_metadata()).name
    names = [entry.name for entry in (await client.get_model_repository_index()).models]
    inputs: dict[str, list[InferInput]] = {}
    for name in names:
        assert await client.is_model_ready(name)
        inputs[name] = inputs_of(await client.get_model_metadata(name))
        assert (await client.get_model_config(name)).config.name == name
        assert (await client.get_inference_statistics(name)).model_stats[0].name == name
        both = await asyncio.gather(*(client.infer(name, inputs[name], request_id=str(k)) for k in range(2)))
        assert [one.get_response().id for one in both] == ["0", "1"]

    async def requests() -> AsyncIterator[dict[str, Any]]:
        for name in (*names, "nothing"):
            yield {"model_name": name, "inputs": inputs.get(name, []), "request_id": name}

    answers = [answer async for answer in client.stream_infer(requests())]
    assert [result.get_response().id for result, _ in answers[:-1]] == names
    assert "no model nothing" in str(answers[-1][1])
    await fails("UNIMPLEMENTED", "start the server again", client.load_model(names[0]))
    await fails("UNIMPLEMENTED", "start the server again", client.unload_model(names[0]))
    trace = await client.get_trace_settings()
    assert await client.update_trace_settings(settings={"trace_rate": "0"}) == trace
    log = await client.get_log_settings()
    assert await client.update_log_settings({"log_error": True}) == log
    assert not (await client.get_system_shared_memory_status()).regions
    assert not (await client.get_cuda_shared_memory_status()).regions
    await fails("UNIMPLEMENTED", "no shared memory", client.register_system_shared_memory("a", "/a", 64))
    await fails("UNIMPLEMENTED", "no shared memory", client.register_cuda_shared_memory("a", b"aGFuZGxl", 0, 64))
    await client.unregister_system_shared_memory()
    await client.unregister_cuda_shared_memory()
    client.register_plugin(_AddHeader())
    assert client.plugin() is not None
    client.unregister_plugin()
    await client.close()


def run_all(target: str) -> None:
    """Run every check against the server at `target`, and check that they call everything that the clients have."""
    with Client(target) as client:
        for name, check in CHECKS.items():
            check(client)
            print(f"ok {name}")  # noqa: T201
        client.close()

    async def run_async() -> AsyncClient:
        client = AsyncClient(target)
        await check_async_client(client)
        return client

    clients = {InferenceServerClient: client, aio.InferenceServerClient: asyncio.run(run_async())}
    print("ok async_client")  # noqa: T201
    for stock, recording in clients.items():
        methods = {name for name, _ in inspect.getmembers(stock, callable) if not name.startswith("_")}
        assert methods <= recording.called, f"never called: {sorted(methods - recording.called)}"


if __name__ == "__main__":
    run_all(sys.argv[1])
