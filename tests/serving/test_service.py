"""The online service and the local model: the same answers from the same pure verbs."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import numpy as np
import pytest

from export.interface import SizeLimits
from export.manifest import Manifest
from serving.admission import Admission
from serving.batching import Tensors
from serving.codec import encode
from serving.config import Limits
from serving.errors import BadRequestError, NotFoundError, TooLargeError, UnsupportedError
from serving.feeds import latents
from serving.local_model import LocalModel
from serving.profile import Profile
from serving.service import ModelService
from serving.verb import VERBS
from tests.serving.fakes import FakeEngine, Traced
from tests.serving.tiny import (
    LATENT_DIM,
    conditional_manifest,
    generator_graph,
    generator_manifest,
    inverter_graph,
    inverter_manifest,
    upscaler_manifest,
    with_interface,
    write,
)

GENERATOR, INVERTER, CONDITIONAL = generator_manifest(), inverter_manifest(), conditional_manifest()
RNG = np.random.default_rng(0)


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(14, 256, shape, dtype=np.uint8)


def service(manifest: Manifest, limits: Limits | None = None, engine: FakeEngine | None = None) -> ModelService:
    return ModelService(manifest, (engine or FakeEngine()).submit, limits or Limits())


def call(model: ModelService, verb: str, **keys: object) -> object:
    entry = VERBS.find(verb)
    return asyncio.run(model.call(entry, entry.request.parse(keys))).value()


def test_service_and_local_model_agree() -> None:
    image = noise(33, 18, 3)
    online = asyncio.run(service(INVERTER).run({"source": image[None]}))["image"]
    np.testing.assert_array_equal(online[0], 255 - image)
    local = LocalModel(INVERTER, FakeEngine())
    np.testing.assert_array_equal(local.translate(image), 255 - image)
    np.testing.assert_array_equal(local.call("translate", encode(image, "png")), 255 - image)
    local = LocalModel(CONDITIONAL, FakeEngine())
    images = local.generate(5, 3, labels="dog")
    assert images[:, 0, 0, 2].tolist() == [1] * 5
    keys = {"n": 5, "seed": 3, "labels": "dog", "layout": "zip"}
    np.testing.assert_array_equal(call(service(CONDITIONAL), "generate", **keys), images)
    np.testing.assert_array_equal(local.call("generate", **keys), images)


def test_run_crops_scaled_images_to_the_scaled_size() -> None:
    image, manifest = noise(17, 21, 3), upscaler_manifest(scale=4)
    expected = (255 - image).repeat(4, axis=0).repeat(4, axis=1)
    online = asyncio.run(service(manifest, engine=FakeEngine(scale=4)).run({"source": image[None]}))["image"]
    np.testing.assert_array_equal(online[0], expected)
    np.testing.assert_array_equal(LocalModel(manifest, FakeEngine(scale=4)).translate(image), expected)


def test_service_pads_large_images_in_a_thread_and_not_on_the_event_loop() -> None:
    images = noise(1, 170, 181, 3).view(Traced)
    model = with_interface(INVERTER, size=SizeLimits.square(4, 16, 1024))
    asyncio.run(service(model).run({"source": images}))
    assert images.threads
    assert threading.current_thread() not in images.threads


def test_service_limits_the_images_of_a_request() -> None:
    limits = Limits(images=2)
    with pytest.raises(TooLargeError, match="the request is for 3 images and the limit is 2"):
        call(service(GENERATOR, limits), "generate", n=3)
    with pytest.raises(TooLargeError):
        call(service(GENERATOR, limits), "generate", n=10**15)  # before a latent is drawn
    with pytest.raises(TooLargeError, match="for 15 images"):
        call(service(GENERATOR, limits), "interpolate", numbers=[0, 1, 2], steps=8, format="gif")
    with pytest.raises(TooLargeError):
        asyncio.run(service(INVERTER, limits).run({"source": noise(3, 16, 16, 3)}))


def test_local_model_runs_many_images_in_parts() -> None:
    engine = FakeEngine()
    images = LocalModel(GENERATOR, engine).generate(40, seed=1, first=2)
    assert images.shape == (40, 8, 8, 3)
    assert max(shape[0] for shape in engine.shapes) == 16
    np.testing.assert_array_equal(images[5], LocalModel(GENERATOR, engine).generate(1, seed=1, first=7)[0])


def test_local_model_runs_large_images_one_by_one() -> None:
    engine = FakeEngine()
    large = with_interface(INVERTER, size=SizeLimits.square(4, 16, 1024))
    images = noise(3, 1024, 1024, 3)
    np.testing.assert_array_equal(LocalModel(large, engine).translate(images), 255 - images)
    assert engine.shapes == [(1, 1024, 1024, 3)] * 3


def test_local_model_runs_explicit_inputs() -> None:
    local = LocalModel(CONDITIONAL, FakeEngine())
    feeds = {"latent": latents(3, range(2), LATENT_DIM), "label": np.array([2, 0])}
    np.testing.assert_array_equal(local.run(feeds)["image"], local.generate(2, 3, labels=["owl", "cat"]))


@pytest.mark.parametrize(
    "numbers", [(0, 0, 0), (1, -1, 0), (1, 2**63, 0), (1, 0, -1), (1, 0, 2**63), ("many", 0, 0)], ids=str
)
def test_local_model_refuses_numbers_out_of_range(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(BadRequestError, match=r"^(n|seed|first): Input should be"):
        LocalModel(GENERATOR, FakeEngine()).generate(*numbers)


def test_local_model_names_what_is_wrong_with_a_call() -> None:
    generator, inverter = LocalModel(GENERATOR, FakeEngine()), LocalModel(INVERTER, FakeEngine())
    with pytest.raises(NotFoundError, match=r"unknown verb 'interpolat' \(did you mean interpolate\?\); known: "):
        generator.call("interpolat")
    with pytest.raises(BadRequestError, match=r"^unknown key sede \(did you mean seed\?\)"):
        generator.call("generate", sede=1)
    with pytest.raises(BadRequestError, match=r"^a is missing: give a, b and c"):
        generator.call("arithmetic", b=1, c=2)
    with pytest.raises(BadRequestError, match="the verb takes an image file"):
        inverter.call("translate")
    with pytest.raises(BadRequestError, match="the verb takes no image"):
        generator.call("generate", image=b"")
    with pytest.raises(UnsupportedError, match="the model has no classes"):
        generator.generate(1, labels=0)
    with pytest.raises(UnsupportedError, match="it does not generate"):
        inverter.generate(1)
    with pytest.raises(UnsupportedError, match="it does not translate"):
        generator.translate(noise(16, 16, 3))


def test_local_model_loads_real_graphs(repository: Path) -> None:
    images = LocalModel.load(repository / "digits", "cpu", threads=1).generate(20, seed=4)
    assert images.shape == (20, 8, 8, 3)
    assert images.std() > 10
    np.testing.assert_array_equal(images[17:], LocalModel.load(repository / "digits" / "1", "cpu").generate(3, 4, 17))
    photo = noise(3, 255, 257, 3)
    np.testing.assert_array_equal(LocalModel.load(repository / "invert", "cpu").translate(photo), 255 - photo)


def test_local_model_runs_a_real_conditional_graph(tmp_path: Path) -> None:
    local = LocalModel.load(write(tmp_path, generator_graph(classes=3), CONDITIONAL), "cpu", threads=1)
    cycled = local.generate(6, seed=2)
    for label, name in enumerate(("cat", "dog", "owl")):
        images = local.generate(6, seed=2, labels=name)
        np.testing.assert_array_equal(images[label::3], cycled[label::3])
        assert (images[(label + 1) % 3 :: 3] != cycled[(label + 1) % 3 :: 3]).any()
    np.testing.assert_array_equal(local.generate(3, seed=2, first=3), cycled[3:])


def test_local_model_runs_a_real_upscaling_graph(tmp_path: Path) -> None:
    local = LocalModel.load(write(tmp_path, inverter_graph(scale=2), upscaler_manifest()), "cpu", threads=1)
    image = noise(33, 18, 3)
    np.testing.assert_array_equal(local.translate(image), (255 - image).repeat(2, axis=0).repeat(2, axis=1))


def test_service_limits_the_pixels_that_a_generator_makes() -> None:
    limits = Limits(pixels=8 * 8 * 10)
    assert call(service(GENERATOR, limits), "generate", n=10) is not None
    with pytest.raises(TooLargeError, match="11 images of 64 pixels and the limit is 640 pixels in all"):
        call(service(GENERATOR, limits), "generate", n=11)


def test_admission_counts_sources_and_results(tmp_path: Path) -> None:
    counted: list[tuple[int, int]] = []

    async def scene(manifest: Manifest, inputs: dict[str, np.ndarray], scale: int = 1) -> None:
        admission = Admission()

        async def submit(tensors: Tensors, deadline: float | None = None) -> Tensors:
            counted.append((admission.images, admission.pixels))
            return FakeEngine(scale=scale).run(tensors)

        await ModelService(manifest, submit, Limits(), admission).run(inputs)

    asyncio.run(scene(GENERATOR, {"latent": latents(0, range(3), LATENT_DIM)}))
    asyncio.run(scene(INVERTER, {"source": noise(2, 16, 20, 3)}))
    asyncio.run(scene(upscaler_manifest(scale=2), {"source": noise(2, 16, 20, 3)}, 2))
    assert counted == [(3, 3 * 64), (2, 2 * 640), (2, 640 + 640 * 4)]


def test_cycle_with_itself_is_counted_once() -> None:
    # Each image counts for two seconds, and the process takes ten.
    profile = Profile(((1, 2.0),), (1, 2**20), 2**20)
    model = ModelService(INVERTER, FakeEngine().submit, Limits(), profile=profile)
    verb = VERBS.find("cycle")
    request = verb.request.parse({"partner": "invert", "format": "json"})
    files = [encode(noise(300, 300, 3), "png")] * 60
    assert asyncio.run(model.call_with_images(verb, request, files)).media_type == "application/json"
