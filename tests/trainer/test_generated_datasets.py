"""The drawn and the bundled dataset, and the order in which a run draws its examples."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from trainer import registry
from trainer.data.base import DataConfig, Dataset, DataSpec, ImageSpec
from trainer.data.digits import Digits
from trainer.data.sampler import sample_index
from trainer.data.stripes import Stripes

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]
PAIRS = 200
# The rule of the stripes, written a second time.
STRIPE = np.array([26, 22, 30], dtype=np.uint8)
BANDS = np.add.outer(np.arange(32), np.arange(32)) % 4 < 2


def _stripes(seed: int = 0, images: int = 50) -> Stripes:
    return Stripes(Stripes.Config(images=images), seed=seed)


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    """Return the plain and the striped image of each held-out scene."""
    return list(zip(*_stripes().pairs(PAIRS), strict=True))


def _grey(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the pixels of bodies, bool [h, w]: the channels of a background's colour differ by 89 or more."""
    spread: NDArray[np.bool_] = np.ptp(image.astype(int), axis=2) <= 28
    return spread


def test_stripes_bodies_cover_between_0_35_and_0_5_of_the_pixels(
    pairs: list[Pair],
) -> None:
    coverage = [_grey(plain).mean() for plain, _ in pairs]
    assert 0.35 <= min(coverage) <= max(coverage) <= 0.5


def test_stripes_pairs_differ_enough_to_be_worth_learning(
    pairs: list[Pair],
) -> None:
    plain, striped = (np.stack(images) / 127.5 - 1 for images in zip(*pairs, strict=True))
    assert 0.15 <= np.abs(plain - striped).mean() <= 0.25


def test_stripes_have_exactly_one_true_translation(pairs: list[Pair]) -> None:
    for plain, striped in pairs:
        body = _grey(plain)
        assert len(np.unique(plain[body], axis=0)) == 1
        assert np.array_equal(np.where((body & BANDS)[..., None], STRIPE, plain), striped)
        painted = (striped == STRIPE).all(2)
        (coat,) = np.unique(striped[_grey(striped) & ~painted], axis=0)
        assert np.array_equal(np.where(painted[..., None], coat, striped), plain)


def test_stripes_scenes_are_in_one_set_only(pairs: list[Pair]) -> None:
    dataset = _stripes(images=500)
    plain, striped = ([dataset.example(number).images[domain] for number in range(500)] for domain in "AB")
    scenes = [*map(_striped, plain), *striped, *(image for _, image in pairs)]
    assert len({scene.tobytes() for scene in scenes}) == 500 + 500 + PAIRS


def _striped(plain: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.where((_grey(plain) & BANDS)[..., None], STRIPE, plain)


def test_stripes_scenes_are_ordered_but_not_drawn_by_the_seed() -> None:
    runs = [[_stripes(seed).example(number).images["A"].tobytes() for number in range(50)] for seed in (0, 1)]
    assert runs[0] != runs[1]
    assert sorted(runs[0]) == sorted(runs[1])
    first, second = (_stripes(seed).held_out("B", 3) for seed in (0, 1))
    assert [image.tolist() for image in first] == [image.tolist() for image in second]
    assert _stripes().held_out("A", 0) == []


@pytest.mark.parametrize(
    ("section", "spec"),
    [
        ({"type": "stripes"}, DataSpec({"A": ImageSpec(32, 3), "B": ImageSpec(32, 3)})),
        ({"type": "digits"}, DataSpec({"image": ImageSpec(32, 1)}, classes=10)),
        ({"type": "digits", "size": 28}, DataSpec({"image": ImageSpec(28, 1)}, classes=10)),
    ],
)
def test_dataset_examples_are_those_of_its_spec(section: dict[str, Any], spec: DataSpec) -> None:
    config = registry.resolve("data", section)
    dataset: Dataset = registry.build(config, seed=0)
    assert isinstance(config, DataConfig)
    assert config.spec() == dataset.spec == spec
    examples = [dataset.example(number) for number in (0, max(map(dataset.count, spec.domains)))]
    for domain, image_spec in spec.domains.items():
        shape = (image_spec.size, image_spec.size, image_spec.channels)
        images = [*(example.images[domain] for example in examples), *dataset.held_out(domain, 3)]
        assert [(image.shape, image.dtype.name) for image in images] == [(shape, "uint8")] * 5
        np.testing.assert_array_equal(dataset.example(0).images[domain], examples[0].images[domain])
    for example in examples:
        assert (example.label is None) == (spec.classes is None)
        assert example.label is None or spec.classes is None or 0 <= example.label < spec.classes


def test_digits_labels_are_those_of_their_images() -> None:
    digits = Digits(Digits.Config(), seed=5)
    images, labels = digits.labelled("train")
    label_of = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    examples = [digits.example(number) for number in range(200)]
    assert [example.label for example in examples] == [label_of[e.images["image"].tobytes()] for e in examples]


def test_digits_are_halved_by_class_independently_of_the_seed() -> None:
    (train, train_labels), (held_out, held_out_labels) = (
        Digits(Digits.Config(), seed=0).labelled(half) for half in ("train", "held_out")
    )
    assert np.bincount(train_labels).tolist() == np.bincount(held_out_labels).tolist() == [250] * 10
    halves = [{image.tobytes() for image in half} for half in (train, held_out)]
    assert [len(half) for half in halves] == [2500, 2500]
    assert halves[0].isdisjoint(halves[1])
    other = Digits(Digits.Config(), seed=1)
    assert np.array_equal(other.labelled("train")[0], train)
    assert np.array_equal(other.labelled("held_out")[0], held_out)
    assert {other.example(number).images["image"].tobytes() for number in range(2500)} == halves[0]
    assert np.array_equal(np.stack(other.held_out("image", 2500)), held_out)


def test_sample_index_draws_each_image_once_per_epoch() -> None:
    def epoch(seed: int, stream: str, index: int) -> tuple[int, ...]:
        return tuple(sample_index(seed, stream, number, 11) for number in range(11 * index, 11 * (index + 1)))

    orders = [epoch(*draw) for draw in itertools.product((0, 1), ("order/A", "order/B"), (0, 1, 10**12))]
    assert all(sorted(order) == list(range(11)) for order in orders)
    assert len(set(orders)) == len(orders)
    assert epoch(0, "order/A", 0) == orders[0]
