"""Proves a model: compares onnxruntime with the reference, in grey levels, on inputs of several shapes."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from export import graph
from export.error_stats import ErrorStats
from export.errors import ExportError, RefusedError
from export.feeds import Feeds, Sample, batch_size, shape_text, total_bytes
from export.first_layer import first_diverging_layer
from export.grey_levels import as_stored
from export.manifest import Proof
from export.model_under_test import ModelUnderTest, Shape
from export.proof_inputs import proof_input, proof_inputs
from export.sessions import check_interface, not_proved, open_session, remaining_shape_arithmetic
from export.targets.base import Target

_GOLDEN_BYTES = 2**18


@dataclass(frozen=True)
class ProofResult:
    """A proof, and the golden sample: small inputs with the images that the model makes of them."""

    proof: Proof
    golden: list[Sample]


@dataclass(frozen=True)
class ReferenceOutputs:
    """Inputs with the reference's images, in grey levels rounded as they are stored.

    `real_images` is how many of the `samples` are whole real images. `buckets` are inputs for the
    model with its axes fixed.
    """

    samples: list[Sample]
    buckets: list[Sample]
    real_images: int


def run_reference(
    model: ModelUnderTest, target: Target, images: Sequence[NDArray[Any]] = (), buckets: Sequence[Shape] = ()
) -> ReferenceOutputs:
    """Run the reference on every input of the proof.

    The inputs are (1) each real image of `images` ([height, width, channels] of a legal size) whole; (2) one input for
    each proof shape, including the smallest and largest declared size; (3) one for each shape of `buckets`. For
    calibrated targets (2) and (3) are cut from the real images, otherwise they are seeded noise.

    Raises:
        RefusedError: the reference does not run on an input, makes images of another size, or a value is not finite.
    """
    source = model.interface.inputs[0].name
    cut = images if target.calibrated else ()
    whole = [{source: image[None]} for image in images]
    samples = [Sample(feeds, _reference_image(model, feeds)) for feeds in (*proof_inputs(model, cut), *whole)]
    fixed = [proof_input(model.interface, bucket, cut) for bucket in buckets]
    return ReferenceOutputs(samples, [Sample(feeds, _reference_image(model, feeds)) for feeds in fixed], len(images))


def compare_with_reference(
    model: ModelUnderTest,
    folder: Path,
    target: Target,
    reference: ReferenceOutputs,
    emulation: onnx.ModelProto | None = None,
) -> ProofResult:
    """Compare onnxruntime on the model file in `folder`, and on its `emulation`, with the reference's images.

    Raises:
        RefusedError: the model does not run or does not have the declared interface, a value is not finite, an image
            depends on its neighbours in the batch, or the differences are more than the target allows; the last reason
            is then the first layer that diverges.
    """
    stats, golden = ErrorStats(model, target), []
    session = open_session(model, folder)
    check_interface(model, session)
    open_batch = isinstance(model.interface.inputs[0].shape[0], str)
    for sample in reference.samples:
        image = stats.compare(session, folder, sample)
        if open_batch and batch_size(sample.feeds) > 1 and not stats.failures:
            stats.compare_alone(session, sample.feeds, image)
        golden.append(Sample(sample.feeds, image))
    for bucket in reference.buckets:
        _compare_bucket(model, folder, stats, bucket)
    with tempfile.TemporaryDirectory() as work:
        if emulation is not None:
            graph.save(emulation, Path(work))
            emulated = open_session(model, Path(work))
            for sample in reference.samples:
                stats.compare(emulated, Path(work), sample, f"{target.name} as other devices compute it")
        if stats.failures:
            smallest = min(stats.failures, key=lambda failure: total_bytes(failure[1]))
            diverging = first_diverging_layer(model, target, *smallest)
            raise RefusedError(f"{model.name} is not proved", [*stats.errors, *diverging])
    return ProofResult(stats.proof(reference.real_images), _smallest(golden))


def _compare_bucket(model: ModelUnderTest, folder: Path, stats: ErrorStats, bucket: Sample) -> None:
    """Compare the model with all its axes fixed to the shape of the bucket."""
    fixed = {
        axis: size
        for spec in model.interface.inputs
        for axis, size in zip(spec.shape, bucket.feeds[spec.name].shape, strict=True)
        if isinstance(axis, str)
    }
    stats.compare(open_session(model, folder, fixed), folder, bucket)
    if left := remaining_shape_arithmetic(folder, fixed):
        shape = "x".join(map(str, next(iter(bucket.feeds.values())).shape))
        what = f"with the axes of {shape} fixed it still computes shapes ({', '.join(left)})"
        raise not_proved(model, f"{what}, which CUDA graphs cannot do: leave the bucket out")


def _smallest(samples: list[Sample]) -> list[Sample]:
    """Return the smallest sample, and the next ones while all together stay small."""
    by_size = sorted(samples, key=lambda sample: sample.nbytes)
    sums = list(accumulate(sample.nbytes for sample in by_size))
    return [sample for sample, total in zip(by_size, sums, strict=True) if total <= _GOLDEN_BYTES] or by_size[:1]


def _reference_image(model: ModelUnderTest, feeds: Feeds) -> NDArray[np.float64]:
    """Return the reference's image in grey levels, rounded as it is stored."""
    try:
        levels = model.reference.image(feeds)
    except ExportError as error:
        raise not_proved(model, str(error)) from error
    if model.interface.size is not None:
        _check_size(model, feeds, levels)
    # Rounding would hide a NaN: it becomes an ordinary grey level.
    if wrong := int((~np.isfinite(levels)).sum()):
        name = model.reference.name
        raise not_proved(
            model, f"for input {shape_text(feeds)} {wrong} of {levels.size} values of {name} are not finite"
        )
    return as_stored(model.image_spec, levels)


def _check_size(model: ModelUnderTest, feeds: Feeds, levels: NDArray[Any]) -> None:
    (source,), scale = feeds.values(), model.interface.scale
    if levels.shape[1:3] == tuple(size * scale for size in source.shape[1:3]):
        return
    actual, wanted = ("×".join(map(str, shape[1:3])) for shape in (levels.shape, source.shape))
    must = f"the size must be scaled by {scale}" if scale > 1 else "the size must be kept"
    raise not_proved(
        model,
        f"{model.reference.name} makes {actual} of images of {wanted} (height × width): {must}, "
        "so declare the multiple that it needs, or a smaller largest size",
    )
