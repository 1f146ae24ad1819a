"""The routes except `infer`: health, metadata, generate, translate, and failures."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serving import codec, endpoints
from serving.batching import Tensors
from serving.config import Limits, ModelSummary
from serving.errors import OverloadedError
from serving.served import Served
from serving.verb import VERBS
from tests.serving.apps import server

RNG = np.random.default_rng(0)
SOURCE = RNG.integers(14, 256, (2, 18, 21, 3), dtype=np.uint8)
PHOTO = codec.encode(SOURCE[0], "png")
ZEBRA = """
from fastapi import APIRouter

server_router = APIRouter()
server_router.get("/v2/models/{name}/stripes")(lambda name: ["black", "white"])
"""
"""The file of an endpoint."""
GENERATE_KEYS = "format, layout, n, seed, first, latents, truncation, labels"


def read(data: bytes) -> np.ndarray:
    return codec.decode(data, 3, Limits())


# Health and metadata


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True, "waiting": []}),
        ("/v2/models/digits/ready", {"name": "digits", "ready": True}),
        (
            "/v2/models",
            [
                {"name": "digits", "version": 1, "kind": "generator"},
                {"name": "invert", "version": 1, "kind": "translator"},
            ],
        ),
        (
            "/v2/models/invert",
            {
                "name": "invert",
                "versions": ["1"],
                "platform": "onnxruntime_onnx",
                "kind": "translator",
                "inputs": [{"name": "source", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}],
                "outputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}],
            },
        ),
    ],
)
def test_get_routes_answer(path: str, answer: object) -> None:
    response = server().get(path)
    assert (response.status_code, response.json()) == (200, answer)


def test_server_metadata_names_the_binary_extension() -> None:
    body = server().get("/v2").json()
    assert body["name"] == "zorse"
    assert body["extensions"] == ["binary_tensor_data", "model_configuration", "model_repository", "statistics"]


def test_ready_is_503_with_the_names_of_waiting_models() -> None:
    response = server(not_ready=("digits",)).get("/v2/health/ready")
    assert (response.status_code, response.json()) == (503, {"ready": False, "waiting": ["digits"]})


@pytest.mark.parametrize("path", ["", "/infer", "/generate", "/versions/1/infer"])
def test_unknown_model_is_404_with_the_known_ones(path: str) -> None:
    response = server().post(f"/v2/models/nope{path}")
    error = "there is no model 'nope' on this server: it serves digits, invert"
    assert (response.status_code, response.json()) == (404, {"error": error, "code": "not_found"})


def test_endpoint_in_a_new_file_goes_before_the_routes_of_unknown_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "zebra.py").write_text(ZEBRA, encoding="utf-8")
    monkeypatch.setattr(endpoints, "__path__", [*endpoints.__path__, str(tmp_path)])
    response = server().get("/v2/models/nope/stripes")
    assert (response.status_code, response.json()) == (200, ["black", "white"])


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/v2/models/digits/nothing", 404, "not_found"),
        ("GET", "/v2/models/digits/generate", 405, "method_not_allowed"),
    ],
)
def test_wrong_routes_are_json_errors(method: str, path: str, status: int, code: str) -> None:
    response = server().request(method, path)
    assert response.status_code == status
    assert response.json()["code"] == code


def test_documentation_has_every_route() -> None:
    client = server()
    assert "(/v2/models/digits/docs)" in client.get("/openapi.json").json()["info"]["description"]
    document = client.get("/v2/models/invert/openapi.json").json()
    routes = {f"/{name}" for name in ("ready", "config", "trace/setting", "infer", *VERBS.names())} | {""}
    assert {f"/v2/models/invert{route}" for route in routes} <= set(document["paths"])
    translate = document["paths"]["/v2/models/invert/translate"]["post"]
    assert set(translate["requestBody"]["content"]) == {"multipart/form-data", "image/*", "application/json"}
    for path in ("/docs", "/v2/models/digits/docs"):
        assert "swagger" in client.get(path).text


# Generate


def test_generate_without_a_body_is_one_png() -> None:
    response = server().post("/v2/models/digits/generate")
    assert response.headers["content-type"] == "image/png"
    assert read(response.content).shape == (8, 8, 3)


def test_generate_a_grid_and_a_zip_of_the_same_images() -> None:
    client = server()
    grid = client.post("/v2/models/digits/generate", json={"n": 5, "seed": 7, "first": 2})
    bundle = client.post("/v2/models/digits/generate", json={"n": 5, "seed": 7, "first": 2, "layout": "zip"})
    assert bundle.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(bundle.content)) as files:
        assert files.namelist() == [f"7_{k:06d}.png" for k in range(2, 7)]
        images = np.stack([read(files.read(name)) for name in files.namelist()])
    np.testing.assert_array_equal(read(grid.content), codec.grid(images))
    third = client.post("/v2/models/digits/generate", json={"seed": 7, "first": 4})
    np.testing.assert_array_equal(read(third.content), images[2])


def test_generate_jpeg() -> None:
    response = server().post("/v2/models/digits/generate", json={"format": "jpeg"})
    assert response.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(response.content)).format == "JPEG"


def test_generate_takes_a_query_as_well_as_json() -> None:
    client = server()
    wanted = {"n": 5, "seed": 7, "first": 2, "format": "jpeg", "layout": "zip"}
    keys = ["format", "layout", "n", "seed", "first", "truncation", "labels"]
    by_json = client.post("/v2/models/digits/generate", json=wanted)
    by_query = client.post("/v2/models/digits/generate?n=5&seed=7&first=2&format=jpeg&layout=zip")
    assert by_query.headers["content-type"] == "application/zip"
    assert by_query.content == by_json.content
    one = client.post("/v2/models/digits/generate?n=1&seed=7")
    assert one.content == client.post("/v2/models/digits/generate", json={"n": 1, "seed": 7}).content
    assert one.content != client.post("/v2/models/digits/generate").content
    document = client.get("/v2/models/digits/openapi.json").json()
    parameters = document["paths"]["/v2/models/digits/generate"]["post"]["parameters"]
    assert [entry["name"] for entry in parameters] == keys


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("digits/generate?sede=7", "query: unknown key sede (did you mean seed?)"),
        (
            "digits/generate?q=7",
            f"query: unknown key q (known: {GENERATE_KEYS})",
        ),
        ("invert/translate?fromat=jpeg", "query: unknown key fromat (did you mean format?)"),
        ("digits/generate?n=many", "query.n: Input should be a valid integer, unable to parse string as an integer"),
        ("digits/generate?n=0", "query.n: Input should be greater than or equal to 1"),
    ],
)
def test_query_with_a_wrong_key_is_refused_with_the_nearest_one(path: str, error: str) -> None:
    response = server().post(f"/v2/models/{path}")
    assert (response.status_code, response.json()) == (422, {"error": error, "code": "bad_request"})


def test_query_beside_a_json_body_is_refused() -> None:
    response = server().post("/v2/models/digits/generate?seed=7", json={"n": 2})
    error = "the request has keys in its query and in its JSON body: leave one of them out"
    assert (response.status_code, response.json()) == (400, {"error": error, "code": "bad_request"})


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"n": 0}, 422, "bad_request"),
        ({"seed": -1}, 422, "bad_request"),
        ({"seed": "x"}, 422, "bad_request"),
        ({"format": "tiff"}, 422, "bad_request"),
        ({"count": 3}, 422, "bad_request"),
        ({"n": 257}, 413, "too_large"),
    ],
)
def test_generate_refuses_bad_requests(body: dict[str, Any], status: int, code: str) -> None:
    response = server().post("/v2/models/digits/generate", json=body)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.json().keys() == {"error", "code"}


def test_verbs_of_the_other_kind_are_refused() -> None:
    client = server()
    for path, content in (("invert/generate", b""), ("digits/translate", PHOTO)):
        response = client.post(f"/v2/models/{path}", content=content)
        assert (response.status_code, response.json()["code"]) == (400, "unsupported")


# Translate


@pytest.mark.parametrize("how", ["raw", "multipart"])
def test_translate_keeps_the_size(how: str) -> None:
    client = server()
    path = "/v2/models/invert/translate"
    if how == "raw":
        response = client.post(path, content=PHOTO, headers={"Content-Type": "image/png"})
    else:
        response = client.post(path, files={"image": ("horse.png", PHOTO, "image/png")})
    assert (response.status_code, response.headers["content-type"]) == (200, "image/png")
    np.testing.assert_array_equal(read(response.content), 255 - SOURCE[0])


def test_translate_to_jpeg() -> None:
    response = server().post("/v2/models/invert/translate?format=jpeg", content=PHOTO)
    assert Image.open(io.BytesIO(response.content)).format == "JPEG"


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 415, "bad_image"),
        (b"no image", 415, "bad_image"),
        (PHOTO[:100], 415, "bad_image"),
        (codec.encode(np.zeros((8, 321, 3), np.uint8), "png"), 422, "image_size"),
        (b"\0" * 70_000, 413, "too_large"),
    ],
)
def test_translate_refuses_bad_images(content: bytes, status: int, code: str) -> None:
    limits = Limits(bytes=2000)
    for send in ({"content": content}, {"files": {"image": ("a.png", content)}}):
        response = server(limits=limits).post("/v2/models/invert/translate", **send)
        assert (response.status_code, response.json()["code"]) == (status, code)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("invert/translate", "image/png"),
        ("invert/translate", "multipart/form-data; boundary=x"),
        ("digits/generate", "application/json"),
    ],
)
def test_chunked_body_is_limited_while_it_is_received(path: str, kind: str) -> None:
    def endless() -> Any:
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        for _ in range(1000):
            yield b"\0" * 10_000

    headers = {"Content-Type": kind}
    response = server(limits=Limits(bytes=1000)).post(f"/v2/models/{path}", content=endless(), headers=headers)
    error = "the request has more than the 66536 bytes that the server takes"
    assert (response.status_code, response.json()) == (413, {"error": error, "code": "too_large"})


def test_translate_refuses_a_form_without_an_image() -> None:
    response = server().post("/v2/models/invert/translate", files={"photo": ("a.png", PHOTO)})
    assert response.status_code == 400
    assert "'image'" in response.json()["error"]
    broken = {"Content-Type": "multipart/form-data; boundary=x"}
    response = server().post("/v2/models/invert/translate", content=b"nonsense", headers=broken)
    assert (response.status_code, response.json()["code"]) == (400, "bad_request")


# Failures inside


def test_engine_failure_is_500_without_internals() -> None:
    source = np.full((1, 16, 16, 3), 13, np.uint8)
    response = server().post("/v2/models/invert/translate", content=codec.encode(source[0], "png"))
    assert (response.status_code, response.json()) == (500, {"error": "internal error", "code": "internal"})


def test_full_queue_is_503_with_retry_after() -> None:
    async def full(tensors: Tensors, deadline: float | None = None) -> Tensors:
        raise OverloadedError("the queue is full")

    response = server(submit=full).post("/v2/models/digits/generate")
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert response.json() == {"error": "the queue is full", "code": "overloaded"}


def test_crash_shows_no_internals() -> None:
    async def crash(tensors: Tensors) -> Tensors:
        raise ZeroDivisionError("secret")

    response = server(submit=crash).post("/v2/models/digits/generate")
    assert (response.status_code, response.json()) == (500, {"error": "internal error", "code": "internal"})


def test_index_has_the_models_that_are_not_served_with_the_reason() -> None:
    client = server(unavailable={"faces/3": "the graph does not load"})
    whole = client.post("/v2/repository/index").json()
    entry = {"name": "faces", "version": "3", "state": "UNAVAILABLE", "reason": "the graph does not load"}
    assert [one["name"] for one in whole] == ["digits", "invert", "faces"]
    assert whole[-1] == entry
    assert entry not in client.post("/v2/repository/index", json={"ready": True}).json()
    assert client.get("/v2/health/ready").status_code == 200
    answer = client.post("/v2/models/faces/infer", json={})
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert answer.json()["error"] == "the model faces/3 is not served: the graph does not load"


def test_index_has_the_version_that_is_being_started(tmp_path: Path) -> None:
    client = server(folder=tmp_path)
    summary = ModelSummary(name="digits", version=1, kind="generator")
    Served(names=["digits"], models=(summary,), loading=("digits/2",)).write(str(tmp_path))
    ready = {"name": "digits", "version": "1", "state": "READY", "reason": ""}
    assert client.post("/v2/repository/index").json() == [ready, {**ready, "version": "2", "state": "LOADING"}]
    assert client.post("/v2/repository/index", json={"ready": True}).json() == [ready]
