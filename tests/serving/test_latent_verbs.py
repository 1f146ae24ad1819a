"""The verbs on latents that a request has, truncation, straight lines and weights; equal requests have equal ETags."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest

from serving.answers import Origin
from serving.batching import Tensors
from serving.client import Client
from serving.feeds import latents
from serving.verb import VERBS
from serving.verb_routes import entity_tag
from serving.verbs.interpolate import lerp
from tests.serving.apps import server, transport
from tests.serving.fakes import FakeEngine
from tests.serving.tiny import LATENT_DIM, conditional_manifest, generator_manifest, inverter_manifest

GENERATOR, CONDITIONAL = generator_manifest().interface, conditional_manifest().interface
CODES = np.random.default_rng(1).standard_normal((3, LATENT_DIM), dtype=np.float32)
GENERATE = "/v2/models/digits/generate"


def plan(verb: str, interface: Any = GENERATOR, **keys: Any) -> dict[str, np.ndarray]:
    entry = VERBS.find(verb)
    (feeds,) = entry.plan(interface, entry.request.parse(keys))
    return dict(feeds)


def client() -> Client:
    manifests = [generator_manifest(), conditional_manifest()]
    return Client("http://server", transport=transport(manifests=manifests))


def test_generate_plans_the_latents_of_the_request_to_the_bit() -> None:
    feeds = plan("generate", latents=CODES.tolist())
    np.testing.assert_array_equal(feeds["latent"], CODES)
    assert plan("generate", CONDITIONAL, latents=CODES.tolist())["label"].tolist() == [0, 1, 2]
    assert plan("generate", CONDITIONAL, latents=CODES.tolist(), labels="owl")["label"].tolist() == [2] * 3


def test_generate_of_a_seeds_latents_is_generate_of_the_seed() -> None:
    expected = client().generate("digits", 3, seed=4)
    np.testing.assert_array_equal(client().generate("digits", latents=latents(4, range(3), LATENT_DIM)), expected)


def test_truncation_scales_the_latents() -> None:
    whole = plan("generate", n=4, seed=2)["latent"]
    np.testing.assert_array_equal(plan("generate", n=4, seed=2, truncation=0.5)["latent"], whole * np.float32(0.5))
    np.testing.assert_array_equal(plan("generate", n=4, seed=2, truncation=1)["latent"], whole)
    assert server().post(f"{GENERATE}?truncation=0.7").headers["zorse-truncation"] == "0.7"


def test_interpolate_goes_along_latents_of_the_request() -> None:
    way = plan("interpolate", latents=CODES.tolist(), steps=3)["latent"]
    np.testing.assert_array_equal(way[[0, 2, 4]], CODES)
    line = plan("interpolate", latents=CODES.tolist(), steps=3, method="lerp")["latent"]
    np.testing.assert_allclose(line[1], (CODES[0] + CODES[1]) / 2, rtol=1e-6)


def test_lerp_ends_are_exact() -> None:
    way = lerp(CODES[0], CODES[1], 9)
    np.testing.assert_array_equal(way[[0, -1]], CODES[:2])
    np.testing.assert_allclose(np.diff(way, axis=0), np.tile((CODES[1] - CODES[0]) / 8, (8, 1)), atol=1e-6)


def test_arithmetic_of_numbers_with_weights_is_the_weighted_sum() -> None:
    z = latents(3, [4, 9], LATENT_DIM).astype(np.float64)
    codes = plan("arithmetic", numbers=[4, 9], weights=[2, -0.5], seed=3)["latent"]
    expected = np.stack([z[0], z[1], (2 * z[0] - 0.5 * z[1]) / np.sqrt(4.25)])
    np.testing.assert_allclose(codes, expected, rtol=1e-5, atol=1e-6)


def test_arithmetic_of_three_without_weights_is_a_minus_b_plus_c() -> None:
    by_terms = plan("arithmetic", a=1, b=2, c=3)["latent"]
    np.testing.assert_array_equal(plan("arithmetic", numbers=[1, 2, 3])["latent"], by_terms)
    vectors = latents(0, [1, 2, 3], LATENT_DIM).tolist()
    np.testing.assert_array_equal(plan("arithmetic", latents=vectors)["latent"], by_terms)
    only = plan("arithmetic", latents=vectors, only_result=True)["latent"]
    np.testing.assert_array_equal(only, by_terms[3:])


def test_client_has_a_method_for_each_verb_on_latents() -> None:
    opened = client()
    way = opened.interpolate("digits", latents=CODES, steps=4, method="lerp")
    assert way.shape == (7, 8, 8, 3)
    np.testing.assert_array_equal(way[[0, 3, 6]], opened.generate("digits", latents=CODES))
    assert opened.arithmetic("digits", a=1, b=2, c=3).shape == (4, 8, 8, 3)
    assert opened.generate("classes", 2, labels=["owl", "cat"])[:, 0, 0, 2].tolist() == [2, 0]


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [("image/webp", "image/webp"), ("application/zip", "application/zip"), ("application/x-npy", "application/x-npy")],
)
def test_accept_chooses_the_format(accept: str, media_type: str) -> None:
    response = server().post(f"{GENERATE}?n=2", headers={"Accept": accept})
    assert (response.status_code, response.headers["content-type"]) == (200, media_type)
    assert server().post(f"{GENERATE}?format=jpeg", headers={"Accept": accept}).headers["content-type"] == "image/jpeg"


# ETags


class CountingEngine(FakeEngine):
    """Counts its runs."""

    runs = 0

    async def submit(self, tensors: Tensors, deadline: float | None = None) -> Tensors:
        self.runs += 1
        return self.run(tensors)


def tag(query: str, path: str = GENERATE, **options: Any) -> str:
    return str(server().post(f"{path}?{query}", **options).headers["etag"])


def test_known_answer_is_304_without_a_run() -> None:
    engine = CountingEngine()
    http: httpx.Client = server(submit=engine.submit)
    first = http.post(f"{GENERATE}?seed=7")
    etag = first.headers["etag"]
    for known in (etag, f'"other", {etag}', etag.removeprefix("W/")):
        again = http.post(GENERATE, json={"seed": 7}, headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
        assert "content-length" not in again.headers
    assert engine.runs == 1
    assert http.post(f"{GENERATE}?seed=8", headers={"If-None-Match": etag}).status_code == 200


def test_request_without_an_answer_is_never_304() -> None:
    assert server().post(f"{GENERATE}?seed=7", headers={"If-None-Match": "*"}).status_code == 200
    for manifest, n, status in ((generator_manifest(), 300, 413), (inverter_manifest(), 3, 400)):
        etag = entity_tag(Origin.of(manifest), "generate", VERBS.find("generate").request.parse({"n": n}))
        path = f"/v2/models/{manifest.name}/generate"
        assert server().post(path, json={"n": n}, headers={"If-None-Match": etag}).status_code == status


def test_etags_differ_with_every_key_and_the_format_but_not_with_the_way_it_is_written() -> None:
    assert tag("seed=1") == tag("seed=1&n=1&format=png") == tag("", json={"seed": 1}) == tag("seed=01")
    queries = ["seed=1", "seed=2", "seed=1&n=2", "seed=1&format=webp", "seed=1&truncation=0.5", "seed=1&layout=zip"]
    tags = {tag(query) for query in queries}
    tags.add(tag("seed=1", "/v2/models/digits/interpolate"))
    assert len(tags) == 7
    assert tag("seed=1", headers={"Accept": "image/webp"}) == tag("seed=1&format=webp")
