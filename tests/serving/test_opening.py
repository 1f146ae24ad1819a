"""Opening a model: its threads and its profile follow from measured runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from export.interface import SizeLimits
from serving import artifacts
from serving.config import Batching
from serving.engine import cpu_cores
from serving.local_model import LocalModel
from serving.opening import (
    THREADS_PAY_SECONDS,
    heaviest_run,
    load_checked_engine,
    measure_profile,
    measured_feeds,
    useful,
)
from serving.profile import Profile
from serving.selftest import verify_artifact
from tests.serving.conv_graph import conv_graph
from tests.serving.fakes import FakeEngine
from tests.serving.tiny import (
    LATENT_DIM,
    generator_graph,
    generator_manifest,
    inverter_manifest,
    with_interface,
    write,
)

BATCHING = Batching(max_size=16, max_pixels=2**20)


def ticking(seconds: float) -> Callable[[], float]:
    """Return a clock that moves by `seconds` each time that it is read."""
    ticks: Iterator[int] = count()
    return lambda: seconds * next(ticks)


@pytest.mark.parametrize(
    ("seconds", "threads"),
    [(THREADS_PAY_SECONDS / 2, 1), (THREADS_PAY_SECONDS * 2, cpu_cores())],
    ids=["short", "long"],
)
def test_load_checked_engine_takes_all_cores_for_long_runs(repository: Path, seconds: float, threads: int) -> None:
    engine = load_checked_engine(artifacts.load(repository / "digits"), "cpu", clock=ticking(seconds))
    assert engine.threads == threads


def test_load_checked_engine_takes_the_threads_that_are_set(repository: Path) -> None:
    engine = load_checked_engine(artifacts.load(repository / "digits"), "cpu", 2, clock=ticking(9))
    assert engine.threads == 2


def test_engine_makes_the_same_image_with_any_number_of_threads(repository: Path) -> None:
    artifact = artifacts.load(repository / "digits")
    codes = {"latent": np.random.default_rng(0).standard_normal((5, LATENT_DIM), np.float32)}
    images = [load_checked_engine(artifact, "cpu", threads).run(codes)["image"] for threads in (1, 2, 3)]
    np.testing.assert_array_equal(images[0], images[1])
    np.testing.assert_array_equal(images[0], images[2])


def test_measure_profile_runs_batches_up_to_the_limit(repository: Path) -> None:
    engine = FakeEngine()
    profile = measure_profile(engine, artifacts.load(repository / "digits"), Batching(max_size=6), ticking(1e-4))
    assert {shape[0] for shape in engine.shapes} == {1, 2, 4, 6}
    assert [rows for rows, _ in profile.timings] == [1, 2, 4, 6]
    assert (profile.pixels, profile.heaviest, profile.inline, profile.max_useful_rows) == (0, (6, 0), True, 6)


def test_measure_profile_takes_the_size_of_the_golden_images(repository: Path) -> None:
    engine = FakeEngine()
    profile = measure_profile(engine, artifacts.load(repository / "invert"), Batching(max_size=1), ticking(1e-4))
    assert {shape[1:] for shape in engine.shapes} == {(32, 16, 3)}
    assert profile.pixels == 32 * 16


def test_fixed_batch_is_the_only_one_that_is_measured(tmp_path: Path) -> None:
    artifact = artifacts.load(write(tmp_path, generator_graph(batch=3), generator_manifest(batch=3)))
    engine = load_checked_engine(artifact, "cpu")
    profile = measure_profile(engine, artifact, Batching(max_size=3))
    assert [rows for rows, _ in profile.timings] == [3]


def test_measured_feeds_repeat_the_rows_of_the_largest_sample(repository: Path) -> None:
    samples = artifacts.golden(artifacts.load(repository / "invert"))
    source = measured_feeds(samples, 5)["source"]
    assert source.shape == (5, 32, 16, 3)
    np.testing.assert_array_equal(source[4], samples[0].inputs["source"][0])
    np.testing.assert_array_equal(source[3], samples[0].inputs["source"][1])


@pytest.mark.parametrize(
    ("side", "pixels"), [(64, 16 * 64 * 64), (256, 16 * 256 * 256), (512, 2**20), (2048, 2048 * 2048)]
)
def test_heaviest_run_has_the_most_pixels_that_may_run_together(side: int, pixels: int) -> None:
    interface = with_interface(inverter_manifest(), size=SizeLimits.square(4, 16, side)).interface
    assert heaviest_run(interface, BATCHING) == (1, pixels)


def test_heaviest_run_of_a_generator_is_the_largest_batch() -> None:
    assert heaviest_run(generator_manifest().interface, BATCHING) == (16, 0)


@pytest.mark.parametrize(
    ("profile", "max_size", "max_pixels"),
    [
        (Profile(((1, 1.0), (16, 16.0)), (16, 0)), 1, 2**20),
        (Profile(((1, 1.0), (8, 2.0), (16, 4.0)), (16, 0)), 8, 2**20),
        (Profile(((1, 1e-6), (16, 16e-6)), (16, 0)), 16, 2**20),
        (Profile(((1, 1.0), (4, 2.0), (16, 8.0)), (1, 2**20), 128 * 128), 16, 4 * 128 * 128),
        (Profile(((1, 1.0), (16, 2.0)), (1, 2**20), 512 * 512), 16, 2**20),
    ],
)
def test_useful_batching_has_no_larger_batches_than_pay(profile: Profile, max_size: int, max_pixels: int) -> None:
    limited = useful(BATCHING, profile)
    assert (limited.max_size, limited.max_pixels) == (max_size, max_pixels)


def test_float16_model_is_served_as_any_other(tmp_path: Path) -> None:
    source = np.random.default_rng(0).integers(0, 256, (2, 33, 47, 3), dtype=np.uint8)
    images = []
    for half in (False, True):
        folder = write(tmp_path / str(half), conv_graph(half=half), inverter_manifest("paint"))
        assert verify_artifact(folder, "cpu").max_grey_diff == 0
        images.append(LocalModel.load(folder, "cpu").translate(source).astype(int))
    assert images[0].std() > 10
    assert 0 < np.abs(images[0] - images[1]).max() <= 2
