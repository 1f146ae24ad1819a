"""Stock `tritonclient.http` against the server: every call of the client, with three models."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest
from tritonclient.http import aio

from serving.config import AccessSettings
from tests.serving import triton_http
from tests.serving.live import live_server
from tests.serving.tiny import conditional_manifest, generator_manifest, inverter_manifest


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    manifests = [generator_manifest(), inverter_manifest(), conditional_manifest()]
    local = AccessSettings(is_local=True)
    with live_server(manifests=manifests, folder=tmp_path_factory.mktemp("server"), access=local) as url:
        yield url


def test_every_call_of_the_client_is_answered(url: str) -> None:
    triton_http.run_all(url)


def test_asynchronous_client_reads_the_answers(url: str) -> None:
    async def check() -> None:
        async with aio.InferenceServerClient(url.removeprefix("http://")) as client:
            assert await client.is_server_live()
            assert {entry["name"] for entry in await client.get_model_repository_index()} == {
                "digits",
                "invert",
                "classes",
            }
            assert (await client.get_model_config("digits"))["name"] == "digits"
            source = np.full((1, 20, 20, 3), 200, np.uint8)
            tensor = aio.InferInput("source", [1, 20, 20, 3], "UINT8").set_data_from_numpy(source)
            for encoding in (None, "gzip", "deflate"):
                result = await client.infer("invert", [tensor], response_compression_algorithm=encoding)
                np.testing.assert_array_equal(result.as_numpy("image"), 255 - source)

    asyncio.run(check())
