"""The verbs on image files: several images, forms and base64, tiles, and cycles through a partner."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from pydantic import PrivateAttr

from export.feeds import Feeds
from export.interface import AxisLimits, Interface, SizeLimits
from serving import replica_connection
from serving.admission import Admission
from serving.batching import Tensors
from serving.client import Client
from serving.codec import File, encode
from serving.config import Limits
from serving.errors import BadRequestError, NotFoundError, TooLargeError, UnsupportedError
from serving.local_model import LocalModel
from serving.service import ModelService
from serving.verb import VERBS, SourceWork
from serving.verbs.cycle import error_of
from serving.verbs.translate import TranslateRequest
from tests.serving.apps import server, transport
from tests.serving.bad_verbs import png_header
from tests.serving.fakes import FakeEngine
from tests.serving.tiny import inverter_manifest, upscaler_manifest, with_interface
from trainer.data.resized_files import ResizedFiles, squash
from zorse_common.files import ImageFiles

INVERTER = inverter_manifest()
RNG = np.random.default_rng(0)
TRANSLATE = "/v2/models/invert/translate"


def noise(*size: int) -> np.ndarray:
    return RNG.integers(14, 256, (*size, 3), dtype=np.uint8)


SIZES = [(18, 21), (33, 40), (16, 16), (18, 21)]
PHOTOS = [noise(*size) for size in SIZES]
FILES = [encode(photo, "png") for photo in PHOTOS]
WIDE = noise(40, 700)


def value(response: httpx.Response) -> Any:
    assert response.status_code == 200, response.text
    return File(response.content, response.headers["content-type"]).value()


def test_translate_takes_several_images_of_several_sizes_in_every_form() -> None:
    encoded = [base64.b64encode(content).decode() for content in FILES]
    ways: list[dict[str, Any]] = [
        {"files": [("image", ("a.png", content)) for content in FILES]},
        {"files": [("images", ("a.png", content)) for content in FILES]},
        {"json": {"images": encoded}},
        {"json": {"image": encoded[0], "images": encoded[1:]}},
    ]
    for way in ways:
        response = server().post(TRANSLATE, **way)
        assert response.headers["content-type"] == "application/zip"
        for translated, photo in zip(value(response), PHOTOS, strict=True):
            np.testing.assert_array_equal(translated, 255 - photo)


def test_translate_takes_one_image_in_every_form() -> None:
    encoded = base64.b64encode(FILES[0]).decode()
    ways: list[dict[str, Any]] = [
        {"content": FILES[0]},
        {"files": {"image": ("a.png", FILES[0])}},
        {"json": {"image": encoded}},
        {"json": {"images": [encoded]}},
    ]
    contents = [server().post(TRANSLATE, **way).content for way in ways]
    assert len(set(contents)) == 1
    np.testing.assert_array_equal(File(contents[0], "image/png").value(), 255 - PHOTOS[0])


def test_translate_takes_keys_of_the_query_the_form_and_json() -> None:
    by_query = server().post(f"{TRANSLATE}?format=webp", content=FILES[0])
    by_form = server().post(TRANSLATE, files={"image": ("a.png", FILES[0])}, data={"format": "webp"})
    by_json = server().post(TRANSLATE, json={"image": base64.b64encode(FILES[0]).decode(), "format": "webp"})
    by_accept = server().post(TRANSLATE, content=FILES[0], headers={"Accept": "image/webp"})
    assert by_query.content == by_form.content == by_json.content == by_accept.content
    twice = server().post(f"{TRANSLATE}?format=png", files={"image": ("a.png", FILES[0])}, data={"format": "webp"})
    assert (twice.status_code, twice.json()["error"]) == (
        400,
        "the key format is in the query and in the body: leave one of them out",
    )


def test_translate_makes_grids_and_arrays_of_images_of_one_size() -> None:
    pair = [FILES[0], FILES[3]]
    client = Client("http://server", transport=transport())
    grid = client.call("translate", "invert", pair, layout="grid")
    array = client.call("translate", "invert", pair, format="npy")
    np.testing.assert_array_equal(grid, np.concatenate(list(array), axis=1))
    np.testing.assert_array_equal(array, 255 - np.stack([PHOTOS[0], PHOTOS[3]]))
    with pytest.raises(BadRequestError, match="the images have different sizes"):
        client.call("translate", "invert", FILES, layout="grid")


@pytest.mark.parametrize("file_format", ["png", "jpeg"])
def test_translate_resizes_images_as_training_does(file_format: str, tmp_path: Path) -> None:
    (tmp_path / "photo").write_bytes(encode(noise(90, 130), file_format))
    trained = ResizedFiles(ImageFiles(str(tmp_path)), squash, 40).read("photo", 3)
    response = server().post(f"{TRANSLATE}?size=40", content=(tmp_path / "photo").read_bytes())
    np.testing.assert_array_equal(255 - value(response), trained)


@pytest.mark.parametrize(("size", "shape"), [("20x48", (20, 48)), (24, (24, 24)), ("24", (24, 24))])
def test_translate_takes_a_number_or_height_and_width(size: object, shape: tuple[int, int]) -> None:
    encoded = base64.b64encode(encode(WIDE, "png")).decode()
    assert value(server().post(TRANSLATE, json={"image": encoded, "size": size})).shape == (*shape, 3)


@pytest.mark.parametrize("size", ["0", "x20", "20x", "20x30x3", "-4", "1e3", True, [20, 30], 123456])
def test_translate_refuses_other_sizes_in_one_line(size: object) -> None:
    response = server().post(TRANSLATE, json={"image": base64.b64encode(FILES[0]).decode(), "size": size})
    assert response.status_code == 422
    assert "size: give 256, or height and width as 256x512" in response.json()["error"]


def test_resized_images_count_with_the_size_that_the_model_gets() -> None:
    large = server().post(f"{TRANSLATE}?size=4000", content=FILES[0])
    assert (large.status_code, large.json()["error"][:12]) == (422, "4000×4000 is")
    assert value(server().post(f"{TRANSLATE}?size=40x700&tile=true", content=FILES[0])).shape == (40, 700, 3)


def test_images_of_a_request_are_limited_in_number_and_pixels_before_they_are_decoded() -> None:
    half = [content[: len(content) // 2] for content in FILES]
    for limits, error in (
        (Limits(images=3), "the request has 4 images and the limit is 3"),
        (Limits(pixels=2000), "the images have 2332 pixels in all and the limit is 2000: send fewer"),
    ):
        response = server(limits=limits).post(TRANSLATE, files=[("image", ("a.png", content)) for content in half])
        assert (response.status_code, response.json()["error"]) == (413, error)


def test_one_bad_image_of_several_fails_the_request() -> None:
    files = [("image", ("a.png", content)) for content in (FILES[0], b"no image", FILES[1])]
    response = server().post(TRANSLATE, files=files)
    assert (response.status_code, response.json()["code"]) == (415, "bad_image")


# Tiles


@pytest.mark.parametrize("key", ["tile=true", "overlap=32", "tile=true&overlap=0"])
def test_translate_tiles_what_is_larger_than_the_model_takes_and_says_so(key: str) -> None:
    engine = FakeEngine()
    client = server(submit=engine.submit)
    response = client.post(f"{TRANSLATE}?{key}", content=encode(WIDE, "png"))
    np.testing.assert_array_equal(value(response), 255 - WIDE)
    assert response.headers["zorse-tiles"] == "3"
    assert response.headers["zorse-overlap"] == ("0" if "overlap=0" in key else "32")
    assert engine.shapes == [(3, 40, 320, 3)]
    whole = client.post(f"{TRANSLATE}?{key}", content=FILES[0])
    assert "zorse-tiles" not in whole.headers


def test_translate_refuses_large_images_without_tiles_before_they_are_decoded() -> None:
    half = encode(WIDE, "png")[:100]
    response = server().post(TRANSLATE, content=half)
    assert (response.status_code, response.json()["code"]) == (422, "image_size")
    assert "translate it in tiles (tile=true)" in response.json()["error"]


def test_translate_blends_scaled_tiles() -> None:
    model = LocalModel(upscaler_manifest(), FakeEngine(scale=2))
    translated = model.call("translate", encode(WIDE, "png"), overlap=16)
    np.testing.assert_array_equal(translated, (255 - WIDE).repeat(2, axis=0).repeat(2, axis=1))


def test_translate_limits_the_pixels_of_a_blended_image() -> None:
    model = LocalModel(upscaler_manifest(scale=16), FakeEngine(scale=16))
    with pytest.raises(TooLargeError, match="the translated image would have 71680000 pixels and may have 67108864"):
        model.call("translate", encode(np.zeros((400, 700, 3), np.uint8), "png"), tile=True)


def test_tiles_count_as_images() -> None:
    response = server(limits=Limits(images=2)).post(f"{TRANSLATE}?tile=true", content=encode(WIDE, "png"))
    assert (response.status_code, response.json()["error"]) == (
        413,
        "the images have 3 tiles and the limit is 2: scale them down",
    )


def test_tiles_are_counted_by_the_header_before_an_image_is_decoded() -> None:
    interface = with_interface(inverter_manifest(), size=SizeLimits.square(4, 16, 64)).interface
    request = TranslateRequest.parse({"overlap": 32})
    assert request.source_work(interface, [(64, 64), (128, 96)]) == (1 + 6, 7 * 64 * 64)
    with pytest.raises(TooLargeError, match="the images have 16129 tiles and the limit is 256"):
        request.check_images([png_header(4096, 4096)], interface, Limits())
    with pytest.raises(TooLargeError, match="may have 67108864: scale it down"):
        request.check_images([png_header(2**14, 2**13)], interface, Limits(images=10**6, pixels=2**30))


@pytest.mark.parametrize(("width", "height"), [(200, 32), (32, 200)])
def test_tiles_of_an_image_that_may_lie_on_its_side_are_those_of_the_worse_way(width: int, height: int) -> None:
    limits = SizeLimits(AxisLimits(4, 4, 32), AxisLimits(4, 4, 200))
    interface = with_interface(inverter_manifest(), size=limits).interface
    work = TranslateRequest.parse({"overlap": 0}).source_work(interface, [(width, height)])
    assert work == (7, 7 * 32 * 32)


class NotedAdmission(Admission):
    """Records the images and pixels of each request, and admits all."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[tuple[int, int]] = []

    def work(self, images: int, pixels: int, *more: float) -> AbstractContextManager[None]:
        self.noted.append((images, pixels))
        return super().work(images, pixels, *more)


class NotedRequest(TranslateRequest):
    """Records the threads that read the headers."""

    _threads: list[int] = PrivateAttr(default_factory=list)

    def check_images(self, contents: Sequence[bytes], interface: Interface, limits: Limits) -> SourceWork:
        self._threads.append(threading.get_ident())
        return super().check_images(contents, interface, limits)


@pytest.mark.parametrize(("files", "is_here"), [(1, True), (2, False)])
def test_tiles_are_admitted_and_headers_of_many_files_are_read_in_a_thread(files: int, is_here: bool) -> None:
    size = 300
    manifest = with_interface(inverter_manifest(), size=SizeLimits.square(4, 16, 64))
    admission, keys = NotedAdmission(), NotedRequest(tile=True)
    service = ModelService(manifest, FakeEngine().submit, Limits(), admission)
    photo = encode(np.random.default_rng(0).integers(14, 256, (size, size, 3), dtype=np.uint8), "png")
    asyncio.run(service.call_with_images(VERBS.find("translate"), keys, [photo] * files))
    ((images, pixels),) = admission.noted
    tiles = keys.tiling_of(manifest.interface, (size, size))
    count = files * tiles.count
    assert (images, pixels) == (count, 2 * count * tiles.tile[0] * tiles.tile[1])
    assert (keys._threads == [threading.get_ident()]) == is_here


# Cycles


class FakePartners:
    """A model `darker` that subtracts from 250; it records how long its calls may take."""

    default = "darker"

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[int, ...], float | None]] = []

    async def run_all(self, model: str, planned: Sequence[Feeds], seconds: float | None) -> list[Tensors]:
        if model != "darker":
            raise NotFoundError(f"there is no model {model}")
        self.calls += [(model, feeds["source"].shape, seconds) for feeds in planned]
        return [{"image": (250 - feeds["source"].astype(int)).clip(0).astype(np.uint8)} for feeds in planned]


def cycle(contents: Sequence[bytes], partners: FakePartners | None = None, **keys: Any) -> File:
    async def call() -> File:
        service = ModelService(INVERTER, FakeEngine().submit, Limits(), partners=partners)
        verb = VERBS.find("cycle")
        return await service.call_with_images(verb, verb.request.parse(keys), contents)

    return asyncio.run(call())


class TimedPartners(FakePartners):
    """Limits the time of a call, as Ray's partners do, which takes a task."""

    async def run_all(self, model: str, planned: Sequence[Feeds], seconds: float | None) -> list[Tensors]:
        async with asyncio.timeout(60):
            return await super().run_all(model, planned, seconds)


def test_cycle_that_begins_without_a_task_may_limit_the_time_of_its_partner() -> None:
    files: list[File] = []

    async def answer() -> None:
        service = ModelService(INVERTER, FakeEngine().submit, Limits(), partners=TimedPartners())
        verb = VERBS.find("cycle")
        files.append(await service.call_with_images(verb, verb.request.parse({}), FILES[:1]))

    async def play() -> None:
        begun: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        work = answer()

        def begin() -> None:
            try:
                begun.set_result(work.send(None))
            except Exception as error:
                begun.set_exception(error)

        asyncio.get_running_loop().call_soon(begin)
        await replica_connection._continued(work, await begun)

    asyncio.run(play())
    np.testing.assert_array_equal(files[0].value(), cycle(FILES[:1], FakePartners()).value())


def test_cycle_runs_the_partner_on_the_translated_images_and_measures() -> None:
    partners = FakePartners()
    file = cycle(FILES[:2], partners)
    assert file.media_type == "application/zip"  # the two have different sizes
    assert [(model, shape[1:3]) for model, shape, _ in partners.calls] == [("darker", size) for size in SIZES[:2]]
    back = [(250 - (255 - photo.astype(int))).clip(0) for photo in PHOTOS[:2]]
    errors = [np.abs(photo - image).mean() for photo, image in zip(PHOTOS[:2], back, strict=True)]
    assert [float(text) for text in file.headers["zorse-l1"].split(", ")] == pytest.approx(errors, abs=1e-3)
    images = cycle(FILES[:1], partners, layout="zip").value()
    np.testing.assert_array_equal(images, np.stack([PHOTOS[0], 255 - PHOTOS[0], back[0]]))
    row = cycle(FILES[:1], partners).value()
    np.testing.assert_array_equal(row, np.concatenate(list(images), axis=1))


def test_cycle_in_json_is_the_error_alone() -> None:
    file = cycle(FILES[:1], FakePartners(), format="json")
    (error,) = json.loads(file.content)["errors"]
    assert error == {"l1": pytest.approx(5, abs=0.1), "psnr": pytest.approx(34.15, abs=0.1)}
    assert file.headers["zorse-psnr"] == str(error["psnr"])
    accepted = server().post(
        "/v2/models/invert/cycle?partner=invert", content=FILES[0], headers={"Accept": "application/json"}
    )
    assert accepted.json() == {"errors": [{"l1": 0, "psnr": "inf"}]}


def test_cycle_names_what_is_missing() -> None:
    with pytest.raises(BadRequestError, match="no model is known that translates back what invert does: name it with"):
        cycle(FILES[:1])
    for partners in (None, FakePartners()):
        with pytest.raises(NotFoundError, match="there is no model zebra"):
            cycle(FILES[:1], partners, partner="zebra")
    with pytest.raises(BadRequestError, match="no model is known that translates back"):
        LocalModel(INVERTER, FakeEngine()).call("cycle", FILES[0])
    with pytest.raises(UnsupportedError, match="2 times as large, which do not cycle"):
        LocalModel(upscaler_manifest(), FakeEngine()).call("cycle", FILES[0])


def test_cycle_of_the_client_has_the_images_and_the_error() -> None:
    answer = Client("http://server", transport=transport()).cycle("invert", PHOTOS[0], "invert")
    np.testing.assert_array_equal(answer.there, 255 - PHOTOS[0])
    np.testing.assert_array_equal(answer.back, PHOTOS[0])
    assert (answer.l1, answer.psnr) == (0, float("inf"))


def test_error_of_equals_its_formulas() -> None:
    source, back = noise(9, 7), noise(9, 7)
    l1, psnr = error_of(source, back)
    difference = source.astype(float) - back
    assert l1 == pytest.approx(np.abs(difference).mean())
    assert psnr == pytest.approx(10 * np.log10(255**2 / (difference**2).mean()))
    with pytest.raises(UnsupportedError, match="9×7×3 and 9×7×1, cannot be compared"):
        error_of(source, back[:, :, :1])


# In this process


def test_local_model_takes_several_files_and_limits_them() -> None:
    model = LocalModel(INVERTER, FakeEngine())
    for translated, photo in zip(model.call("translate", FILES), PHOTOS, strict=True):
        np.testing.assert_array_equal(translated, 255 - photo)
    with pytest.raises(TooLargeError, match="the request has 10001 images and the limit is 10000"):
        model.call("translate", FILES[:1] * 10_001)
    with pytest.raises(BadRequestError, match="there is no image"):
        model.call("translate", [])
