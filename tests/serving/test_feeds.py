"""Feeds: inputs are checked, source images padded, output images cropped, and classes become labels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.interface import SizeLimits
from serving.errors import BadRequestError, ImageSizeError, UnsupportedError
from serving.feeds import check, class_labels, crop, latent_dim, pad, source_feeds
from tests.serving.tiny import (
    LATENT_DIM,
    MAXIMUM,
    conditional_manifest,
    generator_manifest,
    inverter_manifest,
    upscaler_manifest,
    with_interface,
)

GENERATOR, INVERTER = generator_manifest().interface, inverter_manifest().interface
CONDITIONAL, UPSCALER = conditional_manifest().interface, upscaler_manifest().interface
RNG = np.random.default_rng(0)
LATENT = np.zeros((2, LATENT_DIM), np.float32)


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(
    ("size", "padded"),
    [((16, 16), (16, 16)), ((255, 257), (256, 288)), ((1, 1), (16, 16)), ((3, 104), (16, 104)), ((320, 17), (320, 20))],
)
def test_pad_goes_up_to_the_ladder(size: tuple[int, int], padded: tuple[int, int]) -> None:
    images = noise(2, *size, 3)
    source = pad(INVERTER, [], {"source": images})["source"]
    assert source.shape == (2, *padded, 3)
    np.testing.assert_array_equal(source[:, : size[0], : size[1]], images)


def test_pad_reflects() -> None:
    images = np.arange(18, dtype=np.uint8)[None, :, None, None] * np.ones((1, 18, 16, 3), dtype=np.uint8)
    assert pad(INVERTER, [], {"source": images})["source"][0, :, 0, 0].tolist() == [*range(18), 16, 15]


def test_pad_goes_up_to_the_smallest_bucket() -> None:
    images = noise(2, 30, 17, 3)
    assert pad(INVERTER, [(1, 64, 32, 3), (8, 32, 32, 3)], {"source": images})["source"].shape == (2, 32, 32, 3)


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 100), st.integers(0, 100))
def test_pad_reflects_as_numpy_does(height: int, width: int, bottom: int, right: int) -> None:
    images, bucket = noise(2, height, width, 3), (1, height + bottom, width + right, 3)
    expected = np.pad(images, ((0, 0), (0, bottom), (0, right), (0, 0)), mode="reflect")
    np.testing.assert_array_equal(pad(INVERTER, [bucket], {"source": images})["source"], expected)


def test_pad_takes_images_that_are_not_contiguous() -> None:
    images = noise(2, 3, 18, 34).transpose(0, 2, 3, 1)
    source = pad(INVERTER, [], {"source": images})["source"]
    np.testing.assert_array_equal(source, np.pad(images, ((0, 0), (0, 2), (0, 2), (0, 0)), mode="reflect"))
    assert source.flags.c_contiguous


def test_pad_never_exceeds_the_maximum() -> None:
    odd = with_interface(inverter_manifest(), size=SizeLimits.square(multiple=8, minimum=3, maximum=30)).interface
    assert pad(odd, [], {"source": noise(1, 24, 1, 3)})["source"].shape == (1, 24, 8, 3)
    with pytest.raises(ImageSizeError, match="24×24 pixels"):
        check(odd, {"source": noise(1, 25, 8, 3)})


def test_crop_scales_the_size_of_the_source() -> None:
    feeds = {"source": noise(1, 17, 21, 3)}
    outputs = {"image": noise(1, 40, 48, 3), "mask": noise(1, 40, 48, 1)}
    cropped = crop(UPSCALER, feeds, outputs)
    assert (cropped["image"].shape, cropped["mask"].shape) == ((1, 34, 42, 3), (1, 40, 48, 1))
    assert crop(GENERATOR, {"latent": LATENT}, outputs) is outputs


@pytest.mark.parametrize("size", [(MAXIMUM + 1, 16), (16, MAXIMUM + 1)])
def test_check_refuses_images_that_are_too_large_for_the_model(size: tuple[int, int]) -> None:
    with pytest.raises(ImageSizeError, match="larger than the 320×320 pixels that the model takes"):
        check(INVERTER, {"source": noise(1, *size, 3)})


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
def test_check_names_what_is_wrong_with_an_input(feeds: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(BadRequestError, match=message):
        check(GENERATOR, feeds)


def test_check_compares_several_inputs() -> None:
    check(CONDITIONAL, {"latent": LATENT, "label": np.array([0, 2])})
    with pytest.raises(BadRequestError, match="different batch sizes"):
        check(CONDITIONAL, {"latent": LATENT, "label": np.array([0])})
    with pytest.raises(BadRequestError, match=r"label must lie in \[0, 2\]"):
        check(CONDITIONAL, {"latent": LATENT, "label": np.array([0, 3])})


def test_feeds_of_the_wrong_kind_of_model_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="model is a generator with the inputs latent: it does not translate"):
        source_feeds(GENERATOR, noise(1, 16, 16, 3))
    with pytest.raises(UnsupportedError, match="model is a translator with the inputs source: it does not generate"):
        latent_dim(INVERTER, "generate")


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (None, [2, 0, 1]),
        ("dog", [1, 1, 1]),
        (2, [2, 2, 2]),
        ("2", [2, 2, 2]),
        (["owl", 0, "1"], [2, 0, 1]),
    ],
)
def test_class_labels_are_found_by_name_and_index(
    classes: str | int | list[str | int] | None, expected: object
) -> None:
    labels = class_labels(CONDITIONAL, classes, [5, 6, 7])
    assert labels is not None
    assert (labels.dtype, labels.tolist()) == (np.int64, expected)


def test_class_labels_prefer_a_name_to_an_index() -> None:
    digits = conditional_manifest(labels=("1", "0")).interface
    labels = class_labels(digits, ["1", 1, "0"], [0, 1, 2])
    assert labels is not None
    assert labels.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("dgo", r"no class 'dgo' \(did you mean dog\?\): the classes are cat, dog, owl"),
        (3, "no class 3: the model has the classes 0 to 2"),
        (-1, "no class -1"),
        ("9" * 5000, "the model has the classes 0 to 2"),
        ("1" * 5000, "there is no class 11111111111111111111: the model has the classes 0 to 2"),
        (["cat", "dog"], "2 labels for 3 images: give one label, or one for each image"),
    ],
)
def test_class_labels_refuse_what_is_not_a_class(classes: str | int | list[str | int], message: str) -> None:
    with pytest.raises(BadRequestError, match=message):
        class_labels(CONDITIONAL, classes, [0, 1, 2])


def test_class_labels_of_a_model_without_classes() -> None:
    assert class_labels(GENERATOR, None, [0]) is None
    with pytest.raises(UnsupportedError, match="the model has no classes: leave the label out"):
        class_labels(GENERATOR, "cat", [0])
