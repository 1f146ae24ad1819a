"""Verbs: plans in closed form, answers over HTTP and by the client, and a verb that a test defines."""

from __future__ import annotations

import io
import json
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from pydantic import Field

from export.feeds import Feeds
from export.interface import Interface
from serving import codec
from serving.client import Client
from serving.codec import JSON, File
from serving.config import Limits
from serving.errors import BadRequestError, NotFoundError, TooLargeError, UnsupportedError
from serving.feeds import latent_dim, latents
from serving.local_model import LocalModel
from serving.verb import VERBS, Outputs, Seed, Verb, VerbRequest
from serving.verbs.arithmetic import combine
from serving.verbs.interpolate import slerp
from tests.serving.apps import server, transport
from tests.serving.fakes import FakeEngine
from tests.serving.tiny import LATENT_DIM, conditional_manifest, generator_manifest, inverter_manifest

GENERATOR, INVERTER, CONDITIONAL = generator_manifest(), inverter_manifest(), conditional_manifest()
MANIFESTS = [GENERATOR, INVERTER, CONDITIONAL]
RNG = np.random.default_rng(0)


def plan(verb: str, interface: Interface = GENERATOR.interface, **keys: Any) -> Feeds:
    entry = VERBS.find(verb)
    (feeds,) = entry.plan(interface, entry.request.parse(keys))
    return feeds


def http(**options: Any) -> httpx.Client:
    return server(manifests=MANIFESTS, **options)


def client(**options: Any) -> Client:
    return Client("http://server", transport=transport(manifests=MANIFESTS, **options))


def z(*numbers: int, seed: int = 0) -> np.ndarray:
    return latents(seed, numbers, LATENT_DIM).astype(np.float64)


# Slerp


@pytest.mark.parametrize("dim", [1, 2, 6, 512])
def test_slerp_ends_are_exact(dim: int) -> None:
    start, end = RNG.standard_normal((2, dim)).astype(np.float32)
    way = slerp(start, end, 7)
    assert (way.dtype, way.shape) == (np.float32, (7, dim))
    np.testing.assert_array_equal(way[0], start)
    np.testing.assert_array_equal(way[-1], end)


def test_slerp_preserves_the_norm_and_turns_by_equal_angles() -> None:
    start, end = RNG.standard_normal((2, 64))
    start, end = (8 * vector / np.linalg.norm(vector) for vector in (start, end))
    way = slerp(start.astype(np.float32), end.astype(np.float32), 9).astype(np.float64)
    np.testing.assert_allclose(np.linalg.norm(way, axis=1), 8, rtol=1e-6)
    cosines = (way[1:] * way[:-1]).sum(axis=1) / 64
    np.testing.assert_allclose(np.arccos(cosines), np.arccos(start @ end / 64) / 8, rtol=1e-4)


def test_slerp_of_a_right_angle_is_a_quarter_circle() -> None:
    way = slerp(np.array([3, 0], np.float32), np.array([0, 3], np.float32), 3)
    np.testing.assert_allclose(way, 3 * np.array([[1, 0], [0.5**0.5, 0.5**0.5], [0, 1]]), atol=1e-6)


@pytest.mark.parametrize("end", [[1.0, 2.0], [-1.0, -2.0], [3.0, 6.0]])
def test_slerp_of_parallel_vectors_is_the_straight_line(end: list[float]) -> None:
    start = np.array([1, 2], np.float32)
    way = slerp(start, np.array(end, np.float32), 3)
    np.testing.assert_allclose(way, np.stack([start, (start + end) / 2, end]), atol=1e-6)


# Plans


def test_generate_plans_the_latents_of_its_numbers() -> None:
    feeds = plan("generate", n=3, seed=9, first=4)
    assert feeds.keys() == {"latent"}
    np.testing.assert_array_equal(feeds["latent"], latents(9, range(4, 7), LATENT_DIM))


def test_generate_cycles_over_the_classes_by_number() -> None:
    labels = plan("generate", CONDITIONAL.interface, n=5, first=4)["label"]
    assert (labels.dtype, labels.tolist()) == (np.int64, [1, 2, 0, 1, 2])
    assert plan("generate", CONDITIONAL.interface, first=7)["label"].tolist() == [1]


def test_interpolate_passes_all_its_numbers() -> None:
    way = plan("interpolate", numbers=[5, 2, 8], steps=4, seed=3)["latent"]
    assert way.shape == (7, LATENT_DIM)
    np.testing.assert_array_equal(way[[0, 3, 6]], latents(3, [5, 2, 8], LATENT_DIM))
    np.testing.assert_array_equal(way[:4], plan("interpolate", first=5, last=2, steps=4, seed=3)["latent"])


def test_interpolate_keeps_the_class_of_its_first_image() -> None:
    assert plan("interpolate", CONDITIONAL.interface, first=4, last=6, steps=3)["label"].tolist() == [1, 1, 1]
    assert plan("interpolate", CONDITIONAL.interface, steps=2, label="owl")["label"].tolist() == [2, 2]


def test_arithmetic_equals_numpy() -> None:
    mean_a, mean_b, mean_c = z(1, 2, 3).mean(0), z(4).mean(0), z(5, 6).mean(0)
    variance = 3 * (1 / 3) ** 2 + 1 + 2 * (1 / 2) ** 2
    result = (mean_a - mean_b + mean_c) / np.sqrt(variance)
    expected = np.stack([mean_a * 3**0.5, mean_b, mean_c * 2**0.5, result])
    codes = plan("arithmetic", a=[1, 2, 3], b=4, c=[5, 6])["latent"]
    assert codes.dtype == np.float32
    np.testing.assert_allclose(codes, expected, rtol=1e-5, atol=1e-6)
    only = plan("arithmetic", a=[1, 2, 3], b=4, c=[5, 6], only_result=True)["latent"]
    np.testing.assert_array_equal(only, codes[3:])


def test_arithmetic_cancels_images_that_are_added_and_subtracted() -> None:
    codes = plan("arithmetic", a=7, b=[7], c=9)["latent"]
    np.testing.assert_array_equal(codes[3], latents(0, [9], LATENT_DIM)[0])


def test_arithmetic_results_have_the_norm_of_a_latent() -> None:
    results = np.stack(
        [combine({0: 1.0, 1: -1.0, 2: 1.0}, latents(0, range(3 * k, 3 * k + 3), 256)) for k in range(200)]
    )
    assert abs(results.std() - 1) < 0.01
    assert abs(np.linalg.norm(results, axis=1).mean() / 16 - 1) < 0.01


@pytest.mark.parametrize("scale", [5e-324, 1e-300, 1e-160, 1000.0])
def test_arithmetic_depends_on_the_ratios_of_weights_alone(scale: float) -> None:
    expected = plan("arithmetic", numbers=[4, 9], weights=[1, -1])["latent"]
    codes = plan("arithmetic", numbers=[4, 9], weights=[scale, -scale])["latent"]
    np.testing.assert_allclose(codes, expected, rtol=1e-6)


def test_arithmetic_keeps_one_class() -> None:
    assert plan("arithmetic", CONDITIONAL.interface, a=[5, 1], b=2, c=3)["label"].tolist() == [2] * 4
    assert plan("arithmetic", CONDITIONAL.interface, a=5, b=2, c=3, label=0, only_result=True)["label"].tolist() == [0]


@pytest.mark.parametrize(
    ("verb", "keys"), [("generate", {}), ("interpolate", {}), ("arithmetic", {"a": 1, "b": 2, "c": 3})]
)
def test_plans_refuse_translators_and_labels_of_models_without_classes(verb: str, keys: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError, match="the model is a translator with the inputs source: it does not"):
        plan(verb, INVERTER.interface, **keys)
    label = "labels" if verb == "generate" else "label"
    with pytest.raises(UnsupportedError, match="the model has no classes: leave the label out"):
        plan(verb, **keys, **{label: "cat"})


@pytest.mark.parametrize(
    ("verb", "keys", "message"),
    [
        ("interpolate", {"steps": 1}, "steps: Input should be greater than or equal to 2"),
        ("interpolate", {"numbers": [3]}, "numbers: List should have at least 2 items"),
        ("interpolate", {"format": "tiff"}, "format: Input should be 'png', 'jpeg', 'webp', 'npy' or 'gif'"),
        ("interpolate", {"stepps": 3}, r"unknown key stepps \(did you mean steps\?\)"),
        ("arithmetic", {"a": [], "b": 1, "c": 1}, "a: List should have at least 1 item"),
        ("arithmetic", {"a": list(range(65)), "b": 1, "c": 1}, "a: List should have at most 64 items"),
        ("arithmetic", {"a": -1, "b": 1, "c": 1}, "a.0: Input should be greater than or equal to 0"),
        ("arithmetic", {"a": 1, "b": 1}, "c is missing: give a, b and c"),
        ("generate", {"n": True}, "n: give a number and not true or false"),
        ("generate", {"latents": [[0.0] * (LATENT_DIM - 1) + [True]]}, "latents: give a number and not true or false"),
        ("generate", {"labels": ["cat", False]}, "labels: give a name or a number and not true or false"),
        ("arithmetic", {"numbers": [1, 2], "weights": [1, False]}, "weights: give a number and not true or false"),
        ("arithmetic", {"a": False, "b": 1, "c": 1}, "a: give a number and not true or false"),
        ("generate", {"n": 0}, "n: Input should be greater than or equal to 1"),
    ],
)
def test_requests_out_of_their_limits_are_refused(verb: str, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequestError, match=f"^{message}"):
        plan(verb, **keys)
    response = http().post(f"/v2/models/digits/{verb}", json=keys)
    assert (response.status_code, response.json()["code"]) == (422, "bad_request")


def test_digits_of_a_query_are_numbers_and_booleans_stay_booleans() -> None:
    request = VERBS.find("arithmetic").request.parse({"a": "1", "b": ["2", "3"], "c": "4", "only_result": "true"})
    assert (request.a, request.b, request.c, request.only_result) == ([1], [2, 3], [4], True)
    assert VERBS.find("arithmetic").request.parse({"a": 1, "b": 2, "c": 3, "only_result": True}).only_result
    assert VERBS.find("translate").request.parse({"tile": True}).tile


# Over HTTP


def test_interpolate_is_a_strip_of_single_images() -> None:
    with client() as opened:
        strip = opened.call("interpolate", "digits", first=3, last=5, steps=6, seed=2)
        ends = [opened.generate("digits", 1, seed=2, first=number)[0] for number in (3, 5)]
    assert strip.shape == (8, 6 * 8, 3)
    np.testing.assert_array_equal(strip[:, :8], ends[0])
    np.testing.assert_array_equal(strip[:, -8:], ends[1])


def test_interpolate_to_a_gif() -> None:
    response = http().post("/v2/models/digits/interpolate?numbers=0&numbers=1&numbers=2&steps=4&format=gif")
    assert response.headers["content-type"] == "image/gif"
    with Image.open(io.BytesIO(response.content)) as gif:
        assert (gif.format, gif.size, gif.n_frames, gif.info["duration"], gif.info["loop"]) == ("GIF", (8, 8), 7, 80, 0)
    frames = client().call("interpolate", "digits", numbers=[0, 1, 2], steps=4, format="gif")
    strip = client().call("interpolate", "digits", numbers=[0, 1, 2], steps=4)
    np.testing.assert_array_equal(codec.grid(frames, columns=7), strip)


def test_arithmetic_is_a_strip_or_the_result() -> None:
    path = "/v2/models/digits/arithmetic"
    by_query = http().post(f"{path}?a=1&a=2&b=3&c=4")
    by_json = http().post(path, json={"a": [1, 2], "b": 3, "c": [4]})
    assert by_query.content == by_json.content
    strip = client().call("arithmetic", "digits", a=[1, 2], b=3, c=4)
    result = client().call("arithmetic", "digits", a=[1, 2], b=3, c=4, only_result=True)
    assert (strip.shape, result.shape) == ((8, 32, 3), (8, 8, 3))
    np.testing.assert_array_equal(strip[:, 24:], result)
    np.testing.assert_array_equal(strip[:, 8:16], client().generate("digits", 1, first=3)[0])


@pytest.mark.parametrize(
    ("query", "keys", "labels"),
    [
        ("n=4", {}, [0, 1, 2, 0]),
        ("n=4&first=2", {"first": 2}, [2, 0, 1, 2]),
        ("n=4&labels=dog", {"labels": "dog"}, [1] * 4),
        ("n=4&labels=2", {"labels": 2}, [2] * 4),
        ("n=4&labels=owl&labels=0&labels=cat&labels=1", {"labels": ["owl", 0, "cat", 1]}, [2, 0, 0, 1]),
    ],
)
def test_generate_feeds_labels(query: str, keys: dict[str, Any], labels: list[int]) -> None:
    images = client().generate("classes", 4, **keys)
    assert images[:, 0, 0, 2].tolist() == labels
    response = http().post(f"/v2/models/classes/generate?{query}&layout=zip")
    np.testing.assert_array_equal(File(response.content, "application/zip").value(), images)


def test_generate_refuses_labels_in_one_line() -> None:
    for model, labels, status, error in (
        ("digits", 1, 400, "the model has no classes: leave the label out"),
        ("classes", "dgo", 400, "there is no class 'dgo' (did you mean dog?): the classes are cat, dog, owl"),
        ("classes", [0, 1], 400, "2 labels for 3 images: give one label, or one for each image"),
    ):
        response = http().post(f"/v2/models/{model}/generate", json={"n": 3, "labels": labels})
        assert (response.status_code, response.json()["error"]) == (status, error)


def test_infer_takes_latents_and_labels() -> None:
    feeds = {"latent": latents(0, [4], LATENT_DIM), "label": np.array([1])}
    np.testing.assert_array_equal(client().infer("classes", feeds)["image"], client().generate("classes", first=4))
    with pytest.raises(BadRequestError, match="takes the inputs label, latent and got latent"):
        client().infer("classes", {"latent": feeds["latent"]})


def test_image_limit_counts_steps() -> None:
    limited = client(limits=Limits(images=10))
    assert limited.call("interpolate", "digits", steps=10).shape == (8, 80, 3)
    with pytest.raises(TooLargeError, match="the request is for 11 images and the limit is 10") as refused:
        limited.call("interpolate", "digits", steps=11)
    assert (refused.value.status, refused.value.code) == (413, "too_large")


def test_unknown_verb_is_404_with_the_nearest_one() -> None:
    with pytest.raises(NotFoundError, match=r"digits/interpolat \(did you mean interpolate\?\)$") as refused:
        client().call("interpolat", "digits")
    assert (refused.value.status, refused.value.code) == (404, "not_found")


# A verb of this module


class NormsRequest(VerbRequest):
    """State the norms of `n` latents, and the mean brightness of their images."""

    n: int = Field(default=2, ge=1)
    seed: Seed = 0

    @property
    def count(self) -> int:
        return self.n


def plan_norms(interface: Interface, request: NormsRequest) -> list[Feeds]:
    return [{"latent": latents(request.seed, range(request.n), latent_dim(interface, "state norms"))}]


def render_norms(interface: Interface, outputs: Outputs, request: NormsRequest) -> File:
    return File(json.dumps(outputs[0]["image"].mean(axis=(1, 2, 3)).tolist()).encode(), JSON)


VERBS.register("norms", Verb(NormsRequest, plan_norms, render_norms, media_types=(JSON,)))


def test_registered_verb_is_served_called_and_documented() -> None:
    expected = LocalModel(GENERATOR, FakeEngine()).generate(3, seed=5).mean(axis=(1, 2, 3)).tolist()
    assert client().call("norms", "digits", n=3, seed=5) == expected
    assert LocalModel(GENERATOR, FakeEngine()).call("norms", n=3, seed=5) == expected
    document = http().get("/v2/models/digits/openapi.json").json()
    operation = document["paths"]["/v2/models/digits/norms"]["post"]
    assert operation["description"].startswith("State the norms of `n` latents")
    assert [entry["name"] for entry in operation["parameters"]] == ["n", "seed"]
    assert list(operation["responses"]["200"]["content"]) == [JSON]
    response = http().post("/v2/models/digits/norms", json={"m": 1})
    assert response.json()["error"] == "body: unknown key m (known: n, seed)"
    response = http(limits=Limits(images=2)).post("/v2/models/digits/norms?n=3")
    assert response.status_code == 413


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"[]", "the body is a JSON list: send an object of keys"),
        (b"{", "the body is not JSON: EOF while parsing"),
        (b'{"n": ' + b"1" * 5000 + b"}", "the body is not JSON: number out of range"),
        (b"[" * 100_000, "the body is not JSON: recursion limit exceeded"),
    ],
)
def test_body_that_is_no_object_of_keys_is_refused_without_internals(body: bytes, message: str) -> None:
    response = http().post("/v2/models/digits/generate", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"].startswith(message)
