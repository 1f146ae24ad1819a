"""Checks the files, the manifest and the golden sample of an artifact with onnxruntime, without torch."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.interface import IMAGE, AxisLimits, Interface, TensorSpec
from export.manifest import GREY_LEVELS, model_properties
from serving import artifacts
from serving.artifacts import Artifact, GoldenSample
from serving.config import Device
from serving.engine import Engine, OrtEngine, cpu_cores, import_runtime
from serving.errors import ArtifactError


@dataclass(frozen=True)
class SelfTest:
    """The result of a successful check: the numbers of golden inputs and of buckets, and the largest difference.

    `max_grey_diff` is in grey levels. `seconds` are those that the session took to open ("start"), and that the first
    and the second run of one shape took ("first" and "second").
    """

    artifact: Artifact
    samples: int
    max_grey_diff: float
    buckets: int
    seconds: dict[str, float]


def verify_artifact(path: str | os.PathLike[str], device: Device) -> SelfTest:
    """Check every file and field of the artifact at `path`, and its golden sample and its buckets on `device`.

    Raises:
        ArtifactError: a file is missing or changed, a field contradicts the model, or an image differs from the proved
            one by more than the proof allows.
        EngineError: the graph does not run on `device`.
    """
    artifact = artifacts.load(path)
    manifest = artifact.manifest
    import_runtime()
    start, engine = _timed(lambda: OrtEngine(artifact.model, device, cpu_cores()))
    check_fields(artifact, engine)
    samples = artifacts.golden(artifact)
    first, second = (_timed(lambda: engine.run(samples[0].inputs))[0] for _ in range(2))
    differences = [check_golden(engine, artifact, samples)]
    differences += [_check_bucket(artifact, engine, device, shape) for shape in manifest.buckets]
    seconds = {"start": start, "first": first, "second": second}
    return SelfTest(artifact, len(samples), max(differences), len(manifest.buckets), seconds)


def check_golden(engine: Engine, artifact: Artifact, samples: list[GoldenSample]) -> float:
    """Run the golden `samples` and return the largest difference from their outputs in grey levels.

    Raises:
        ArtifactError: the difference is larger than the proof allows, or an image has another shape or dtype.
    """
    max_difference = max(_difference(artifact, entry.image, engine.run(entry.inputs)[IMAGE]) for entry in samples)
    _check_difference(artifact, max_difference, "its golden sample", engine)
    return max_difference


def check_fields(artifact: Artifact, engine: OrtEngine) -> None:
    """Compare the manifest with the metadata, inputs and outputs of the model file.

    Raises:
        ArtifactError: a field contradicts the model.
    """
    manifest = artifact.manifest
    actual = {key.removeprefix("zorse."): value for key, value in engine.metadata.items() if key.startswith("zorse.")}
    expected = model_properties(manifest, manifest.target)
    contradictory = sorted(key for key in actual.keys() | expected.keys() if actual.get(key) != expected.get(key))
    for side, nodes, specs in (
        ("inputs", engine.inputs, manifest.interface.inputs),
        ("outputs", engine.outputs, manifest.interface.outputs),
    ):
        ranges = {spec.value_range for spec in specs if spec.dtype == "uint8"}
        if nodes != [(spec.name, spec.dtype, spec.shape) for spec in specs] or ranges - {(0, GREY_LEVELS)}:
            contradictory.append(side)
    contradictory += _contradictory_limits(manifest.interface)
    if contradictory:
        raise ArtifactError(
            f"{artifact.path}: {', '.join(contradictory)} of the manifest and of the model do not agree: "
            "export the model again"
        )


def _contradictory_limits(interface: Interface) -> Iterator[str]:
    """Yield "latent" and "size" if the model's kind or the shape of its first input contradicts that field."""
    axes, latent, size = interface.inputs[0].shape[1:], interface.latent, interface.size
    if interface.kind == "generator":
        if latent is None or axes != (latent.dim,):
            yield "latent"
        if size is not None:
            yield "size"
    else:
        if latent is not None:
            yield "latent"
        limits = (size.height, size.width) if size else ()
        if size is None or not all(_is_only_size(*pair) for pair in zip(axes, limits, strict=False)):
            yield "size"


def _is_only_size(axis: int | str, limits: AxisLimits) -> bool:
    """Return whether `axis` is dynamic, or fixed at the only size that is legal."""
    return isinstance(axis, str) or limits.legal(0) == axis == limits.legal(axis + 1)


def _check_bucket(artifact: Artifact, dynamic: OrtEngine, device: Device, shape: tuple[int, ...]) -> float:
    """Return the largest difference in grey levels between the graph with the axes of `shape` and the `dynamic` one.

    Raises:
        ArtifactError: the difference is larger than the proof allows, or the first input cannot have that shape.
    """
    specs, text = artifact.manifest.interface.inputs, "x".join(map(str, shape))
    if len(shape) != len(specs[0].shape) or not all(size > 0 for size in shape):
        raise ArtifactError(f"{artifact.path}: the bucket {text} is no shape of {specs[0].name}")
    # The other inputs have no dynamic axis but the batch.
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
    difference = _difference(artifact, dynamic.run(feeds)[IMAGE], fixed.run(feeds)[IMAGE])
    _check_difference(artifact, difference, f"the bucket {text}", fixed)
    return difference


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
    difference = np.abs(actual.astype(np.float64) - expected.astype(np.float64)).max(initial=0.0)
    # NaN counts as the largest difference.
    return float(np.nan_to_num(difference * (GREY_LEVELS / (high - low)), nan=GREY_LEVELS))


def _check_difference(artifact: Artifact, max_difference: float, what: str, engine: Engine) -> None:
    tolerance = artifact.manifest.proof.replay_tolerance
    if not max_difference <= tolerance:
        raise ArtifactError(
            f"{artifact.path}: {what} is up to {max_difference:.4g} grey levels from what was proved "
            f"({tolerance:g} allowed) on {engine.providers[0]}: use another device or onnxruntime for it, "
            "or export it again"
        )


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result
