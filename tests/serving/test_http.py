"""HTTP as probes, proxies and curl use it."""

from __future__ import annotations

import asyncio
import gzip
import io
import itertools
import json
import zlib

import httpx
import numpy as np
import pytest
from PIL import Image
from starlette.types import Message

from serving.admission import Admission
from serving.asgi import model_app
from serving.client import Client
from serving.config import Limits, ModelSettings
from serving.errors import ServerError, SlowRequestError
from serving.http import read_body
from serving.open_inference import HEADER_LENGTH, pack
from serving.retrying import ONCE
from serving.service import ModelService
from tests.serving.apps import server, transport
from tests.serving.fakes import FakeEngine
from tests.serving.tiny import inverter_manifest
from zorse_common.image_writer import encode
from zorse_common.images import decode

SOURCE = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
PATHS = ["/v2/health/live", "/v2/health/ready", "/v2", "/v2/models", "/v2/models/digits", "/v2/models/digits/ready"]


@pytest.mark.parametrize("path", PATHS)
def test_head_is_get_without_its_body(path: str) -> None:
    with server() as client:
        get, head = client.get(path), client.head(path)
        assert (head.status_code, head.content) == (get.status_code, b"")
        assert head.headers["content-length"] == str(len(get.content))
        assert client.head("/v2/models/nothing").status_code == 404


@pytest.mark.parametrize("path", PATHS)
def test_options_names_what_a_route_takes(path: str) -> None:
    with server() as client:
        answer = client.options(path)
        assert (answer.status_code, answer.content) == (204, b"")
        assert {"GET", "HEAD", "OPTIONS"} <= set(answer.headers["allow"].split(", "))
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_wrong_method_is_405_with_the_allowed_ones() -> None:
    with server() as client:
        answer = client.get("/v2/models/digits/generate")
        assert (answer.status_code, answer.headers["allow"]) == (405, "OPTIONS, POST")
        assert answer.json()["error"].endswith("takes OPTIONS, POST")


@pytest.mark.parametrize("path", PATHS)
def test_slash_at_the_end_changes_nothing(path: str) -> None:
    with server() as client:
        assert client.get(f"{path}/", follow_redirects=False).content == client.get(path).content


@pytest.mark.parametrize(("encoding", "pack_body"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_compressed_body_is_decompressed(encoding: str, pack_body: object) -> None:
    assert callable(pack_body)
    with server() as client:
        headers = {"Content-Encoding": encoding}
        answer = client.post("/v2/models/invert/translate", content=pack_body(encode(SOURCE)), headers=headers)
        np.testing.assert_array_equal(decode(answer.content), 255 - SOURCE)
        content, more = pack("inputs", {"source": SOURCE[None]}, {"source": True}, {})
        answer = client.post("/v2/models/invert/infer", content=pack_body(content), headers=headers | more)
        assert answer.status_code == 200


def test_compressed_body_may_come_in_chunks() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (120, 120, 3), dtype=np.uint8)
    body = gzip.compress(encode(noise))
    with server() as client:
        chunks = (body[start : start + 7000] for start in range(0, len(body), 7000))
        answer = client.post("/v2/models/invert/translate", content=chunks, headers={"Content-Encoding": "gzip"})
    np.testing.assert_array_equal(decode(answer.content), 255 - noise)


def test_compression_bomb_is_refused_before_it_is_inflated() -> None:
    """The default limits hold; what is inflated is counted, in pieces between which the loop does other work."""
    bomb, limit = gzip.compress(bytes(64 * 2**20)), Limits().bytes + 2**16
    assert len(bomb) < 2**17
    admission, manifest = Admission(), inverter_manifest()
    service = ModelService(manifest, FakeEngine().submit, Limits(), admission)
    app = model_app(service, ModelSettings(name=manifest.name, artifact=""))
    held = [0]

    async def send() -> httpx.Response:
        async def watch() -> None:
            while True:
                if admission.bytes != held[-1]:
                    held.append(admission.bytes)
                await asyncio.sleep(0)

        watcher = asyncio.create_task(watch())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
            headers = {"Content-Encoding": "gzip"}
            answer = await client.post("/v2/models/invert/translate", content=bomb, headers=headers)
        watcher.cancel()
        return answer

    answer = asyncio.run(send())
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert admission.bytes == 0
    rising = held[: held.index(max(held)) + 1]
    assert limit * 0.9 < rising[-1] <= limit
    assert max(after - before for before, after in itertools.pairwise(rising)) <= 2**21


@pytest.mark.parametrize(
    ("encoding", "body", "status", "text"),
    [
        ("br", b"x", 415, "send it uncompressed, or in deflate, gzip, x-gzip"),
        ("gzip", b"not gzip", 400, "the body is not in the encoding gzip"),
        ("gzip", gzip.compress(b"x" * 999, mtime=0)[:-9], 400, "ends in the middle of its gzip encoding"),
        ("deflate", zlib.compress(b"x") + b"y", 400, "continues after the end of its deflate encoding"),
    ],
)
def test_unreadable_encoding_is_reported_in_one_line(encoding: str, body: bytes, status: int, text: str) -> None:
    with server() as client:
        answer = client.post("/v2/models/invert/translate", content=body, headers={"Content-Encoding": encoding})
    assert answer.status_code == status
    assert text in answer.json()["error"]


def test_form_type_of_curl_is_taken_as_json() -> None:
    with server() as client:
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        plain = client.post("/v2/models/digits/generate", json={"n": 4, "seed": 1})
        curl = client.post("/v2/models/digits/generate", content=json.dumps({"n": 4, "seed": 1}), headers=headers)
    assert plain.status_code == curl.status_code == 200
    assert plain.content == curl.content


@pytest.mark.parametrize("length", ["9" * 5000, "-1", "1e3", "²", " 5"])
def test_header_length_that_is_not_a_number_is_a_bad_request(length: str) -> None:
    with server() as client:
        headers = {HEADER_LENGTH: length.encode()} if length.isascii() else {HEADER_LENGTH: length.encode("latin-1")}
        answer = client.post("/v2/models/digits/infer", content=b"{}", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")


PROXIES = {
    "ALL_PROXY": "socks5://127.0.0.1:1",
    "http_proxy": "http://127.0.0.1:1",
    "no_proxy": "fd00::/8",
    "SSL_CERT_FILE": "/nonexistent",
}


@pytest.mark.parametrize("name", PROXIES)
def test_client_of_loopback_ignores_proxies_and_certificates(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, PROXIES[name])
    with Client("http://127.0.0.1:8000", transport=transport()) as client:
        assert client.ready()
    with (
        Client("http://127.0.0.1:1", retry=ONCE) as client,
        pytest.raises(ServerError, match="does not answer") as caught,
    ):
        client.models()
    assert name not in str(caught.value)


def test_client_of_other_hosts_names_the_proxy_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with (
        Client("http://server.invalid", retry=ONCE) as client,
        pytest.raises(ServerError, match=r"check .*http_proxy of the env"),
    ):
        client.models()


def test_translate_reads_a_deep_image_in_the_stated_value_range() -> None:
    values = np.linspace(0, 4095, 400).astype(np.uint16).reshape(20, 20)
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG")
    with server() as client:
        path = "/v2/models/invert/translate"
        stated = client.post(path, content=stream.getvalue(), params={"black": 0, "white": 4095})
        plain = client.post(path, content=stream.getvalue())
        half = client.post(path, content=stream.getvalue(), params={"black": 0})
    expected = 255 - np.rint(values / 4095 * 255).astype(int)
    np.testing.assert_array_equal(decode(stated.content)[..., 0], expected)
    assert decode(plain.content).min() >= 239
    assert half.status_code == 422
    with Client("http://server", transport=transport()) as client:
        np.testing.assert_array_equal(client.translate("invert", stream.getvalue(), (0, 4095))[..., 0], expected)


@pytest.mark.parametrize(("first", "is_in_time"), [(b"abc", False), (bytes(10**6), True)])
def test_body_must_arrive_with_a_minimum_rate(first: bytes, is_in_time: bool) -> None:
    async def read() -> bytes:
        arrived, sent = asyncio.Event(), [first, b"last"]

        async def receive() -> Message:
            if len(sent) == 1 and not is_in_time:
                await arrived.wait()
            return {"type": "http.request", "body": sent.pop(0), "more_body": bool(sent)}

        return await read_body({}, receive, 10**7, seconds=0)

    if is_in_time:
        assert asyncio.run(read()) == first + b"last"
        return
    with pytest.raises(SlowRequestError, match="3 bytes of the body arrived in time: send it faster than 64 KiB/s"):
        asyncio.run(read())
