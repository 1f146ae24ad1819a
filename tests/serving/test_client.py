"""The client with a whole server in this process, and with other servers."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest

from serving.client import Client
from serving.errors import BadRequestError, NotFoundError, ServerError, UnauthorizedError, UnreachableError
from serving.feeds import latents
from serving.retrying import ONCE
from tests.serving.apps import transport
from tests.serving.tiny import LATENT_DIM

SOURCE = np.random.default_rng(0).integers(14, 256, (2, 18, 21, 3), dtype=np.uint8)


def client(**options: Any) -> Client:
    return Client("http://server", transport=transport(**options))


def answering(answer: Callable[[httpx.Request], httpx.Response]) -> Client:
    return Client("http://server", retry=ONCE, transport=httpx.MockTransport(answer))


def test_models_lists_name_version_and_kind() -> None:
    assert client().models() == [
        {"name": "digits", "version": 1, "kind": "generator"},
        {"name": "invert", "version": 1, "kind": "translator"},
    ]


def test_metadata_has_the_kind_and_the_inputs_of_a_model() -> None:
    metadata = client().metadata("invert")
    assert metadata["kind"] == "translator"
    assert [entry["name"] for entry in metadata["inputs"]] == ["source"]


def test_infer_returns_the_outputs_by_name() -> None:
    outputs = client().infer("invert", {"source": SOURCE})
    assert outputs.keys() == {"image"}
    np.testing.assert_array_equal(outputs["image"], 255 - SOURCE)


def test_infer_of_a_generator_equals_generate() -> None:
    with client() as opened:
        image = opened.infer("digits", {"latent": latents(5, range(2, 5), LATENT_DIM)})["image"]
        np.testing.assert_array_equal(image, opened.generate("digits", 3, seed=5, first=2))


def test_infer_reports_wrong_tensors() -> None:
    with pytest.raises(BadRequestError, match="takes the inputs latent and got z") as caught:
        client().infer("digits", {"z": np.zeros((1, LATENT_DIM), np.float32)})
    assert (caught.value.status, caught.value.code) == (400, "bad_request")
    with pytest.raises(BadRequestError, match="there are no tensors of float64"):
        client().infer("digits", {"latent": np.zeros((1, LATENT_DIM))})


def test_translate_takes_arrays_and_files() -> None:
    np.testing.assert_array_equal(client().translate("invert", SOURCE[0]), 255 - SOURCE[0])


@pytest.mark.parametrize("image", [SOURCE, SOURCE[0, :, :, 0], SOURCE[0] / 255, SOURCE[0, :0], SOURCE[0, :, :, :2]])
def test_translate_refuses_arrays_that_are_not_images(image: np.ndarray) -> None:
    with pytest.raises(BadRequestError, match="an image is uint8"):
        client().translate("invert", image)


def test_api_key_may_have_any_letters() -> None:
    assert len(Client("http://server", "schlüssel", transport=transport(api_key="schlüssel")).models()) == 2
    with pytest.raises(UnauthorizedError, match="requires its API key"):
        client(api_key="schlüssel").models()


def test_unknown_model_is_the_servers_404() -> None:
    with pytest.raises(NotFoundError) as caught:
        client().generate("what? no/model")
    assert (caught.value.status, caught.value.code) == (404, "not_found")


@pytest.mark.parametrize(
    "call",
    [
        lambda opened: opened.models(),
        lambda opened: opened.generate("digits"),
        lambda opened: opened.translate("invert", SOURCE[0]),
        lambda opened: opened.infer("invert", {"source": SOURCE}),
    ],
    ids=["models", "generate", "translate", "infer"],
)
@pytest.mark.parametrize(("status", "code"), [(200, "protocol"), (404, "http")])
def test_other_servers_are_reported(call: Callable[[Client], object], status: int, code: str) -> None:
    with pytest.raises(ServerError) as caught:
        call(answering(lambda request: httpx.Response(status, text="<html>hello</html>")))
    assert (caught.value.status, caught.value.code) == (status, code)


@pytest.mark.parametrize("body", [{"status": "ok"}, [1], ["a"], None, {"name": "x", "inputs": [{"name": "y"}]}, 7])
@pytest.mark.parametrize(
    "call",
    [
        lambda opened: opened.models(),
        lambda opened: opened.metadata("digits"),
        lambda opened: opened.fetch("generate", "digits"),
        lambda opened: opened.fetch("translate", "invert", SOURCE[0]),
        lambda opened: opened.cycle("invert", SOURCE[0]),
    ],
    ids=["models", "metadata", "generate", "translate", "cycle"],
)
def test_json_of_other_servers_is_reported(call: Callable[[Client], object], body: object) -> None:
    with pytest.raises(ServerError, match=r"answers /v2/models.* as no zorse server does") as caught:
        call(answering(lambda request: httpx.Response(200, json=body)))
    assert (caught.value.status, caught.value.code) == (200, "protocol")


def test_json_of_a_verb_that_the_client_does_not_know_is_accepted() -> None:
    assert answering(lambda request: httpx.Response(200, json={"a": 1})).call("own", "digits") == {"a": 1}


@pytest.mark.parametrize(
    ("url", "advice"),
    [("127.0.0.1:8399", "http://127.0.0.1:8399"), ("localhost:8", "http://localhost:8"), ("ftp://host", "http://host")],
)
def test_url_without_a_scheme_of_http_is_refused(url: str, advice: str) -> None:
    with pytest.raises(BadRequestError, match=f"^{url} is not a server's URL: write {advice}$"):
        Client(url)


def test_hint_at_certificates_is_for_errors_of_tls_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_with(cause: OSError) -> str:
        def fail(request: httpx.Request) -> httpx.Response:
            raise httpx.ConnectError("failed") from cause

        with pytest.raises(ServerError) as caught:
            answering(fail).models()
        return str(caught.value)

    monkeypatch.setenv("SSL_CERT_DIR", "/certificates")
    assert "SSL_CERT_DIR" in fail_with(ssl.SSLError("bad certificate"))
    assert "SSL_CERT_DIR" not in fail_with(OSError("refused"))


def test_unreachable_server_is_reported() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(UnreachableError, match="http://server does not answer: refused") as caught:
        answering(refuse).models()
    assert (caught.value.status, caught.value.code) == (0, "unreachable")
    assert not answering(refuse).ready()


def test_malformed_url_is_refused() -> None:
    with pytest.raises(BadRequestError, match="http://server:port is not a URL"):
        Client("http://server:port")


def test_keys_may_be_numbers_and_nested_lists_of_numpy() -> None:
    codes = latents(5, range(2), LATENT_DIM)
    with client() as opened:
        expected = opened.generate("digits", 2, seed=5)
        np.testing.assert_array_equal(opened.generate("digits", np.int64(2), seed=np.uint8(5)), expected)  # type: ignore[arg-type]
        np.testing.assert_array_equal(opened.generate("digits", latents=[codes[0], tuple(codes[1])]), expected)
        assert opened.call("interpolate", "digits", numbers=[np.int32(0), 1], steps=np.int64(3)).shape == (8, 24, 3)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"seed": object()}, "seed has a object: give numbers"),
        ({"latents": [[1.0, {}]]}, "latents has a dict: give numbers"),
        ({"latents": [[np.float32("nan")] * LATENT_DIM]}, "NaN or infinity"),
        ({"format": "png"}, "generate returns an array and has no format: use call or fetch"),
        ({"layout": "zip"}, "generate returns an array and has no layout: use call or fetch"),
    ],
)
def test_keys_that_cannot_be_sent_are_refused(keys: dict[str, Any], message: str) -> None:
    with client() as opened, pytest.raises(BadRequestError, match=message):
        opened.generate("digits", **keys)


def test_format_of_a_method_that_returns_arrays_is_refused() -> None:
    with client() as opened:
        for method in (opened.interpolate, opened.arithmetic):
            with pytest.raises(BadRequestError, match="returns an array and has no format"):
                method("digits", format="gif")
