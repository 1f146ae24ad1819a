"""The check of `triton_grpc` of the asynchronous client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest
from tritonclient.grpc import (
    InferenceServerException,
    InferInput,
)

from tests.serving.triton_grpc_client import (
    AddHeader,
    AsyncClient,
    check_error,
    inputs_of,
)


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
    await client.load_model(names[0])
    await fails("NOT_FOUND", "nothing", client.unload_model("nothing"))
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
    client.register_plugin(AddHeader())
    assert client.plugin() is not None
    client.unregister_plugin()
    await client.close()
