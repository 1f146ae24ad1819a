"""Exports a source: builds its models, proves each of them, and publishes them once all are proved."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from export import graph
from export.bundle import describe, write_model
from export.cycle import cycle_error
from export.errors import ProofError, RefusedError, UnsupportedGraphError
from export.feeds import Feeds
from export.manifest import Manifest, reversed_directions
from export.model_under_test import ModelUnderTest, Shape
from export.options import ExportOptions, Provider, Report
from export.proof import compare_with_reference, run_reference
from export.proof_inputs import proof_inputs
from export.repository import Repository
from export.sources import find_origin, models_under_test
from export.targets import base as targets
from export.targets.base import Target

MOST_CLIPPED = 0.2
"""The largest share of output values that may lie outside black..white."""


@dataclass(frozen=True)
class _Staged:
    """A proved model, the real images for it, and its artifact's folder before it is published."""

    model: ModelUnderTest
    images: list[NDArray[Any]]
    folder: Path
    manifest: Manifest


def export(place: str, repository: str, *, report: Report = lambda line: None, **options: Any) -> list[str]:
    """Turn every network of a snapshot or of a foreign file into a proved artifact; publish them once all are proved.

    `place` is the folder of a snapshot or of a run (then its newest snapshot), a checkpoint of another program, or an
    ONNX file. `repository` is a local folder or a URI. `report` takes lines of progress. The other keywords are the
    fields of `export.options.ExportOptions`. Returns the artifacts' places, `<repository>/<model>/<version>`.

    Raises:
        trainer.errors.TrainerError: the snapshot cannot be read or built.
        ExportError: unknown target or origin, a file that cannot be imported, unusable images, or a repository that
            cannot be written.
        RefusedError: a network cannot be exported or is not proved. Nothing was published.
    """
    chosen = ExportOptions(**options)
    target, root = targets.find(chosen.target), Repository(repository)
    origin = find_origin(place, chosen.origin)
    chosen.check(place, origin)
    with tempfile.TemporaryDirectory(prefix="zorse-export-") as staging:
        staged = []
        for model, images in models_under_test(place, origin, target, chosen, report):
            report(f"{model.name}: proving it against {model.reference.name}")
            folder = Path(staging) / model.name
            manifest = prove(model, target, images, tuple(chosen.buckets), chosen.provider, folder)
            staged.append(_Staged(model, images, folder, manifest))
        return _publish(root, list(_with_cycles(staged)))


def prove(
    model: ModelUnderTest,
    target: Target,
    images: Sequence[NDArray[Any]],
    buckets: tuple[Shape, ...],
    provider: Provider,
    folder: Path,
) -> Manifest:
    """Stage the first of the target's variants that is proved in the new `folder`.

    `images` are real ones, [height, width, channels] of legal sizes and of the model's dtype. Calibrated targets are
    calibrated on one half of them and proved on the other.

    Raises:
        RefusedError: none is proved; the reasons are those of the last variant.
        UnsupportedGraphError: the target cannot have such a model.
    """
    if not target.large and graph.is_large(model.model):
        raise UnsupportedGraphError(f"{model.name} is above 2 GB, which {target.name} cannot be: export it to onnx")
    proof_images = images[1::2] or images if target.calibrated else images
    calibration = _calibration_feeds(model, images[::2]) if target.calibrated else []
    reference = run_reference(model, target, proof_images, buckets)
    refused: RefusedError | None = None
    for variant in target.variants(model.model, calibration):
        if faults := graph.faults(variant.model, provider):
            raise RefusedError(f"{model.name} cannot be exported", [UnsupportedGraphError(text) for text in faults])
        write_model(variant.model, model, target, folder)
        try:
            result = compare_with_reference(model, folder, target, reference, variant.emulation)
        except RefusedError as error:
            refused = error
            shutil.rmtree(folder)
        else:
            _check_clipping(model)
            return describe(variant.model, model, target, result, buckets, folder)
    assert refused is not None
    raise refused


def _check_clipping(model: ModelUnderTest) -> None:
    """Refuse a model most of whose output values would be clipped: its declared range is then wrong."""
    share = model.reference.clipped_share
    if share > MOST_CLIPPED:
        reason = ProofError(
            f"{share:.0%} of its output values lie outside the declared range and would be cut off: check "
            "--input-range and --output-range, such as 0 255 for a network that takes bytes"
        )
        raise RefusedError(f"{model.name} is not proved", [reason])


def _calibration_feeds(model: ModelUnderTest, images: Sequence[NDArray[Any]]) -> list[Feeds]:
    """Return the inputs to calibrate with: the images, or for a generator other latents than those of its proof."""
    source = model.interface.inputs[0].name
    return [{source: image[None]} for image in images] or [*proof_inputs(model, seed=1), *proof_inputs(model, seed=2)]


def _with_cycles(staged: list[_Staged]) -> Iterator[_Staged]:
    """Yield `staged` with the cycle error in the proofs of translators that lead back to each other."""
    by_direction = {entry.manifest.direction: entry for entry in staged if entry.model.interface.scale == 1}
    for entry in staged:
        names = reversed_directions(entry.manifest.direction or "") if entry.model.interface.scale == 1 else []
        other = next((by_direction[name] for name in names if name in by_direction), None)
        if other is not None:
            there, back = ((end.model, end.folder) for end in (entry, other))
            proof = dataclasses.replace(entry.manifest.proof, cycle=cycle_error(there, back, entry.images))
            entry = dataclasses.replace(entry, manifest=dataclasses.replace(entry.manifest, proof=proof))
        yield entry


def _publish(repository: Repository, staged: list[_Staged]) -> list[str]:
    """Publish all artifacts, or none if the repository fails; return their places."""
    published: list[tuple[str, int]] = []
    try:
        for entry in staged:
            version = repository.add(entry.folder, entry.manifest)
            published.append((entry.manifest.name, version))
    except BaseException:
        for name, version in published:
            repository.delete(name, version)
        raise
    return [f"{repository.place.rstrip('/')}/{name}/{version}" for name, version in published]
