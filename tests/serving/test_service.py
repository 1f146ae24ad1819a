from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import numpy as np
import pytest

from export.interface import SizeLimits, TensorSpec
from serving.config import Limits
from serving.errors import BadRequestError, ImageSizeError, TooLargeError, UnsupportedError
from serving.latents import latents
from serving.service import LocalModel, ModelService, check_feeds, latent_feeds, source_feeds, warm_up
from tests.serving.fakes import FakeEngine, Traced
from tests.serving.tiny import LATENT_DIM, MAXIMUM, generator_manifest, inverter_manifest, with_interface

GENERATOR, INVERTER = generator_manifest(), inverter_manifest()
RNG = np.random.default_rng(0)


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def test_latent_feeds_are_the_contracts_latents() -> None:
    np.testing.assert_array_equal(latent_feeds(GENERATOR, 3, 9, 4)["latent"], latents(9, 4, 3, LATENT_DIM))


@pytest.mark.parametrize(("n", "seed", "first"), [(0, 0, 0), (1, -1, 0), (1, 2**63, 0), (1, 0, -1), (1, 0, 2**63)])
def test_latent_feeds_out_of_range(n: int, seed: int, first: int) -> None:
    with pytest.raises(BadRequestError, match="out of range"):
        latent_feeds(GENERATOR, n, seed, first)


@pytest.mark.parametrize(
    ("size", "padded"),
    [((16, 16), (16, 16)), ((255, 257), (256, 260)), ((1, 1), (16, 16)), ((3, 100), (16, 100)), ((320, 17), (320, 20))],
)
def test_source_feeds_pad_up_to_the_multiple_and_the_minimum(size: tuple[int, int], padded: tuple[int, int]) -> None:
    images = noise(2, *size, 3)
    source = source_feeds(INVERTER, images)["source"]
    assert source.shape == (2, *padded, 3)
    np.testing.assert_array_equal(source[:, : size[0], : size[1]], images)


def test_padding_reflects() -> None:
    images = np.arange(18, dtype=np.uint8)[None, :, None, None] * np.ones((1, 18, 16, 3), dtype=np.uint8)
    assert source_feeds(INVERTER, images)["source"][0, :, 0, 0].tolist() == [*range(18), 16, 15]


@pytest.mark.parametrize("size", [(MAXIMUM + 1, 16), (16, MAXIMUM + 1)])
def test_too_large_for_the_model(size: tuple[int, int]) -> None:
    with pytest.raises(ImageSizeError, match="larger than the 320×320 pixels"):
        source_feeds(INVERTER, noise(1, *size, 3))


def test_padding_never_leaves_the_models_maximum() -> None:
    odd = with_interface(INVERTER, size=SizeLimits.square(multiple=8, minimum=3, maximum=30))
    assert source_feeds(odd, noise(1, 24, 1, 3))["source"].shape == (1, 24, 8, 3)
    with pytest.raises(ImageSizeError, match="24×24 pixels"):
        source_feeds(odd, noise(1, 25, 8, 3))


def test_the_wrong_verb_is_refused_with_the_models_kind() -> None:
    with pytest.raises(UnsupportedError, match="digits is a generator with the inputs latent: it does not translate"):
        source_feeds(GENERATOR, noise(1, 16, 16, 3))
    with pytest.raises(UnsupportedError, match="invert is a translator with the inputs source: it does not generate"):
        latent_feeds(INVERTER, 1, 0)


LATENT = np.zeros((2, LATENT_DIM), np.float32)


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "takes the inputs latent and got none"),
        ({"latent": LATENT, "label": LATENT}, "got label, latent"),
        ({"latent": LATENT.astype(np.float64)}, "must be float32"),
        ({"latent": LATENT[:, :3]}, r"must be float32 \[batch, 6\] and is float32 \[2, 3\]"),
        ({"latent": LATENT[0]}, "must be float32"),
        ({"latent": LATENT[:0]}, "must be float32"),
        ({"latent": LATENT + np.float32("nan")}, "NaN"),
    ],
)
def test_check_feeds(feeds: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(BadRequestError, match=message):
        check_feeds(GENERATOR, feeds)


def test_check_feeds_of_several_inputs() -> None:
    label = TensorSpec("label", "int64", ("batch",), "class", (0, 9))
    conditional = with_interface(GENERATOR, inputs=(*GENERATOR.interface.inputs, label))
    check_feeds(conditional, {"latent": LATENT, "label": np.array([0, 9])})
    with pytest.raises(BadRequestError, match="different batch sizes"):
        check_feeds(conditional, {"latent": LATENT, "label": np.array([0])})
    with pytest.raises(BadRequestError, match=r"label must lie in \[0, 9\]"):
        check_feeds(conditional, {"latent": LATENT, "label": np.array([0, 10])})
    with pytest.raises(UnsupportedError, match="the inputs latent, label"):
        latent_feeds(conditional, 1, 0)


def test_the_online_service_and_the_local_model_agree() -> None:
    service = ModelService(INVERTER, FakeEngine().submit, Limits())
    image = noise(33, 18, 3)
    online = asyncio.run(service.translate(image[None]))
    np.testing.assert_array_equal(online[0], 255 - image)
    np.testing.assert_array_equal(LocalModel(INVERTER, FakeEngine()).translate(image), 255 - image)
    np.testing.assert_array_equal(asyncio.run(service.infer({"source": image[None]}))["image"], online)

    online = asyncio.run(ModelService(GENERATOR, FakeEngine().submit, Limits()).generate(5, 3))
    np.testing.assert_array_equal(LocalModel(GENERATOR, FakeEngine()).generate(5, 3), online)


def test_images_are_padded_in_a_thread_and_not_on_the_event_loop() -> None:
    images = noise(1, 17, 18, 3).view(Traced)
    asyncio.run(ModelService(INVERTER, FakeEngine().submit, Limits()).translate(images))
    assert images.threads
    assert threading.current_thread() not in images.threads


def test_the_service_limits_the_images_of_a_request() -> None:
    limits = Limits(images=2)
    with pytest.raises(TooLargeError, match="3 images were asked for and the limit is 2"):
        asyncio.run(ModelService(GENERATOR, FakeEngine().submit, limits).generate(3, 0))
    with pytest.raises(TooLargeError):
        asyncio.run(ModelService(INVERTER, FakeEngine().submit, limits).infer({"source": noise(3, 16, 16, 3)}))


def test_the_local_model_runs_many_images_in_parts() -> None:
    engine = FakeEngine()
    images = LocalModel(GENERATOR, engine).generate(40, seed=1, first=2)
    assert images.shape == (40, 8, 8, 3)
    assert max(shape[0] for shape in engine.shapes) == 16
    np.testing.assert_array_equal(images[5], LocalModel(GENERATOR, engine).generate(1, seed=1, first=7)[0])


def test_the_local_model_runs_large_images_one_by_one() -> None:
    engine = FakeEngine()
    large = with_interface(INVERTER, size=SizeLimits.square(4, 16, 1024))
    images = noise(3, 1024, 1024, 3)
    np.testing.assert_array_equal(LocalModel(large, engine).translate(images), 255 - images)
    assert engine.shapes == [(1, 1024, 1024, 3)] * 3


@pytest.mark.parametrize(
    ("manifest", "shape"), [(GENERATOR, (1, LATENT_DIM)), (INVERTER, (1, 16, 16, 3))], ids=["generator", "translator"]
)
def test_warm_up_runs_the_smallest_request(manifest: object, shape: tuple[int, ...]) -> None:
    engine = FakeEngine()
    warm_up(engine, manifest)  # type: ignore[arg-type]
    assert engine.shapes == [shape]


def test_local_load_runs_real_graphs(repository: Path) -> None:
    images = LocalModel.load(repository / "digits", "cpu", threads=1).generate(20, seed=4)
    assert images.shape == (20, 8, 8, 3)
    assert images.std() > 10
    np.testing.assert_array_equal(images[17:], LocalModel.load(repository / "digits" / "1", "cpu").generate(3, 4, 17))
    photo = noise(3, 255, 257, 3)
    np.testing.assert_array_equal(LocalModel.load(repository / "invert", "cpu").translate(photo), 255 - photo)
