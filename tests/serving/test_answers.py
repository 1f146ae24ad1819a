"""Answers: formats by key and by Accept, layouts, and the facts in files and headers."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serving.answers import FORMATS, Layout, Origin, Pictures, finish, negotiated, preferred, stack
from serving.codec import NPY, ZIP, File
from serving.errors import BadRequestError, NotAcceptableError, UnsupportedError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (5, 8, 6, 3), dtype=np.uint8)
ORIGIN = Origin("digits", 3, "cafe")
TYPES = ("image/png", "image/jpeg", "image/webp", NPY, ZIP)
FORMAT_NAMES = ("png", "jpeg", "webp", "npy")


def pictures(images: Any = IMAGES, **fields: Any) -> Pictures:
    return Pictures(images, [f"image_{number}" for number in range(len(images))], {"seed": 7}, **fields)


@pytest.mark.parametrize("file_format", ["png", "webp"])
def test_finish_of_one_image_is_that_image(file_format: str) -> None:
    file = finish(pictures(IMAGES[:1]), ORIGIN, file_format)
    assert file.media_type == f"image/{file_format}"
    np.testing.assert_array_equal(file.value(), IMAGES[0])


def test_finish_makes_a_grid_of_several_images() -> None:
    assert finish(pictures(), ORIGIN).value().shape == (16, 18, 3)
    strip = finish(pictures(columns=5), ORIGIN).value()
    np.testing.assert_array_equal(strip, np.concatenate(list(IMAGES), axis=1))


def test_finish_makes_a_zip_or_an_array_with_every_image() -> None:
    for file_format in ("png", "webp", "npy"):
        file = finish(pictures(), ORIGIN, file_format, "zip")
        assert file.media_type == ZIP
        np.testing.assert_array_equal(file.value(), IMAGES)
    file = finish(pictures(layout="zip"), ORIGIN, "npy")
    assert file.media_type == NPY
    np.testing.assert_array_equal(file.value(), IMAGES)


def test_finish_of_images_of_several_sizes_is_a_zip_alone() -> None:
    sizes = [IMAGES[0], IMAGES[1, :4]]
    values = finish(pictures(sizes, layout="zip"), ORIGIN).value()
    for value, image in zip(values, sizes, strict=True):
        np.testing.assert_array_equal(value, image)
    cases: tuple[tuple[str, Layout | None], ...] = (("png", "grid"), ("npy", None))
    for file_format, layout in cases:
        with pytest.raises(BadRequestError, match="different sizes, which do not fit into a grid or array: use layout"):
            finish(pictures(sizes), ORIGIN, file_format, layout)


def test_finish_refuses_layouts_that_a_format_has_not() -> None:
    with pytest.raises(BadRequestError, match="a jpeg holds one image and there are 5: use the layout grid or zip"):
        finish(pictures(), ORIGIN, "jpeg", "single")
    with pytest.raises(BadRequestError, match="a gif holds all images as its frames"):
        finish(pictures(), ORIGIN, "gif", "grid")
    with pytest.raises(UnsupportedError, match="float32, which no image file has: use the format npy, or infer"):
        finish(pictures(IMAGES.astype(np.float32)), ORIGIN, "webp", "zip")


def test_npy_holds_images_of_every_dtype() -> None:
    for dtype in (np.float32, np.uint16):
        np.testing.assert_array_equal(finish(pictures(IMAGES.astype(dtype)), ORIGIN, "npy").value(), IMAGES)


def test_stack_repeats_grey_beside_colour() -> None:
    both = stack([IMAGES[0, :, :, :1], IMAGES[1]])
    np.testing.assert_array_equal(both[0], IMAGES[0, :, :, :1].repeat(3, axis=2))
    np.testing.assert_array_equal(both[1], IMAGES[1])


def test_facts_are_in_every_file_and_in_the_headers() -> None:
    facts = {"model": "digits", "version": 3, "digest": "cafe", "seed": 7}
    headers = {"zorse-model": "digits", "zorse-version": "3", "zorse-digest": "cafe", "zorse-seed": "7"}
    assert finish(pictures(), ORIGIN).headers == headers
    with Image.open(io.BytesIO(finish(pictures(), ORIGIN).content)) as png:
        assert json.loads(png.text["Comment"]) == facts  # type: ignore[attr-defined]
    for file_format in ("jpeg", "webp"):
        with Image.open(io.BytesIO(finish(pictures(), ORIGIN, file_format).content)) as image:
            comment = image.getexif().get_ifd(0x8769)[0x9286]
            assert json.loads(comment.removeprefix(b"ASCII\0\0\0")) == facts
    with Image.open(io.BytesIO(finish(pictures(), ORIGIN, "gif").content)) as gif:
        assert json.loads(gif.info["comment"]) == facts
    with zipfile.ZipFile(io.BytesIO(finish(pictures(), ORIGIN, "png", "zip").content)) as bundle:
        assert json.loads(bundle.comment) == facts
        assert bundle.namelist() == [f"image_{number}.png" for number in range(5)]


def test_facts_that_are_lists_or_not_ascii_are_kept() -> None:
    listed = Pictures(IMAGES[:1], ["a"], {"tiles": [4, 1], "name": "Pferd ü"})
    file = finish(listed, ORIGIN)
    assert file.headers["zorse-tiles"] == "4, 1"
    with Image.open(io.BytesIO(file.content)) as png:
        assert json.loads(png.text["Comment"])["name"] == "Pferd ü"  # type: ignore[attr-defined]


def test_finish_of_a_file_adds_headers_alone() -> None:
    file = finish(File(b"[1]", FORMATS["json"], {"l1": [2.5]}), ORIGIN)
    assert (file.content, file.headers["zorse-l1"], file.headers["zorse-version"]) == (b"[1]", "2.5", "3")


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("*/*", "image/png"),
        ("image/*", "image/png"),
        ("image/jpeg", "image/jpeg"),
        ("IMAGE/JPEG", "image/jpeg"),
        ("image/webp, */*;q=0.8", "image/webp"),
        ("text/html,image/avif,image/webp,image/apng,*/*;q=0.8", "image/webp"),
        ("image/png;q=0.2, image/jpeg;q=0.9", "image/jpeg"),
        ("image/*;q=0.5, application/zip", ZIP),
        ("application/*", NPY),
        ("*/*, image/png;q=0", "image/jpeg"),
        ("image/png;q=high, image/webp;q=0.1", "image/webp"),
        ("image/jpeg; level=1 ; q=0.5, text/html", "image/jpeg"),
    ],
)
def test_preferred_follows_the_qualities_of_accept(accept: str, expected: str) -> None:
    assert preferred(accept, TYPES) == expected


@pytest.mark.parametrize("accept", ["text/html", "image/png;q=0", ",", "image", "audio/*;q=1, text/*"])
def test_preferred_refuses_and_lists_what_there_is(accept: str) -> None:
    with pytest.raises(NotAcceptableError, match="the answer can be image/png, image/jpeg, image/webp, application/x"):
        preferred(accept, TYPES)


def test_negotiated_leaves_the_decision_to_the_keys() -> None:
    for keys in ({"format": "png"}, {"layout": "zip"}):
        assert negotiated(keys, "text/html", FORMAT_NAMES, TYPES) == keys
    keys = {"n": 3, "layout": "grid"}
    assert negotiated(keys, "image/webp", FORMAT_NAMES, TYPES) == {**keys, "format": "webp"}
    assert negotiated({"n": 3}, ZIP, FORMAT_NAMES, TYPES) == {"n": 3, "layout": "zip"}
    assert negotiated({"n": 3}, "application/json", (), ("application/json",)) == {"n": 3}
    with pytest.raises(NotAcceptableError):
        negotiated({"n": 3}, "image/png", (), ("application/json",))
