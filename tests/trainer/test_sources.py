"""What the made and the bundled sources promise, and the order in which a run sees its images."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from trainer import registry
from trainer.data.digits import Digits
from trainer.data.sampler import sample_index
from trainer.data.stripes import Stripes
from trainer.registry import DataComponent

PAIRS = 200
# The rule of the stripes, written down a second time.
STRIPE = np.array([26, 22, 30], dtype=np.uint8)
BANDS = np.add.outer(np.arange(32), np.arange(32)) % 4 < 2


def _stripes(seed: int = 0, images: int = 50) -> Stripes:
    return Stripes(Stripes.Config(images=images), seed=seed)


@pytest.fixture(scope="module")
def pairs() -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Plain and striped image of each held-out scene."""
    return list(zip(*_stripes().pairs(PAIRS), strict=True))


def _grey(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The pixels of a coat: on backgrounds a colour's channels lie at least 89 apart."""
    spread: NDArray[np.bool_] = np.ptp(image.astype(int), axis=2) <= 28
    return spread


def test_a_body_covers_what_was_promised(pairs: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> None:
    coverage = [_grey(plain).mean() for plain, _ in pairs]
    assert 0.35 <= min(coverage) <= max(coverage) <= 0.5


def test_a_scenes_two_images_differ_enough_to_be_worth_learning(
    pairs: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]],
) -> None:
    plain, striped = (np.stack(images) / 127.5 - 1 for images in zip(*pairs, strict=True))
    assert 0.15 <= np.abs(plain - striped).mean() <= 0.25


def test_each_image_has_exactly_one_true_answer(pairs: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> None:
    for plain, striped in pairs:
        body = _grey(plain)
        assert len(np.unique(plain[body], axis=0)) == 1
        assert np.array_equal(np.where((body & BANDS)[..., None], STRIPE, plain), striped)
        painted = (striped == STRIPE).all(2)
        (coat,) = np.unique(striped[_grey(striped) & ~painted], axis=0)
        assert np.array_equal(np.where(painted[..., None], coat, striped), plain)


def test_no_scene_is_in_two_sets(pairs: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> None:
    source = _stripes(images=500)
    plain, striped = ([source.example(number).images[domain] for number in range(500)] for domain in "AB")
    scenes = [*map(_striped, plain), *striped, *(image for _, image in pairs)]
    assert len({scene.tobytes() for scene in scenes}) == 500 + 500 + PAIRS


def _striped(plain: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.where((_grey(plain) & BANDS)[..., None], STRIPE, plain)


def test_a_runs_seed_only_orders_the_scenes() -> None:
    runs = [[_stripes(seed).example(number).images["A"].tobytes() for number in range(50)] for seed in (0, 1)]
    assert runs[0] != runs[1]
    assert sorted(runs[0]) == sorted(runs[1])
    first, second = (_stripes(seed).held_out("B", 3) for seed in (0, 1))
    assert [image.tolist() for image in first] == [image.tolist() for image in second]
    assert _stripes().held_out("A", 0) == []


@pytest.mark.parametrize(
    ("section", "shape"),
    [
        (registry.resolve("data", {"type": "stripes"}), (32, 32, 3)),
        (registry.resolve("data", {"type": "digits"}), (32, 32, 1)),
        (registry.resolve("data", {"type": "digits", "size": 28}), (28, 28, 1)),
    ],
)
def test_images_are_of_eight_bits(section: DataComponent, shape: tuple[int, ...]) -> None:
    source = registry.build(section, seed=0)
    for domain in source.spec.domains:
        examples = [source.example(number) for number in (0, source.count(domain))]
        images = [*(example.images[domain] for example in examples), *source.held_out(domain, 3)]
        assert [(image.shape, image.dtype.name) for image in images] == [(shape, "uint8")] * 5


def test_digits_are_halved_by_class_the_same_way_in_every_run() -> None:
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


def test_every_image_is_seen_once_in_every_epoch() -> None:
    def epoch(seed: int, stream: str, index: int) -> tuple[int, ...]:
        return tuple(sample_index(seed, stream, number, 11) for number in range(11 * index, 11 * (index + 1)))

    orders = [epoch(*draw) for draw in itertools.product((0, 1), ("order/A", "order/B"), (0, 1, 10**12))]
    assert all(sorted(order) == list(range(11)) for order in orders)
    assert len(set(orders)) == len(orders)
    assert epoch(0, "order/A", 0) == orders[0]
