"""Everything that stock `tritonclient.http` can call, against any server: `python -m tests.serving.triton_http URL`.

Each check is a function of the client. The models are those of the server's repository index, and their inputs are made
from their metadata. At the end every public method of the client was called.
"""

from __future__ import annotations

import inspect
import sys
import urllib.request
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient.http import (
    InferenceServerClient,
    InferenceServerClientPlugin,
    InferenceServerException,
    InferInput,
    InferRequestedOutput,
    InferResult,
)
from tritonclient.utils import triton_to_np_dtype

SIDE = 32
"""The height and width of the images that are sent."""


class RecordingClient(InferenceServerClient):  # type: ignore[misc]
    """The stock client, which keeps the names of the methods that were called.

    `loads` is whether the server loads and unloads models.
    """

    def __init__(self, url: str, *, loads: bool = True) -> None:
        self.loads = loads
        self.called: set[str] = set()
        super().__init__(url.removeprefix("http://").rstrip("/"))
        self.base_url = url.rstrip("/")

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_") and name not in ("called", "loads"):
            self.called.add(name)
        return super().__getattribute__(name)


def refused(status: int, text: str, call: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """Check that `call` fails with this status and with `text` in its message."""
    with pytest.raises(InferenceServerException) as caught:
        call(*arguments, **options)
    assert caught.value.status() == str(status), caught.value
    assert text in caught.value.message()


def models(client: RecordingClient) -> list[str]:
    """Return the names of the server's models."""
    return [entry["name"] for entry in client.get_model_repository_index()]


def arrays(client: RecordingClient, model: str, n: int = 2) -> dict[str, NDArray[Any]]:
    """Return seeded inputs of `n` rows for the model."""
    random, made = np.random.default_rng(0), {}
    for tensor in client.get_model_metadata(model)["inputs"]:
        shape = [n, *(SIDE if axis == -1 else axis for axis in tensor["shape"][1:])]
        dtype = triton_to_np_dtype(tensor["datatype"])
        if tensor["datatype"] == "FP32":
            made[tensor["name"]] = random.standard_normal(shape, dtype=np.float32)
        else:
            made[tensor["name"]] = random.integers(0, 2 if tensor["datatype"] == "INT64" else 256, shape).astype(dtype)
    return made


def tensors(client: RecordingClient, model: str, n: int = 2, binary: bool = True) -> list[InferInput]:
    """Return `arrays` as the client's inputs."""
    names = {"uint8": "UINT8", "uint16": "UINT16", "float32": "FP32", "int64": "INT64"}
    return [
        InferInput(name, list(array.shape), names[array.dtype.name]).set_data_from_numpy(array, binary_data=binary)
        for name, array in arrays(client, model, n).items()
    ]


def check_server(client: RecordingClient) -> None:
    """Liveness, readiness and metadata of the server."""
    assert client.is_server_live()
    assert client.is_server_ready()
    metadata = client.get_server_metadata(headers={"X-Request-Id": "a"}, query_params={"a": ["b", "c"]})
    assert metadata.keys() >= {"name", "version", "extensions"}
    assert {"binary_tensor_data", "model_configuration", "model_repository", "statistics"} <= set(
        metadata["extensions"]
    )


def check_models(client: RecordingClient) -> None:
    """Readiness, metadata, configuration and versions of every model."""
    for entry in client.get_model_repository_index():
        name, version = entry["name"], entry["version"]
        assert entry["state"] == "READY", entry
        assert client.is_model_ready(name)
        assert client.is_model_ready(name, version)
        assert not client.is_model_ready(name, "999")
        metadata = client.get_model_metadata(name)
        assert (metadata["name"], metadata["versions"]) == (name, [version])
        assert client.get_model_metadata(name, version) == metadata
        config = client.get_model_config(name)
        assert client.get_model_config(name, version) == config
        assert config["name"] == name
        for side, tensors_of_side in (("input", metadata["inputs"]), ("output", metadata["outputs"])):
            for declared, tensor in zip(config[side], tensors_of_side, strict=True):
                dims = tensor["shape"][1:] if config["max_batch_size"] else tensor["shape"]
                assert declared == {"name": tensor["name"], "data_type": f"TYPE_{tensor['datatype']}", "dims": dims}
        refused(404, "999", client.get_model_metadata, name, "999")
        refused(404, "999", client.get_model_config, name, "999")
    assert not client.is_model_ready("nothing")
    refused(404, "nothing", client.get_model_metadata, "nothing")
    refused(404, "nothing", client.get_model_config, "nothing")


def check_repository(client: RecordingClient) -> None:
    """The repository index, loading and unloading. Other files than those of the repository are refused."""
    index = client.get_model_repository_index()
    assert all(entry.keys() == {"name", "version", "state", "reason"} for entry in index)
    name = index[0]["name"]
    if not client.loads:
        refused(400, "no process of this server loads models", client.load_model, name)
        refused(400, "no process of this server loads models", client.unload_model, name)
        return
    client.load_model(name)
    assert client.get_model_repository_index() == index
    refused(400, "the parameter config", client.load_model, name, config="{}")
    refused(400, "the parameter config", client.load_model, name, config="{}", files={"file:1/model.onnx": b"a"})
    refused(404, "nothing", client.load_model, "nothing")
    refused(404, "nothing", client.unload_model, "nothing")
    client.unload_model(name, unload_dependents=True)
    client.unload_model(name)
    unloaded = {**index[0], "state": "UNAVAILABLE", "reason": "unloaded"}
    assert client.get_model_repository_index() == [*index[1:], unloaded]
    client.load_model(name)
    assert client.get_model_repository_index() == index


def check_settings(client: RecordingClient) -> None:
    """Trace and log settings are answered, and changes refused."""
    for model in (None, *models(client)):
        trace = client.get_trace_settings(model)
        assert trace["trace_level"] == ["OFF"]
        assert client.update_trace_settings(model, settings={"trace_level": ["OFF"], "trace_rate": None}) == trace
        refused(400, "trace_level is ['OFF']", client.update_trace_settings, model, {"trace_level": ["TIMESTAMPS"]})
        refused(400, "there is no setting 'colour'", client.update_trace_settings, model, {"colour": 1})
    log = client.get_log_settings()
    assert log["log_error"] is True
    assert client.update_log_settings(log) == log
    refused(400, "log_error is True", client.update_log_settings, {"log_error": False})
    refused(404, "nothing", client.get_trace_settings, "nothing")


def check_shared_memory(client: RecordingClient) -> None:
    """No shared memory is registered, and none can be."""
    assert client.get_system_shared_memory_status() == []
    assert client.get_cuda_shared_memory_status() == []
    refused(404, "no region 'a'", client.get_system_shared_memory_status, "a")
    refused(404, "no region 'a'", client.get_cuda_shared_memory_status, "a")
    refused(400, "no shared memory", client.register_system_shared_memory, "a", "/a", 64)
    refused(400, "no shared memory", client.register_cuda_shared_memory, "a", b"aGFuZGxl", 0, 64)
    client.unregister_system_shared_memory()
    client.unregister_system_shared_memory("a")
    client.unregister_cuda_shared_memory()
    client.unregister_cuda_shared_memory("a")
    for model in models(client):
        inputs, output = tensors(client, model), InferRequestedOutput("image")
        output.set_shared_memory("a", 64)
        refused(400, "no shared memory", client.infer, model, inputs, outputs=[output])
        inputs[0].set_shared_memory("a", 64)
        refused(400, "no shared memory", client.infer, model, inputs)


def check_inference(client: RecordingClient) -> None:
    """Inference with binary and JSON tensors, ids, versions, compression, timeouts, priorities and own parameters."""
    for entry in client.get_model_repository_index():
        model, version = entry["name"], entry["version"]
        inputs, plain = tensors(client, model), tensors(client, model, binary=False)
        result = client.infer(model, inputs, request_id="first")
        expected = result.as_numpy("image")
        answer = result.get_response()
        assert (answer["model_name"], answer["model_version"], answer["id"]) == (model, version, "first")
        assert result.get_output("image")["shape"] == list(expected.shape)
        assert result.as_numpy("nothing") is None
        encodings: list[str | None] = [None, "gzip", "deflate"]
        binary, numbers = (InferRequestedOutput("image", binary_data=flag) for flag in (True, False))
        variants: list[dict[str, Any]] = [
            {"inputs": plain},
            {"outputs": [binary]},
            {"outputs": [numbers]},
            {"inputs": plain, "outputs": [numbers]},
            {"model_version": version},
            {"timeout": 10_000_000},
            {"priority": 3},
            {"parameters": {"own": 1}},
            {"headers": {"X-Request-Timeout": "10"}, "query_params": {"a": 1}},
            *(
                {"request_compression_algorithm": one, "response_compression_algorithm": two, "outputs": [kind]}
                for one in encodings
                for two in encodings
                for kind in (binary, numbers)
            ),
        ]
        for options in variants:
            got = client.infer(model, **{"inputs": inputs, **options})
            np.testing.assert_array_equal(got.as_numpy("image"), expected, err_msg=str(options))
            assert ("data" in got.get_output("image")) == (options.get("outputs") == [numbers]), options
        pending = [client.async_infer(model, inputs, request_id=str(k)) for k in range(5)]
        for k, request in enumerate(pending):
            outcome = request.get_result()
            assert outcome.get_response()["id"] == str(k)
            np.testing.assert_array_equal(outcome.as_numpy("image"), expected)
        _check_raw_bodies(client, model, inputs, expected)


def _check_raw_bodies(client: RecordingClient, model: str, inputs: list[InferInput], expected: NDArray[Any]) -> None:
    """Check the client's functions that make the body of a request and read the body of an answer."""
    body, length = client.generate_request_body(inputs, request_id="raw")
    headers = {"Inference-Header-Content-Length": str(length), "Content-Type": "application/octet-stream"}
    request = urllib.request.Request(f"{client.base_url}/v2/models/{model}/infer", body, headers)
    with urllib.request.urlopen(request) as answer:
        length, content = answer.headers["Inference-Header-Content-Length"], answer.read()
    result: InferResult = client.parse_response_body(content, header_length=int(length))
    np.testing.assert_array_equal(result.as_numpy("image"), expected)


def check_refused_inference(client: RecordingClient) -> None:
    """Sequences, classes, unknown outputs, versions, models and datatypes are refused."""
    for model in models(client):
        inputs = tensors(client, model)
        for sequence in (7, "seven"):
            refused(400, "keeps no state", client.infer, model, inputs, sequence_id=sequence, sequence_start=True)
        classes = InferRequestedOutput("image", class_count=3)
        refused(400, "classification", client.infer, model, inputs, outputs=[classes])
        refused(400, "no output 'mask'", client.infer, model, inputs, outputs=[InferRequestedOutput("mask")])
        refused(404, "version 999", client.infer, model, inputs, model_version="999")
        refused(400, "timeout is '-1'", client.infer, model, inputs, timeout=-1)
        first = inputs[0].name()
        for datatype, array in {
            "BYTES": np.array([[b"a"]], dtype=np.object_),
            "FP16": np.zeros((1, 1), np.float16),
            "FP64": np.zeros((1, 1)),
            "BOOL": np.zeros((1, 1), np.bool_),
            "INT8": np.zeros((1, 1), np.int8),
        }.items():
            wrong = InferInput(first, [1, 1], datatype).set_data_from_numpy(array)
            refused(400, "inputs.0.datatype", client.infer, model, [wrong])
        unknown = InferInput("z", [1], "FP32").set_data_from_numpy(np.zeros(1, np.float32))
        refused(400, "takes the inputs", client.infer, model, [unknown])
    refused(404, "nothing", client.infer, "nothing", [])


def check_statistics(client: RecordingClient) -> None:
    """The statistics of all models, of a model and of a version count requests, images and runs."""
    index = client.get_model_repository_index()
    everything = client.get_inference_statistics()["model_stats"]
    assert [entry["name"] for entry in everything] == [entry["name"] for entry in index]
    for entry in index:
        model, version = entry["name"], entry["version"]
        before = client.get_inference_statistics(model)["model_stats"][0]
        for n in (1, 3):
            client.infer(model, tensors(client, model, n))
        refused(400, "keeps no state", client.infer, model, tensors(client, model), sequence_id=1)
        after = client.get_inference_statistics(model, version)["model_stats"][0]
        assert (after["name"], after["version"]) == (model, version)
        assert after["inference_count"] == before["inference_count"] + 4
        assert before["execution_count"] < after["execution_count"] <= before["execution_count"] + 2
        assert after["last_inference"] > before["last_inference"]
        first, last = before["inference_stats"], after["inference_stats"]
        assert last["success"]["count"] == first["success"]["count"] + 2
        assert last["fail"]["count"] == first["fail"]["count"] + 1
        assert last["compute_infer"]["ns"] > first["compute_infer"]["ns"]
        assert sum(batch["compute_infer"]["count"] for batch in after["batch_stats"]) == after["execution_count"]
        refused(404, "999", client.get_inference_statistics, model, "999")
    refused(404, "nothing", client.get_inference_statistics, "nothing")


class _AddHeader(InferenceServerClientPlugin):  # type: ignore[misc]
    def __call__(self, request: Any) -> None:
        request.headers = {**(request.headers or {}), "X-Request-Id": "plugin"}


def check_plugin(client: RecordingClient) -> None:
    """A plugin of the client adds a header."""
    client.register_plugin(_AddHeader())
    assert client.plugin() is not None
    assert client.is_server_live()
    client.unregister_plugin()


CHECKS: dict[str, Callable[[RecordingClient], None]] = {
    name.removeprefix("check_"): function for name, function in list(globals().items()) if name.startswith("check_")
}


def run_all(url: str, *, loads: bool = True) -> None:
    """Run every check against the server at `url`, and check that they call everything that the client has.

    `loads` is whether the server loads and unloads models.
    """
    client = RecordingClient(url, loads=loads)
    with client:
        for name, check in CHECKS.items():
            check(client)
            print(f"ok {name}")  # noqa: T201
    methods = {name for name, _ in inspect.getmembers(InferenceServerClient, callable) if not name.startswith("_")}
    assert methods <= client.called, f"never called: {sorted(methods - client.called)}"


if __name__ == "__main__":
    run_all(sys.argv[1])
