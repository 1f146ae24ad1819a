"""Proves an artifact again wherever it lies: its golden sample through onnxruntime, without torch."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from export.interface import TensorSpec
from export.manifest import GREY_LEVELS, Manifest, expected_properties
from serving import artifacts
from serving.artifacts import Artifact, GoldenSample
from serving.engine import Engine, OrtEngine, cpu_cores, import_runtime
from serving.errors import ArtifactError

IMAGE = "image"


@dataclass(frozen=True)
class Replayed:
    """What a replay found; seconds are of the session's start, of the first run and of the second one of its shape."""

    artifact: Artifact
    samples: int
    max_grey_diff: float
    buckets: int
    start_seconds: float
    first_seconds: float
    second_seconds: float


def verify(path: str | os.PathLike[str], device: Literal["cpu", "cuda"]) -> Replayed:
    """Check every file and field of the artifact at `path`, and replay its golden sample and its buckets on `device`.

    Raises:
        ArtifactError: a file is missing or changed, a field is wrong, or an image is not what was proved.
        EngineError: the graph does not run on `device`.
    """
    artifact = artifacts.load(path)
    manifest = artifact.manifest
    import_runtime()
    seconds, engine = _timed(lambda: OrtEngine(artifact.model, device, cpu_cores()))
    check_fields(artifact, engine)
    samples = artifacts.golden(artifact)
    first, second = (_timed(lambda: engine.run(samples[0].inputs))[0] for _ in range(2))
    worst = replay(engine, artifact, samples)
    for shape in manifest.buckets:
        worst = max(worst, _replay_bucket(artifact, engine, device, shape))
    return Replayed(artifact, len(samples), worst, len(manifest.buckets), seconds, first, second)


def replay(engine: Engine, artifact: Artifact, samples: list[GoldenSample]) -> float:
    """The largest difference, in grey levels, between what `engine` makes of the golden `samples` and their outputs.

    Raises:
        ArtifactError: it is more than the proof allowed, or an image has another shape or dtype.
    """
    worst = 0.0
    for sample in samples:
        worst = max(worst, _difference(artifact, sample.image, engine.run(sample.inputs)[IMAGE]))
    _check(artifact, worst, "its golden sample", engine)
    return worst


def start(artifact: Artifact, device: Literal["cpu", "cuda"], threads: int) -> OrtEngine:
    """Open the artifact's graph, and check its fields and its golden sample.

    Raises:
        ArtifactError: a field is not the model's, or an image is not what was proved.
        EngineError: the graph does not run on `device`.
    """
    samples = artifacts.golden(artifact)
    engine = OrtEngine(artifact.model, device, threads)
    check_fields(artifact, engine)
    replay(engine, artifact, samples)
    return engine


def check_fields(artifact: Artifact, engine: OrtEngine) -> None:
    """Compare the manifest with what the model file says of itself.

    Raises:
        ArtifactError: a field is not the model's.
    """
    manifest = artifact.manifest
    said = {key.removeprefix("zorse."): value for key, value in engine.metadata.items() if key.startswith("zorse.")}
    should = expected_properties(manifest)
    wrong = sorted(key for key in said.keys() | should.keys() if said.get(key) != should.get(key))
    for side, ports, tensors in (
        ("inputs", engine.inputs, manifest.interface.inputs),
        ("outputs", engine.outputs, manifest.interface.outputs),
    ):
        ranges = {tensor.value_range for tensor in tensors if tensor.dtype == "uint8"}
        if ports != [(tensor.name, tensor.dtype, tensor.shape) for tensor in tensors] or ranges - {(0, GREY_LEVELS)}:
            wrong.append(side)
    wrong += _wrong_limits(manifest)
    if wrong:
        raise ArtifactError(
            f"{artifact.path}: {', '.join(wrong)} of the manifest and of the model do not agree: export the model again"
        )


def _wrong_limits(manifest: Manifest) -> Iterator[str]:
    """Which of size and latent is not that of the first input."""
    axes, size, latent = manifest.interface.inputs[0].shape[1:], manifest.interface.size, manifest.interface.latent
    if (axes if manifest.interface.kind == "generator" else None) != (latent and (latent.dim,)):
        yield "latent"
    if (size is not None) != (manifest.interface.kind == "translator"):
        yield "size"
    elif size is not None:
        edges = zip(axes, (size.height, size.width), strict=False)
        if any(isinstance(axis, int) and not edge.legal(0) == axis == edge.legal(axis + 1) for axis, edge in edges):
            yield "size"


def _replay_bucket(
    artifact: Artifact, free: OrtEngine, device: Literal["cpu", "cuda"], shape: tuple[int, ...]
) -> float:
    """Return the difference, in grey levels, between the graph with the axes fixed to the bucket and with free ones."""
    specs, text = artifact.manifest.interface.inputs, "x".join(map(str, shape))
    if len(shape) != len(specs[0].shape) or not all(size > 0 for size in shape):
        raise ArtifactError(f"{artifact.path}: the bucket {text} is no shape of {specs[0].name}")
    # The other inputs have no open axis but the batch.
    shapes = [shape, *((shape[0], *map(int, spec.shape[1:])) for spec in specs[1:])]
    axes = {
        name: size
        for spec, sizes in zip(specs, shapes, strict=True)
        for name, size in zip(spec.shape, sizes, strict=True)
        if isinstance(name, str)
    }
    fixed = OrtEngine(artifact.model, device, cpu_cores(), axes=axes)
    random = np.random.default_rng(0)
    feeds = {spec.name: _random_values(spec, sizes, random) for spec, sizes in zip(specs, shapes, strict=True)}
    worst = _difference(artifact, free.run(feeds)[IMAGE], fixed.run(feeds)[IMAGE])
    _check(artifact, worst, f"the bucket {text}", fixed)
    return worst


def _random_values(spec: TensorSpec, shape: tuple[int, ...], random: np.random.Generator) -> NDArray[Any]:
    if spec.value_range is None:
        return random.standard_normal(shape, dtype=np.float32)
    return random.uniform(*spec.value_range, shape).astype(spec.dtype)


def _difference(artifact: Artifact, expected: NDArray[Any], actual: NDArray[Any]) -> float:
    if (actual.shape, actual.dtype) != (expected.shape, expected.dtype):
        raise ArtifactError(
            f"{artifact.path}: the model makes {actual.dtype} {list(actual.shape)} and {expected.dtype} "
            f"{list(expected.shape)} was proved: export it again"
        )
    low, high = artifact.manifest.interface.outputs[0].value_range or (0.0, float(GREY_LEVELS))
    apart = np.abs(actual.astype(np.float64) - expected.astype(np.float64)).max(initial=0.0)
    # A NaN is as far from an image as can be.
    return float(np.nan_to_num(apart * (GREY_LEVELS / (high - low)), nan=GREY_LEVELS))


def _check(artifact: Artifact, worst: float, what: str, engine: Engine) -> None:
    tolerance = artifact.manifest.proof.replay_tolerance
    if not worst <= tolerance:
        raise ArtifactError(
            f"{artifact.path}: {what} is up to {worst:.4g} grey levels from what was proved ({tolerance:g} allowed) "
            f"on {engine.providers[0]}: use another device or onnxruntime for it, or export it again"
        )


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    done = work()
    return time.perf_counter() - begun, done
