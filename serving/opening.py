"""Opens the model of an artifact as a server or a program runs it: checked, and measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.interface import SOURCE, Interface
from serving import artifacts
from serving.artifacts import Artifact, GoldenSample
from serving.config import Batching, Device
from serving.engine import Engine, OrtEngine, cpu_cores
from serving.profile import Profile, doublings, fit, measure
from serving.selftest import check_fields, check_golden

THREADS_PAY_SECONDS = 0.002
"""A run that takes longer on one core is faster on several. A shorter one is not: its threads have to be woken."""
_LONE_BUDGET_SECONDS = 10 * THREADS_PAY_SECONDS


def load_checked_engine(
    artifact: Artifact,
    device: Device,
    threads: int | None = None,
    gpu_fraction: float = 1.0,
    cores: int | None = None,
    clock: Callable[[], float] = time.thread_time,
) -> OrtEngine:
    """Open the artifact's graph, and check its fields and its golden sample, which also warms the graph up.

    `threads` is the number of CPU threads of a run. By default it is one, or `cores` (by default all) if one image of
    the golden sample takes longer than `THREADS_PAY_SECONDS` by `clock`: by default the time that this thread
    computes, since other processes on the cores only lengthen the time that passes. `gpu_fraction` is as in
    `OrtEngine`.

    Raises:
        ArtifactError: as `check_fields` and `check_golden`.
        EngineError: the graph does not run on `device`.
    """
    samples, batch = artifacts.golden(artifact), artifact.manifest.interface.inputs[0].shape[0]
    cores = cores or cpu_cores()
    engine = OrtEngine(artifact.model, device, threads or 1, gpu_fraction=gpu_fraction)
    check_fields(artifact, engine)
    check_golden(engine, artifact, samples)
    if threads is not None or device == "cuda" or cores == 1:
        return engine
    feeds = measured_feeds(samples, batch if isinstance(batch, int) else 1)
    if measure(lambda _: engine.run(feeds), [1], clock, _LONE_BUDGET_SECONDS)[1] <= THREADS_PAY_SECONDS:
        return engine
    engine = OrtEngine(artifact.model, device, cores)
    check_golden(engine, artifact, samples)
    return engine


def measure_profile(
    engine: Engine, artifact: Artifact, batching: Batching, clock: Callable[[], float] = time.perf_counter
) -> Profile:
    """Return the profile of the artifact's runs on `engine`, measured with its golden sample.

    `batching` has the model's own batch size, if it has one, as `max_size`.
    """
    samples, interface = artifacts.golden(artifact), artifact.manifest.interface
    batch = interface.inputs[0].shape[0]
    counts = [batch] if isinstance(batch, int) else doublings(batching.max_size)
    feeds = {count: measured_feeds(samples, count) for count in counts}
    seconds = measure(lambda count: engine.run(feeds[count]), counts, clock)
    return fit(seconds, heaviest_run(interface, batching), _pixels(feeds[counts[0]]))


def heaviest_run(interface: Interface, batching: Batching) -> tuple[int, int]:
    """Return the (rows, pixels) of the heaviest run that `batching` and the model's largest size allow."""
    if interface.size is None:
        return batching.max_size, 0
    height, width = interface.size.largest
    # The work is linear in all pixels of a run, so that one row can stand for a whole batch.
    return 1, max(height * width, min(batching.max_pixels, batching.max_size * height * width))


def useful(batching: Batching, profile: Profile) -> Batching:
    """Return `batching` without larger batches than pay, see `Profile.max_useful_rows`: a batch delays all its images.

    A run on an event loop stays as it is, since it delays nothing.
    """
    if profile.inline:
        return batching
    rows = profile.max_useful_rows
    if not profile.pixels:
        return batching.model_copy(update={"max_size": min(batching.max_size, rows)})
    return batching.model_copy(update={"max_pixels": min(batching.max_pixels, rows * profile.pixels)})


def measured_feeds(samples: list[GoldenSample], count: int) -> Mapping[str, NDArray[Any]]:
    """Return `count` rows of the golden sample with the largest images, the first of equals, or its first row again."""
    largest = max(samples, key=lambda sample: _pixels(sample.inputs)).inputs
    return {name: np.resize(array, (count, *array.shape[1:])) for name, array in largest.items()}


def _pixels(inputs: Mapping[str, NDArray[Any]]) -> int:
    """Return height × width of the source images of `inputs`, 0 without any."""
    if SOURCE not in inputs:
        return 0
    _, height, width, _ = inputs[SOURCE].shape
    return int(height * width)
