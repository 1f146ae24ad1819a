"""The requests that `zorse bench serve` prepares, and the command itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from serving.bench.requests import Work, prepare_requests, split_target
from serving.bench.sender import Target
from serving.cli import register_bench
from serving.errors import BenchError, ServerError
from serving.open_inference import HEADER_LENGTH, parse_infer
from tests.serving.timed_server import answer, timed_server
from zorse_common.image_writer import encode
from zorse_common.images import decode

TARGET = Target("127.0.0.1", 8000)
GENERATOR: dict[str, Any] = {
    "name": "digits",
    "kind": "generator",
    "versions": ["1"],
    "inputs": [
        {"name": "latent", "datatype": "FP32", "shape": [-1, 6]},
        {"name": "label", "datatype": "INT64", "shape": [-1]},
    ],
    "outputs": [],
}
TRANSLATOR: dict[str, Any] = {
    "name": "invert",
    "kind": "translator",
    "versions": ["1"],
    "inputs": [{"name": "source", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}],
    "outputs": [],
}


def parse(request: bytes) -> tuple[str, dict[str, str], bytes]:
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert int(headers["Content-Length"]) == len(body)
    return first, headers, body


def prepare(
    metadata: dict[str, Any], api_key: str | None = None, **work: Any
) -> list[tuple[str, dict[str, str], bytes]]:
    return [parse(raw) for raw in prepare_requests(TARGET, metadata["name"], metadata, Work(**work), api_key)]


def test_infer_requests_have_random_tensors_of_the_models_inputs() -> None:
    requests = prepare(GENERATOR, batch=3)
    assert len({body for _, _, body in requests}) == len(requests) > 1
    first, headers, body = requests[0]
    assert first == "POST /v2/models/digits/infer HTTP/1.1"
    _, inputs = parse_infer(body, int(headers[HEADER_LENGTH]))
    assert inputs["latent"].shape == (3, 6)
    assert inputs["label"].tolist() == [0, 0, 0]


def test_infer_requests_take_sizes_in_turn() -> None:
    requests = prepare(TRANSLATOR, sizes=[(8, 16), (24, 8)])
    shapes = [parse_infer(body, int(headers[HEADER_LENGTH]))[1]["source"].shape for _, headers, body in requests]
    assert shapes[:3] == [(1, 8, 16, 3), (1, 24, 8, 3), (1, 8, 16, 3)]


def test_infer_requests_send_image_files(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    path = tmp_path / "a.png"
    path.write_bytes(encode(pixels, "png"))
    ((_, headers, body),) = prepare(TRANSLATOR, images=[path], batch=2)
    np.testing.assert_array_equal(parse_infer(body, int(headers[HEADER_LENGTH]))[1]["source"], np.stack([pixels] * 2))


def test_image_verb_has_its_keys_in_the_query_and_images_in_the_body() -> None:
    requests = prepare(TRANSLATOR, verb="translate", keys={"format": ["jpeg"]}, sizes=[(9, 17)])
    first, _, body = requests[0]
    assert first == "POST /v2/models/invert/translate?format=jpeg HTTP/1.1"
    assert decode(body).shape == (9, 17, 3)


def test_generator_verb_takes_every_value_of_its_keys_in_turn() -> None:
    requests = prepare(GENERATOR, "key", verb="generate", keys={"n": ["2"], "seed": ["0", "1"]})
    assert [json.loads(body) for _, _, body in requests] == [{"n": "2", "seed": "0"}, {"n": "2", "seed": "1"}]
    assert requests[0][1]["X-API-Key"] == "key"


@pytest.mark.parametrize(
    ("metadata", "work", "message"),
    [
        (GENERATOR, {"images": [Path("a.png")]}, "digits takes no images"),
        (TRANSLATOR, {"images": [Path("missing.png")]}, r"missing\.png cannot be read"),
        (GENERATOR | {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1]}]}, {}, "x is BYTES"),
        (GENERATOR | {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1] * 5}]}, {}, "not one that a load"),
    ],
)
def test_work_that_does_not_fit_the_model_is_refused(metadata: dict[str, Any], work: Any, message: str) -> None:
    with pytest.raises(BenchError, match=message):
        prepare(metadata, **work)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "http://host:99999", "http://host/path", "http://"])
def test_target_that_is_no_servers_url_is_refused(url: str) -> None:
    with pytest.raises(BenchError, match="give http://HOST:PORT"):
        split_target(url)


def test_target_has_the_schemes_port() -> None:
    assert split_target("https://host") == Target("host", 443, True)
    assert split_target("http://[::1]:80/") == Target("::1", 80)


def invoke(*words: str) -> Result:
    app, group = typer.Typer(), typer.Typer()
    register_bench(group)
    app.add_typer(group, name="bench")
    return CliRunner().invoke(app, ["bench", "serve", *words])


def run(status: str, *arguments: object) -> tuple[str, BaseException | None, list[tuple[str, bytes]]]:
    """Run the command against a server of one model that answers each of its requests with `status`."""

    async def respond(number: int, body: bytes) -> bytes:
        raw = answer("200 OK", json.dumps(GENERATOR).encode(), "Content-Type: application/json")
        return answer(status, b"why") if body else raw

    with timed_server(respond) as server:
        result = invoke(f"http://127.0.0.1:{server.port}", "digits", *map(str, arguments))
        return result.output, result.exception, server.requests


def test_bench_command_prints_a_table_and_writes_json(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    options = ("seed=3..5", "--verb", "generate", "--concurrency", 2, "--requests", 12, "--warm-up", 0, "--json", path)
    output, error, requests = run("200 OK", *options)
    assert error is None
    assert "successes/s" in output
    figures = json.loads(path.read_text())
    assert figures["loop"] == "closed"
    assert figures["statuses"]["200"] >= 12
    assert figures["latency_ms"]["p50"] <= figures["latency_ms"]["p99.9"]
    assert {body for _, body in requests[1:]} == {json.dumps({"seed": str(seed)}).encode() for seed in (3, 4, 5)}


def test_bench_command_of_a_foreign_server_is_one_line() -> None:
    async def respond(number: int, body: bytes) -> bytes:
        return answer("200 OK", b'{"name": "x", "inputs": [{}]}', "Content-Type: application/json")

    with timed_server(respond) as server:
        result = invoke(f"http://127.0.0.1:{server.port}", "x")
    assert isinstance(result.exception, ServerError)
    assert "answers /v2/models/x as no zorse server does" in str(result.exception)


def test_bench_command_fails_with_the_servers_answer_if_nothing_succeeds() -> None:
    _, error, _ = run("404 Not Found", "--requests", 3, "--warm-up", 0)
    assert isinstance(error, BenchError)
    assert str(error) == "no request succeeded: 404: why"


@pytest.mark.parametrize(
    "arguments", [("n",), ("n=1", "n=2"), ("seed=5..4",), ("seed=0..99999",), ("--size", "8"), ("--size", "0x8")]
)
def test_bench_command_refuses_bad_arguments(arguments: tuple[str, ...]) -> None:
    _, error, requests = run("200 OK", *arguments)
    assert isinstance(error, SystemExit)
    assert error.code == 2
    assert not requests
