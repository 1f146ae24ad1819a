"""The ladder of sizes: what holds for every model, image and list of buckets."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.interface import AxisLimits, Interface, SizeLimits
from serving.sizes import STEPS, padded_size
from tests.serving.tiny import generator_manifest, inverter_manifest, with_interface

Sizes = tuple[int, int]
Buckets = list[tuple[int, int, int, int]]


@st.composite
def axis_limits(draw: st.DrawFn) -> AxisLimits:
    multiple = draw(st.sampled_from([1, 2, 3, 4, 8, 32, 256]))
    smallest = multiple * draw(st.integers(1, 40))
    minimum = smallest - draw(st.integers(0, multiple - 1))
    return AxisLimits(multiple, minimum, smallest + draw(st.integers(0, 4096)))


interfaces = st.builds(
    lambda height, width: with_interface(inverter_manifest(), size=SizeLimits(height, width)).interface,
    axis_limits(),
    axis_limits(),
)


def limits(interface: Interface) -> SizeLimits:
    assert interface.size is not None
    return interface.size


def images(interface: Interface) -> st.SearchStrategy[Sizes]:
    return st.tuples(*(st.integers(1, largest) for largest in limits(interface).largest))


def bucket_lists(interface: Interface) -> st.SearchStrategy[Buckets]:
    legal = images(interface).map(lambda image: (1, *limits(interface).legal(*image), 3))
    return st.lists(legal, max_size=4)


@settings(deadline=None)
@given(st.data(), interfaces)
def test_padded_size_holds_the_image_and_is_legal(data: st.DataObject, interface: Interface) -> None:
    image, buckets = data.draw(images(interface)), data.draw(bucket_lists(interface))
    padded = padded_size(interface, buckets, *image)
    assert padded[0] >= image[0]
    assert padded[1] >= image[1]
    assert limits(interface).legal(*padded) == padded


@settings(deadline=None)
@given(st.data(), interfaces)
def test_padded_size_is_idempotent(data: st.DataObject, interface: Interface) -> None:
    image, buckets = data.draw(images(interface)), data.draw(bucket_lists(interface))
    padded = padded_size(interface, buckets, *image)
    assert padded_size(interface, buckets, *padded) == padded


@settings(deadline=None)
@given(st.data(), interfaces)
def test_padded_size_rises_with_each_axis(data: st.DataObject, interface: Interface) -> None:
    image, other = data.draw(images(interface)), data.draw(images(interface))
    smaller = padded_size(interface, [], *map(min, image, other))
    larger = padded_size(interface, [], *map(max, image, other))
    assert smaller[0] <= larger[0]
    assert smaller[1] <= larger[1]


@settings(deadline=None)
@given(st.data(), interfaces)
def test_padded_size_rises_in_pixels_among_buckets(data: st.DataObject, interface: Interface) -> None:
    holding = (1, *limits(interface).legal(*data.draw(images(interface))), 3)
    buckets = data.draw(st.permutations([holding, *data.draw(bucket_lists(interface))]))
    larger = [data.draw(st.integers(1, size)) for size in holding[1:3]]
    smaller = [data.draw(st.integers(1, size)) for size in larger]
    assert math.prod(padded_size(interface, buckets, *smaller)) <= math.prod(padded_size(interface, buckets, *larger))


@settings(deadline=None)
@given(st.data(), interfaces)
def test_padded_size_wastes_at_most_one_step(data: st.DataObject, interface: Interface) -> None:
    image = data.draw(images(interface))
    for padded, legal in zip(padded_size(interface, [], *image), limits(interface).legal(*image), strict=True):
        assert padded <= legal * (1 + 1 / STEPS)


@settings(deadline=None, max_examples=30)
@given(interfaces)
def test_padded_size_has_few_values(interface: Interface) -> None:
    largest = limits(interface).largest[0]
    heights = {padded_size(interface, [], height, 1)[0] for height in range(1, largest + 1)}
    multiples = largest / limits(interface).height.multiple
    assert len(heights) <= STEPS * (math.log2(multiples) + 1)


@pytest.mark.parametrize(
    ("image", "padded"),
    [
        ((256, 256), (256, 256)),
        ((255, 257), (256, 288)),
        ((1, 1), (16, 16)),
        ((100, 60), (104, 60)),
        ((319, 1), (320, 16)),
    ],
)
def test_padded_size_of_photographs(image: Sizes, padded: Sizes) -> None:
    assert padded_size(inverter_manifest().interface, [], *image) == padded


BUCKETS: Buckets = [(8, 256, 256, 3), (1, 128, 192, 3), (1, 192, 128, 3)]


@pytest.mark.parametrize(
    ("image", "padded"),
    [
        ((100, 100), (128, 192)),
        ((129, 100), (192, 128)),
        ((150, 150), (256, 256)),
        ((128, 192), (128, 192)),
        ((257, 100), (288, 104)),
    ],
)
def test_padded_size_is_the_smallest_bucket_that_holds_the_image(image: Sizes, padded: Sizes) -> None:
    assert padded_size(inverter_manifest().interface, BUCKETS, *image) == padded


def test_padded_size_is_for_translators() -> None:
    with pytest.raises(TypeError, match="a generator has no source images"):
        padded_size(generator_manifest().interface, [], 16, 16)
