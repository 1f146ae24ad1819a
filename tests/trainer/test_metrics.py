"""Metrics where their value is known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from numpy.typing import NDArray

from trainer import registry
from trainer.config import MetricComponent
from trainer.data.digits import Digits
from trainer.errors import DataError
from trainer.metrics.digits_frechet import frechet_distance
from trainer.metrics.paired_l1 import affine_by_pixel
from zorse_common.files import write_image


def _features(n: int, seed: int) -> torch.Tensor:
    """Correlated features [n, 6] with a mean of their own."""
    draw = np.random.default_rng(seed)
    return torch.from_numpy(draw.normal(size=(n, 6)) @ draw.normal(size=(6, 6)) + draw.normal(size=6)).float()


def test_frechet_distance_is_the_published_formula() -> None:
    first, second = _features(40, 0), _features(70, 1)
    one, two = (features.double().numpy() for features in (first, second))
    covariances = np.cov(one, rowvar=False), np.cov(two, rowvar=False)
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
    expected = np.square(one.mean(0) - two.mean(0)).sum() + np.trace(covariances[0] + covariances[1] - 2 * root.real)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(second, first) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_in_closed_form() -> None:
    features = _features(40, 2)
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-5)
    assert frechet_distance(features, features + 3) == pytest.approx(6 * 3**2, rel=1e-6)
    # Around 0, twice as wide: the means are equal, and the covariance's root differs by itself.
    centred = features.double() - features.double().mean(0)
    assert frechet_distance(centred, 2 * centred) == pytest.approx(float(centred.T.cov().trace()), rel=1e-9)


def test_frechet_distance_of_fewer_images_than_features() -> None:
    one = torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    two = torch.tensor([[0.0, 1.0, 0.0], [0.0, 5.0, 0.0]])
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
def test_real_digits_score_as_real_digits_do() -> None:
    metric = registry.build(MetricComponent(type="digits_frechet"), seed=0)
    scores = metric(Digits(Digits.Config(), seed=0).labelled("train")[0])
    assert scores["frechet_distance"] == scores["frechet_distance_real_split"] > 0
    assert scores["classes_covered"] == 10
    assert scores["class_shares"] == pytest.approx([0.1] * 10, abs=0.005)
    assert scores["mean_confidence"] > 0.95
    nothing = metric(np.zeros((20, 32, 32, 1), dtype=np.uint8))
    assert nothing["frechet_distance"] > 10 * scores["frechet_distance"]
    assert nothing["classes_covered"] == 1
    with pytest.raises(DataError, match="at least 2 grey images of 32x32, but was given 2 of 16x16x3"):
        metric(np.zeros((2, 16, 16, 3), dtype=np.uint8))


def test_a_known_map_of_colours_is_recovered_exactly() -> None:
    draw = np.random.default_rng(0)
    source, given = draw.uniform(-1, 1, (20, 4, 5, 3)), draw.uniform(-1, 1, (7, 4, 5, 3))
    # Each position has another map, whose answers stay inside -1..1.
    maps, offsets = draw.uniform(-0.25, 0.25, (4, 5, 3, 3)), draw.uniform(-0.2, 0.2, (4, 5, 3))

    def mapped(images: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.einsum("nhwc,hwcd->nhwd", images, maps) + offsets

    np.testing.assert_allclose(affine_by_pixel(source, mapped(source), given), mapped(given), rtol=0, atol=1e-12)


def test_colours_that_never_change_map_to_the_mean_answer() -> None:
    draw = np.random.default_rng(1)
    source = np.full((30, 2, 2, 3), 0.5)
    truth = draw.uniform(-0.5, 0.5, (30, 2, 2, 3))
    made = affine_by_pixel(source, truth, source[:1])
    np.testing.assert_allclose(made, truth.mean(0, keepdims=True), rtol=0.01)


def _write_pairs(folder: Path, sources: NDArray[np.uint8], truths: NDArray[np.uint8]) -> None:
    for name, images in (("source", sources), ("truth", truths)):
        for index, image in enumerate(images):
            write_image(folder / name / f"{index}.png", image)


def _metric(scored: Path, fitted: Path) -> MetricComponent:
    folders = {f"{key}{name}": str(root / name) for key, root in (("", scored), ("fit_", fitted))
               for name in ("source", "truth")}  # fmt: skip
    return MetricComponent.model_validate({"type": "paired_l1", **folders})


def test_paired_l1_of_a_negative(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    sources = draw.integers(0, 256, (12, 4, 4, 3), dtype=np.uint8)
    for name, images in (("scored", sources[:4]), ("fitted", sources[4:])):
        _write_pairs(tmp_path / name, images, 255 - images)
    metric = registry.build(_metric(tmp_path / "scored", tmp_path / "fitted"), seed=0)
    truth = 255 - sources[:4]
    copied = float(np.abs(sources[:4] / 127.5 - truth / 127.5).mean())
    assert metric(truth) == {
        "l1_identity": pytest.approx(copied),
        "l1_affine": pytest.approx(0, abs=1e-9),
        "l1_translated": 0,
    }
    assert metric(sources[:4])["l1_translated"] == pytest.approx(copied)
    with pytest.raises(DataError, match=r"translated images are \(3, 4, 4, 3\), but the truth is \(4, 4, 4, 3\)"):
        metric(truth[:3])


def test_paired_l1_refuses_pairs_that_do_not_fit(tmp_path: Path) -> None:
    images = np.zeros((2, 4, 4, 3), dtype=np.uint8)
    _write_pairs(tmp_path / "good", images, images)
    _write_pairs(tmp_path / "missing", images, images[:1])
    _write_pairs(tmp_path / "other", images[:, :3], images[:, :3])
    with pytest.raises(DataError, match=r"missing/source holds images \(2, 4, 4, 3\), but .*truth \(1, 4, 4, 3\)"):
        registry.build(_metric(tmp_path / "missing", tmp_path / "good"), seed=0)
    with pytest.raises(DataError, match=r"other/source and .*good/source differ in shape"):
        registry.build(_metric(tmp_path / "good", tmp_path / "other"), seed=0)
    write_image(tmp_path / "other" / "truth" / "2.png", images[0])
    with pytest.raises(DataError, match=r"other/truth differ in size or channels"):
        registry.build(_metric(tmp_path / "good", tmp_path / "other"), seed=0)
