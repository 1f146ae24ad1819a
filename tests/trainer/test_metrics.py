"""Metrics where their value is known, and merged over workers."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from numpy.typing import NDArray

from trainer import registry
from trainer.data.digits import Digits
from trainer.errors import DataError
from trainer.evaluate import evaluate
from trainer.metrics.base import Metric
from trainer.metrics.moments import Moments, frechet_distance
from trainer.metrics.paired_l1 import AffineFit, apply_maps
from trainer.registry import MetricComponent
from zorse_common.files import write_image

Floats = NDArray[np.float64]


def _features(n: int, seed: int) -> Floats:
    """Correlated features [n, 6] with a mean of their own."""
    draw = np.random.default_rng(seed)
    features: Floats = draw.normal(size=(n, 6)) @ draw.normal(size=(6, 6)) + draw.normal(size=6)
    return features


def test_moments_merged_from_parts_are_those_of_the_whole() -> None:
    # A mean that is large beside the spread, where Σ x xᵀ − n m mᵀ would lose half of the digits.
    features = _features(100, 3) + 1e6
    whole = Moments.of(features)
    merged = Moments.of(features[:0])
    for part in np.split(features, [1, 1, 30, 90]):
        merged = merged.merged(Moments.of(part))
    assert merged.count == 100
    np.testing.assert_allclose(merged.mean, features.mean(0), rtol=1e-15)
    np.testing.assert_allclose(merged.covariance, np.cov(features, rowvar=False), rtol=1e-8)
    np.testing.assert_allclose(whole.covariance, np.cov(features, rowvar=False), rtol=1e-8)


def test_frechet_distance_is_the_published_formula() -> None:
    one, two = _features(40, 0), _features(70, 1)
    covariances = np.cov(one, rowvar=False), np.cov(two, rowvar=False)
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
    expected = np.square(one.mean(0) - two.mean(0)).sum() + np.trace(covariances[0] + covariances[1] - 2 * root.real)
    assert frechet_distance(Moments.of(one), Moments.of(two)) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(Moments.of(two), Moments.of(one)) == pytest.approx(expected, rel=1e-12)
    in_parts = Moments.of(one[:7]).merged(Moments.of(one[7:]))
    assert frechet_distance(in_parts, Moments.of(two)) == pytest.approx(expected, rel=1e-12)


def test_frechet_distance_in_closed_form() -> None:
    features = _features(40, 2)
    moments = Moments.of(features)
    assert frechet_distance(moments, moments) == pytest.approx(0, abs=1e-12)
    assert frechet_distance(moments, Moments.of(features + 3)) == pytest.approx(6 * 3**2, rel=1e-12)
    # Around 0, twice as wide: the means are equal, and the covariance's root differs by itself.
    centred = features - features.mean(0)
    expected = float(np.trace(np.cov(centred, rowvar=False)))
    assert frechet_distance(Moments.of(centred), Moments.of(2 * centred)) == pytest.approx(expected, rel=1e-12)


def test_frechet_distance_is_exact_where_most_features_are_constant() -> None:
    one, two = (np.pad(_features(40, seed) * 100, ((0, 0), (0, 60))) for seed in (0, 1))
    expected = frechet_distance(Moments.of(one[:, :6]), Moments.of(two[:, :6]))
    assert frechet_distance(Moments.of(one), Moments.of(two)) == pytest.approx(expected, rel=1e-12)


def test_frechet_distance_of_fewer_images_than_features() -> None:
    one = Moments.of([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    two = Moments.of([[0.0, 1.0, 0.0], [0.0, 5.0, 0.0]])
    # Variances 2 and 8 along different axes have no root in common; the means are 1 and 3 apart.
    assert frechet_distance(one, two) == pytest.approx(1 + 9 + 2 + 8)


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_digits_frechet_of_real_digits_is_that_of_the_real_split() -> None:
    digits = Digits(Digits.Config(), seed=0).labelled("train")[0]
    scores = _scores(digits)
    assert scores["frechet_distance"] == scores["frechet_distance_real_split"] > 0
    assert scores["classes_covered"] == 10
    assert [scores[f"class_share_{digit}"] for digit in range(10)] == pytest.approx([0.1] * 10, abs=0.005)
    assert scores["mean_confidence"] > 0.95
    parts = [_digits_metric() for _ in range(3)]
    for part, images in zip(parts, np.split(digits, [700, 701]), strict=True):
        for batch in np.array_split(images, 3):
            part.update(batch)
    for part in parts[1:]:
        parts[0].merge(pickle.loads(pickle.dumps(part.state())))
    # The classifier's own float32 sums differ with the size of a batch.
    assert parts[0].compute() == pytest.approx(scores, rel=1e-5)
    black = _scores(np.zeros((20, 32, 32, 1), dtype=np.uint8))
    assert black["frechet_distance"] > 10 * scores["frechet_distance"]
    assert black["classes_covered"] == 1


def _digits_metric() -> Metric:
    metric: Metric = registry.build(registry.resolve("metric", {"type": "digits_frechet"}), seed=0)
    return metric


def _scores(digits: NDArray[np.uint8]) -> dict[str, float]:
    metric = _digits_metric()
    metric.update(digits)
    return metric.compute()


def test_digits_frechet_refuses_other_images_and_too_few() -> None:
    with pytest.raises(DataError, match="digits_frechet needs grey images of 32x32, but these are 16x16x3"):
        _digits_metric().update(np.zeros((2, 16, 16, 3), dtype=np.uint8))
    with pytest.raises(DataError, match="digits_frechet needs at least 2 images, but there were 0"):
        _digits_metric().compute()


def _maps(source: Floats, truth: Floats) -> Floats:
    fit = AffineFit(source.shape[1:])
    for pair in zip(source, truth, strict=True):
        fit.add(*pair)
    return fit.maps()


def test_affine_fit_recovers_a_known_map_of_colours() -> None:
    draw = np.random.default_rng(0)
    source, other = draw.uniform(-1, 1, (20, 4, 5, 3)), draw.uniform(-1, 1, (4, 5, 3))
    # Each position has another map, whose colours stay inside -1..1.
    maps, offsets = draw.uniform(-0.25, 0.25, (4, 5, 3, 3)), draw.uniform(-0.2, 0.2, (4, 5, 3))

    def mapped(images: Floats) -> Floats:
        return np.einsum("...hwc,hwcd->...hwd", images, maps) + offsets

    fitted = _maps(source, mapped(source))
    np.testing.assert_allclose(apply_maps(fitted, other), mapped(other), rtol=0, atol=1e-12)


def test_affine_fit_maps_colours_that_never_change_to_the_mean() -> None:
    draw = np.random.default_rng(1)
    source = np.full((30, 2, 2, 3), 0.5)
    truth = draw.uniform(-0.5, 0.5, (30, 2, 2, 3))
    np.testing.assert_allclose(apply_maps(_maps(source, truth), source[0]), truth.mean(0), rtol=0.01)


def _write_pairs(folder: Path, sources: NDArray[np.uint8], truths: NDArray[np.uint8]) -> None:
    for name, images in (("source", sources), ("truth", truths)):
        for index, image in enumerate(images):
            write_image(folder / name / f"{index}.png", image)


def _config(scored: Path, fitted: Path) -> MetricComponent:
    folders = {f"{key}{name}": str(root / name) for key, root in (("", scored), ("fit_", fitted))
               for name in ("source", "truth")}  # fmt: skip
    return registry.resolve("metric", {"type": "paired_l1", **folders})


@pytest.fixture
def negatives(tmp_path: Path) -> tuple[MetricComponent, NDArray[np.uint8]]:
    """A `paired_l1` section whose truth is the negative of the source, and the four source images."""
    draw = np.random.default_rng(0)
    sources = draw.integers(0, 256, (12, 4, 4, 3), dtype=np.uint8)
    for name, images in (("scored", sources[:4]), ("fitted", sources[4:])):
        _write_pairs(tmp_path / name, images, 255 - images)
    return _config(tmp_path / "scored", tmp_path / "fitted"), sources[:4]


def test_paired_l1_of_a_negative(negatives: tuple[MetricComponent, NDArray[np.uint8]], tmp_path: Path) -> None:
    config, sources = negatives
    truth = 255 - sources
    copied = float(np.abs(sources / 127.5 - truth / 127.5).mean())
    expected = {"l1_identity": copied, "l1_affine": 0, "l1_translated": 0}
    metric: Metric = registry.build(config, seed=0)
    metric.update(truth[:1])
    metric.update(truth[1:])
    assert metric.compute() == pytest.approx(expected, abs=1e-9)
    assert evaluate(str(tmp_path / "scored" / "truth"), config) == metric.compute()
    scores = evaluate(str(tmp_path / "scored" / "source"), config)
    assert scores["l1_translated"] == pytest.approx(scores["l1_identity"], rel=1e-12)


def test_paired_l1_merges_workers_whose_images_interleave(
    negatives: tuple[MetricComponent, NDArray[np.uint8]],
) -> None:
    config, sources = negatives
    whole, first, second, third = (registry.build(config, seed=0) for _ in range(4))
    whole.update(sources)
    first.update(sources[[3, 1]], None, np.array([3, 1]))
    second.update(sources[[0, 2]], None, np.array([0, 2]))
    first.merge(pickle.loads(pickle.dumps(second.state())))
    first.merge(third.state())
    assert first.compute() == whole.compute()
    with pytest.raises(DataError, match="image 0 was scored twice: give each worker the numbers of its own images"):
        first.merge(second.state())


def test_paired_l1_refuses_images_that_are_missing_repeated_or_of_another_shape(
    negatives: tuple[MetricComponent, NDArray[np.uint8]],
) -> None:
    config, images = negatives
    metric: Metric = registry.build(config, seed=0)
    metric.update(images[:3])
    with pytest.raises(DataError, match=r"3 translated images, but .*truth holds 4 images: image 3 is the first"):
        metric.compute()
    with pytest.raises(DataError, match="image 2 was scored twice"):
        metric.update(images[:1], None, np.array([2]))
    with pytest.raises(DataError, match=r"translated image 3 is \(3, 4, 3\), its truth \(4, 4, 3\)"):
        metric.update(images[:1, :3])
    metric.update(images[3:])
    with pytest.raises(DataError, match=r"image 4 has no truth: .*truth holds 4 images"):
        metric.update(images[:1])


def test_paired_l1_refuses_pairs_that_do_not_fit(tmp_path: Path) -> None:
    images = np.zeros((2, 4, 4, 3), dtype=np.uint8)
    _write_pairs(tmp_path / "good", images, images)
    _write_pairs(tmp_path / "missing", images, images[:1])
    _write_pairs(tmp_path / "other", images[:, :3], images[:, :3])
    with pytest.raises(DataError, match=r"missing/source holds 2 images \(4, 4, 3\), but .*truth 1 images \(4, 4, 3\)"):
        registry.build(_config(tmp_path / "missing", tmp_path / "good"), seed=0)
    with pytest.raises(DataError, match=r"other/source and .*good/source differ in shape"):
        registry.build(_config(tmp_path / "good", tmp_path / "other"), seed=0)
    write_image(tmp_path / "good" / "truth" / "1.png", images[0, :3])
    metric: Metric = registry.build(_config(tmp_path / "good", tmp_path / "good"), seed=0)
    with pytest.raises(DataError, match=r"good/truth differ in size or channels"):
        metric.update(images)
