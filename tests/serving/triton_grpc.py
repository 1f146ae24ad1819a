"""Everything that stock `tritonclient.grpc` can call, against any server: `python -m tests.serving.triton_grpc TARGET`.

Each check is a function of the client. The models are those of the server's repository index, and their inputs are made
from their metadata. At the end every public method of the client was called, and of the asynchronous client too.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Callable

from tritonclient.grpc import (
    InferenceServerClient,
    InferRequestedOutput,
    aio,
)

from tests.serving.triton_grpc_aio import check_async_client
from tests.serving.triton_grpc_client import (
    AddHeader,
    AsyncClient,
    Client,
    models,
    refused,
    tensors,
)
from tests.serving.triton_grpc_inference import (
    check_inference,
    check_refused_inference,
    check_statistics,
    check_stream,
    check_typed_contents,
)


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
    """The repository index, and loading. Other files than those of the repository are refused."""
    index = client.get_model_repository_index()
    name = index.models[0].name
    client.load_model(name)
    assert client.get_model_repository_index() == index
    files = {"file:1/model.onnx": b"a"}
    refused("UNIMPLEMENTED", "the parameter ", client.load_model, name, config="{}", files=files)
    refused("NOT_FOUND", "nothing", client.load_model, "nothing")
    refused("NOT_FOUND", "nothing", client.unload_model, "nothing")
    refused("NOT_FOUND", "nothing", client.unload_model, "nothing", unload_dependents=True)


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


def check_plugin(client: Client) -> None:
    """A plugin of the client adds a header."""
    client.register_plugin(AddHeader())
    assert client.plugin() is not None
    assert client.is_server_live(headers={})
    client.unregister_plugin()


CHECKS: tuple[Callable[[Client], None], ...] = (
    check_server,
    check_models,
    check_repository,
    check_settings,
    check_shared_memory,
    check_inference,
    check_typed_contents,
    check_stream,
    check_refused_inference,
    check_statistics,
    check_plugin,
)


def run_all(target: str) -> None:
    """Run every check against the server at `target`, and check that they call everything that the clients have."""
    with Client(target) as client:
        for check in CHECKS:
            check(client)
            print(f"ok {check.__name__.removeprefix('check_')}")  # noqa: T201
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
