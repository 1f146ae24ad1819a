"""Triton's extensions of the protocol: configuration, repository index, settings, timeouts and compressed answers."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import numpy as np
import pytest

from export.triton import model_config, triton_config
from serving.batching import Tensors
from serving.open_inference import HEADER_LENGTH, pack, unpack_outputs
from tests.serving.apps import server
from tests.serving.fakes import FakeEngine
from tests.serving.tiny import conditional_manifest, generator_manifest, inverter_manifest

SOURCE = np.random.default_rng(0).integers(14, 256, (1, 40, 30, 3), dtype=np.uint8)
BINARY = {"parameters": {"binary_data_output": True}}


@pytest.mark.parametrize("manifest", [generator_manifest(), inverter_manifest(), conditional_manifest()])
@pytest.mark.parametrize("version", ["", "/versions/1"])
def test_configuration_is_that_of_the_manifest(manifest: Any, version: str) -> None:
    answer = server(manifests=[manifest]).get(f"/v2/models/{manifest.name}{version}/config")
    assert (answer.status_code, answer.json()) == (200, model_config(manifest))


def test_configuration_as_text_has_the_same_keys_and_values() -> None:
    config, text = model_config(conditional_manifest()), triton_config(conditional_manifest())
    lines = dict(line.split(maxsplit=1) for line in text.replace(":", " ").splitlines())
    assert lines.keys() == config.keys()
    assert lines["max_batch_size"] == str(config["max_batch_size"])
    assert [text.count(f'"{tensor["name"]}"') for side in ("input", "output") for tensor in config[side]] == [1, 1, 1]


def test_index_states_which_models_are_ready() -> None:
    client = server(not_ready=("digits",))
    everything = client.post("/v2/repository/index").json()
    assert [(entry["name"], entry["state"]) for entry in everything] == [("digits", "UNAVAILABLE"), ("invert", "READY")]
    assert client.post("/v2/repository/index", json={"ready": True}).json() == everything[1:]
    assert client.post("/v2/repository/index", json={"ready": False}).json() == everything


@pytest.mark.parametrize("access_log", [True, False])
def test_log_settings_state_whether_requests_are_logged(access_log: bool) -> None:
    client = server(access_log=access_log)
    assert client.get("/v2/logging").json()["log_info"] is access_log
    assert client.post("/v2/logging", json={"log_info": access_log}).status_code == 200
    assert client.post("/v2/logging", json={"log_info": not access_log}).json()["code"] == "unsupported"


@pytest.mark.parametrize(
    ("microseconds", "header", "expected"),
    [
        (None, None, None),
        (0, None, None),
        (4_000_000, None, 4),
        (4_000_000, "30", 4),
        (40_000_000, "3", 3),
        (0, "3", 3),
    ],
)
def test_timeout_and_header_set_the_deadline(
    microseconds: int | None, header: str | None, expected: float | None
) -> None:
    remaining: list[float | None] = []

    async def submit(tensors: Tensors, deadline: float | None = None) -> Tensors:
        remaining.append(None if deadline is None else deadline - asyncio.get_running_loop().time())
        return FakeEngine().run(tensors)

    parameters = {} if microseconds is None else {"timeout": microseconds}
    content, headers = pack("inputs", {"source": SOURCE}, {"source": True}, {"parameters": parameters})
    headers |= {} if header is None else {"x-request-timeout": header}
    answer = server(submit=submit).post("/v2/models/invert/infer", content=content, headers=headers)
    assert answer.status_code == 200
    assert remaining == [expected if expected is None else pytest.approx(expected, abs=1)]


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [("gzip", "gzip"), ("deflate", "deflate"), ("gzip, deflate, br", None), ("identity", None)],
)
@pytest.mark.parametrize("extra", [{}, BINARY])
def test_answer_is_compressed_where_one_encoding_is_named(
    accepted: str, encoding: str | None, extra: dict[str, Any]
) -> None:
    content, headers = pack("inputs", {"source": SOURCE}, {"source": True}, extra)
    headers["accept-encoding"] = accepted
    answer = server().post("/v2/models/invert/infer", content=content, headers=headers)
    assert answer.headers.get("content-encoding") == encoding
    assert ("vary" in answer.headers) == (encoding is not None)
    # httpx has decompressed the content.
    outputs = unpack_outputs(answer.content, answer.headers.get(HEADER_LENGTH))
    np.testing.assert_array_equal(outputs["image"], 255 - SOURCE)


def test_compressed_request_may_have_binary_tensors() -> None:
    content, headers = pack("inputs", {"source": SOURCE}, {"source": True}, {"id": "a"})
    headers |= {"content-encoding": "gzip"}
    answer = server().post("/v2/models/invert/infer", content=gzip.compress(content), headers=headers)
    assert json.loads(answer.content)["id"] == "a"


def test_every_documented_route_answers_head_and_options_as_http_wants() -> None:
    client = server(api_key="secret")
    client.headers["x-api-key"] = "secret"
    for document in ("", "/v2/models/digits", "/v2/models/invert"):
        paths = client.get(f"{document}/openapi.json").json()["paths"]
        assert paths
        for path, operations in paths.items():
            place = path.replace("{name}", "digits").replace("{region}", "a")
            methods = {method.upper() for method in operations}
            expected = methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set())
            options, head = client.options(place), client.head(place)
            assert (options.status_code, options.content) == (204, b""), path
            assert set(options.headers["allow"].split(", ")) == expected, path
            assert head.content == b""
            assert head.status_code == (client.get(place).status_code if "GET" in methods else 405), path
            assert client.request("PATCH", place).headers["allow"] == options.headers["allow"], path
            names = [name for answer in (options, head) for name in answer.headers]
            assert not [name for name in names if name.startswith("access-control")]
