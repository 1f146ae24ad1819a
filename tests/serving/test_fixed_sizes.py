"""Translators of one size and graphs of one image at a time: smaller images are padded, many are run one by one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from export.interface import AxisLimits, SizeLimits
from serving import artifacts, codec
from serving.batcher import Batcher
from serving.batching import Tensors
from serving.config import Batching, Limits
from serving.engine import OrtEngine
from serving.errors import ImageSizeError
from serving.feeds import check, latents, pad
from serving.local_model import LocalModel
from serving.open_inference import HEADER_LENGTH, pack, unpack_outputs
from serving.service import ModelService, batching_of
from tests.serving.apps import server
from tests.serving.fakes import FakeEngine
from tests.serving.forged import start_replica
from tests.serving.tiny import (
    Axes,
    generator_graph,
    generator_manifest,
    inverter_graph,
    inverter_manifest,
    with_interface,
    write,
)

SQUARE: Axes = ("batch", 256, 256, 3)
WIDE: Axes = ("batch", 32, 48, 3)
SINGLE: Axes = (1, 32, 48, 3)
MIXED: Axes = ("batch", "height", 48, 3)


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(14, 256, shape, dtype=np.uint8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[Axes, Path]:
    """Return the artifact of each shape."""
    return {
        axes: write(tmp_path_factory.mktemp("fixed"), inverter_graph(axes=axes), inverter_manifest(axes=axes))
        for axes in (SQUARE, WIDE, SINGLE, MIXED)
    }


class Served:
    """A model in its batcher, as in a replica. It records the shapes of the graph's inputs."""

    def __init__(self, folder: Path) -> None:
        artifact = artifacts.load(folder)
        self.manifest, self._engine = artifact.manifest, OrtEngine(artifact.model, "cpu", 1)
        self.shapes: list[tuple[int, ...]] = []

    def run(self, tensors: Tensors) -> Tensors:
        self.shapes += [array.shape for array in tensors.values()]
        return self._engine.run(tensors)

    async def _with_service(self, *requests: Tensors) -> list[Any]:
        batcher = Batcher(self.run, batching_of(self.manifest.interface, Batching()))
        service = ModelService(self.manifest, batcher.submit, Limits())
        return [outputs["image"] for outputs in await asyncio.gather(*map(service.run, requests))]

    def images(self, *requests: Tensors) -> list[Any]:
        """Return the images that the service makes of feeds that arrive at the same time."""
        return asyncio.run(self._with_service(*requests))


@pytest.mark.parametrize(
    ("axes", "size"),
    [
        (SQUARE, (256, 256)),
        (SQUARE, (200, 256)),
        (SQUARE, (256, 31)),
        (SQUARE, (1, 1)),
        (WIDE, (32, 48)),
        (WIDE, (17, 40)),
        (SINGLE, (32, 48)),
        (SINGLE, (9, 48)),
        (MIXED, (320, 48)),
        (MIXED, (33, 7)),
    ],
)
def test_translate_keeps_the_size_of_images_up_to_the_models(
    folders: dict[Axes, Path], axes: Axes, size: tuple[int, int]
) -> None:
    served, source = Served(folders[axes]), noise(1, *size, 3)
    np.testing.assert_array_equal(served.images({"source": source})[0], 255 - source)
    local = LocalModel.load(folders[axes], "cpu", threads=1)
    np.testing.assert_array_equal(local.translate(source[0]), 255 - source[0])


def test_pad_reflects_up_to_a_fixed_size() -> None:
    source = noise(1, 200, 256, 3)
    padded = pad(inverter_manifest(axes=SQUARE).interface, [], {"source": source})["source"]
    assert padded.shape == (1, 256, 256, 3)
    np.testing.assert_array_equal(padded[:, :200], source)
    np.testing.assert_array_equal(padded[:, 200:], source[:, 143:199][:, ::-1])


@pytest.mark.parametrize(
    ("axes", "size", "message"),
    [
        (SQUARE, (257, 256), "256×257 is larger than the 256×256 pixels that the model takes"),
        (SQUARE, (256, 300), "300×256 is larger than the 256×256 pixels"),
        (WIDE, (33, 48), "48×33 is larger than the 48×32 pixels"),
        (WIDE, (32, 49), "49×32 is larger than the 48×32 pixels"),
        (WIDE, (48, 32), "32×48 is larger than the 48×32 pixels"),
        (MIXED, (321, 48), "48×321 is larger than the 48×320 pixels"),
    ],
)
def test_translate_refuses_larger_images_with_the_size(axes: Axes, size: tuple[int, int], message: str) -> None:
    manifest = inverter_manifest(axes=axes)
    service = ModelService(manifest, FakeEngine().submit, Limits())
    with pytest.raises(ImageSizeError, match=message):
        asyncio.run(service.run({"source": noise(1, *size, 3)}))
    photo = codec.encode(noise(*size, 3), "png")
    response = server(manifests=[manifest]).post("/v2/models/invert/translate", content=photo)
    assert (response.status_code, response.json()["code"]) == (422, "image_size")
    assert message in response.json()["error"]


def test_fixed_size_is_served_over_http() -> None:
    client = server(manifests=[inverter_manifest(axes=WIDE)])
    assert client.get("/v2/models/invert").json()["inputs"][0]["shape"] == [-1, 32, 48, 3]
    small = noise(20, 30, 3)
    response = client.post("/v2/models/invert/translate", content=codec.encode(small, "png"))
    np.testing.assert_array_equal(codec.decode(response.content, 3, Limits()), 255 - small)
    content, headers = pack("inputs", {"source": small[None]}, {"source": True}, {})
    response = client.post("/v2/models/invert/infer", content=content, headers=headers)
    image = unpack_outputs(response.content, response.headers.get(HEADER_LENGTH))["image"]
    np.testing.assert_array_equal(image[0], 255 - small)


def test_graph_with_batch_one_gets_one_image_at_a_time(folders: dict[Axes, Path]) -> None:
    served, source = Served(folders[SINGLE]), noise(3, 20, 48, 3)
    sources = (source, source[:2], source[2:])
    for part, image in zip(sources, served.images(*({"source": part} for part in sources)), strict=True):
        np.testing.assert_array_equal(image, 255 - part)
    assert served.shapes == [(1, 32, 48, 3)] * 6
    np.testing.assert_array_equal(LocalModel.load(folders[SINGLE], "cpu").translate(source), 255 - source)


def test_graph_with_a_dynamic_batch_gets_all_images_at_once(folders: dict[Axes, Path]) -> None:
    served, source = Served(folders[WIDE]), noise(3, 20, 48, 3)
    np.testing.assert_array_equal(served.images({"source": source})[0], 255 - source)
    assert served.shapes == [(3, 32, 48, 3)]


def test_generator_with_batch_one_makes_many_images(tmp_path: Path) -> None:
    folder = write(tmp_path, generator_graph(batch=1), generator_manifest(batch=1))
    free = LocalModel.load(write(tmp_path, generator_graph(), generator_manifest("free")), "cpu", threads=1)
    expected = free.generate(4, seed=2)
    np.testing.assert_array_equal(LocalModel.load(folder, "cpu", threads=1).generate(4, seed=2), expected)
    served, one_by_one = Served(folder), [(1, 6)] * 4
    np.testing.assert_array_equal(served.images({"latent": latents(2, range(4), 6)})[0], expected)
    assert served.shapes == one_by_one


def test_generator_with_batch_four_makes_any_number_of_images(tmp_path: Path) -> None:
    folder = write(tmp_path, generator_graph(batch=4), generator_manifest(batch=4))
    free = LocalModel.load(write(tmp_path, generator_graph(), generator_manifest("free")), "cpu", threads=1)
    fixed, served = LocalModel.load(folder, "cpu", threads=1), Served(folder)
    for n in (1, 3, 4, 5, 8):
        expected = free.generate(n, seed=2)
        np.testing.assert_array_equal(fixed.generate(n, seed=2), expected)
        np.testing.assert_array_equal(served.images({"latent": latents(2, range(n), 6)})[0], expected)


def test_translator_with_batch_two_takes_any_number_of_images(tmp_path: Path) -> None:
    axes: Axes = (2, 32, 48, 3)
    folder, source = write(tmp_path, inverter_graph(axes=axes), inverter_manifest(axes=axes)), noise(3, 20, 48, 3)
    np.testing.assert_array_equal(LocalModel.load(folder, "cpu", threads=1).translate(source), 255 - source)
    parts = [source[:1], source]
    for part, image in zip(parts, Served(folder).images(*({"source": part} for part in parts)), strict=True):
        np.testing.assert_array_equal(image, 255 - part)


@pytest.mark.parametrize(("batch", "size"), [(1, 1), ("batch", 16), (4, 4)])
def test_fixed_batch_limits_the_batch_size(batch: int | str, size: int) -> None:
    requested = Batching(max_pixels=500, timeout_s=3)
    limited = batching_of(inverter_manifest(axes=(batch, 32, 48, 3)).interface, requested)
    assert limited == requested.model_copy(update={"max_size": size})


@pytest.mark.parametrize("axes", [SQUARE, WIDE, SINGLE, MIXED], ids=str)
def test_replica_with_a_fixed_size_starts(folders: dict[Axes, Path], axes: Axes) -> None:
    start_replica(folders[axes], "invert")


def test_size_limits_of_height_and_width_are_separate() -> None:
    limits = SizeLimits(AxisLimits(4, 4, 28), AxisLimits(24, 24, 24))
    manifest = with_interface(inverter_manifest(), size=limits)
    assert pad(manifest.interface, [], {"source": noise(1, 27, 3, 3)})["source"].shape == (1, 28, 24, 3)
    with pytest.raises(ImageSizeError, match="24×29 is larger than the 24×28 pixels"):
        check(manifest.interface, {"source": noise(1, 29, 24, 3)})
