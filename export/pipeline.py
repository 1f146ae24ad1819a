"""Export: read the source, and build, wrap, convert and prove each of its networks; then publish them all."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray
from torch import nn

from export import graph
from export.bundle import describe, model_name, write_model
from export.candidate import Candidate, Shape, Statement, probes
from export.convert import convert
from export.errors import ExportError, ImageSetError, ImporterError, ProofError, RefusedError, UnsupportedGraphError
from export.foreign import wrap_onnx
from export.graph import DEFAULT_OPSET, OPSETS
from export.images import ImagePlace, load_images
from export.importers import base as importers
from export.interface import DEFAULT_MAX_SIZE, SizeLimits
from export.interface import TensorSpec as Port
from export.lint import trace
from export.manifest import Manifest, Provenance
from export.original import Declared, load_onnx
from export.reference import OriginalReference, TorchReference
from export.repository import Repository
from export.targets import base as targets
from export.targets.base import Target
from export.verify import cycle, expect, verify
from export.wrapper import BYTES, Pixels, wrap
from trainer.snapshot import Snapshot, read_snapshot
from zorse_common.errors import nearest_hint

AUTO, SNAPSHOT, ONNX = "auto", "snapshot", "onnx"
MOST_CLIPPED = 0.2
"""The largest share of values that a model may make beyond black and white."""
_LARGEST_BUCKET = 2**28
"""Values of one input."""
Report = Callable[[str], None]
"""Takes one line of progress."""


@dataclass(frozen=True)
class _Choices:
    """How to export: those arguments of `export` that its steps share."""

    opset: int
    max_size: int | None
    images: ImagePlace | None
    buckets: Sequence[Shape]
    pixels: Pixels
    provider: Literal["cuda", "cpu"]
    licence: str | None
    metrics: Mapping[str, float] | None
    direction: str | None
    report: Report


@dataclass(frozen=True)
class _Proved:
    candidate: Candidate
    images: list[NDArray[Any]]
    folder: Path
    manifest: Manifest


def export(
    place: str,
    repository: str,
    *,
    origin: str = AUTO,
    name: str | None = None,
    direction: str | None = None,
    target: str = "onnx",
    opset: int = DEFAULT_OPSET,
    max_size: int | None = None,
    images: str | None = None,
    images_range: tuple[float, float] | None = None,
    buckets: Sequence[Shape] = (),
    pixels: Pixels = BYTES,
    provider: Literal["cuda", "cpu"] = "cuda",
    declared: Declared | None = None,
    licence: str | None = None,
    metrics: Mapping[str, float] | None = None,
    report: Report = lambda line: None,
) -> list[str]:
    """Turn every network of a snapshot or of a foreign file into a proved artifact; publish them once all are.

    `place` is a snapshot's folder or a run's (then its newest one), a checkpoint of another program, or an ONNX file,
    of which `declared` says what the file does not. `origin` says which: "snapshot", an importer's name or "onnx";
    "auto" finds it out from the place and, of checkpoints, the tensors. `repository` is a local folder or a URI; `name`
    is the artifacts' name instead of the source's, and `direction`, such as "AtoB", that of a foreign translator whose
    file does not say it. `images_range` are black and white in `images` of more than 8 bits. `opset` is ONNX's;
    `max_size` the largest height and width that translators declare (None: twice the training images' and at least
    512); `images` a folder or zip of real images to prove and calibrate translators with; `buckets` input shapes to
    prove with fixed axes, such as (8, 256, 256, 3); `pixels` how images are stored; `provider` what every node must run
    on. `licence` and `metrics` go into the manifest. Returns the places of the artifacts,
    `<repository>/<model>/<version>`.

    Raises:
        trainer.errors.TrainerError: the snapshot cannot be read or built.
        ExportError: unknown target or origin, a file that cannot be imported, unusable images, or a repository that
            cannot be written.
        RefusedError: a network cannot be exported or is not proved. Nothing was published.
    """
    chosen, root = targets.find(target), Repository(repository)
    real = None if images is None else ImagePlace(images, value_range=images_range)
    asked = _Choices(opset, max_size, real, buckets, pixels, provider, licence, metrics, direction, report)
    if opset not in OPSETS:
        raise ExportError(f"opset {opset} is none of {OPSETS[0]} to {OPSETS[-1]}: give another --opset")
    if origin not in (known := [AUTO, SNAPSHOT, ONNX, *importers.names()]):
        raise ImporterError(f"unknown origin {origin!r}{nearest_hint(origin, known)}; known: {', '.join(known)}")
    origin = _origin(place) if origin == AUTO else origin
    if origin != ONNX and declared is not None:
        raise ExportError(f"{place}: only ONNX files need to be described: leave --input-range and the like out")
    if origin == SNAPSHOT and direction is not None:
        raise ExportError(f"{place} knows the directions of its networks: leave --direction out")
    if origin == ONNX:
        candidates = _from_onnx(Path(place), name, declared, chosen, asked)
    else:
        source = read_snapshot(place) if origin == SNAPSHOT else _imported(origin, Path(place), direction)
        candidates = _from_networks(source, origin, name, chosen, asked)
    with tempfile.TemporaryDirectory(prefix="zorse-export-") as staging:
        proved = []
        for candidate, images_of_it in candidates:
            report(f"{candidate.name}: proving it against {candidate.reference.name}")
            folder = Path(staging) / candidate.name
            manifest = prove(candidate, chosen, images_of_it, tuple(buckets), provider, folder)
            proved.append(_Proved(candidate, images_of_it, folder, manifest))
        return _publish(root, list(_with_cycles(proved)))


def _origin(place: str) -> str:
    """Return what lies at `place`: a snapshot or run, an ONNX file, or the importer for its tensors."""
    path = Path(place)
    if not path.is_file():
        return SNAPSHOT
    return ONNX if path.suffix.lower() == ".onnx" else importers.recognise(path).name


def _imported(origin: str, path: Path, direction: str | None) -> Snapshot:
    """Read a foreign checkpoint; `direction` is what the user says of it where its name does not.

    Raises:
        ImporterError: it cannot be read, is a generator and has no direction, or its name says another.
    """
    snapshot = importers.find(origin).read(path)
    if direction is None:
        return snapshot
    ((network, entry),) = snapshot.networks.items()
    if snapshot.task == "gan":
        raise ImporterError(f"{path} is a generator, which translates nothing: leave --direction out")
    if entry.direction not in (None, direction):
        raise ImporterError(f"{path} is {entry.direction} by its name: leave --direction out or rename the file")
    return dataclasses.replace(snapshot, networks={network: dataclasses.replace(entry, direction=direction)})


def _from_networks(
    source: Snapshot, origin: str, name: str | None, target: Target, choices: _Choices
) -> Iterator[tuple[Candidate, list[NDArray[Any]]]]:
    """Each network of a snapshot with real images for it, converted once nothing is wrong with any of them."""
    checked = []
    for network, entry in source.networks.items():
        model = model_name(name or source.name, entry.direction)
        wrapped = wrap(source.build(network), model, edge=source.size, pixels=choices.pixels, max_size=choices.max_size)
        size = wrapped.size and wrapped.size.at_least(target.smallest)
        _check_buckets(model, wrapped.given, size, choices.buckets)
        domain = (entry.direction or "").partition("to")[0]
        choices.report(_found(model, wrapped.kind, wrapped.given, wrapped.made, wrapped.graph.network))
        place = choices.images and dataclasses.replace(choices.images, domain=domain)
        if place and place.value_range is None:
            place = dataclasses.replace(place, value_range=_trained_range(source.config))
        images = _real_images(model, wrapped.given, size, wrapped.edge, target, place, choices.report)
        checked.append((network, model, wrapped, size, images, trace(wrapped, model)))
    for network, model, wrapped, size, images, program in checked:
        choices.report(f"{model}: converting {network} to {target.name}")
        candidate = Candidate(
            name=model,
            kind=wrapped.kind,
            given=wrapped.given,
            made=wrapped.made,
            model=convert(program, wrapped, choices.opset),
            reference=TorchReference(wrapped),
            edge=wrapped.edge,
            statement=Statement(source.task, source.networks[network].direction, choices.licence, choices.metrics),
            provenance=_provenance(source, network, origin),
            size=size,
            latent=wrapped.latent,
        )
        yield candidate, images


def _from_onnx(
    path: Path, name: str | None, declared: Declared | None, target: Target, choices: _Choices
) -> Iterator[tuple[Candidate, list[NDArray[Any]]]]:
    """The one model of an ONNX file, wrapped, with real images for it."""
    model = model_name(name or path.stem, choices.direction)
    if choices.pixels != BYTES:
        raise ImporterError(f"{path}: foreign models are made to take bytes: leave --pixels out")
    file = load_onnx(path)
    maximum = choices.max_size or DEFAULT_MAX_SIZE
    foreign = wrap_onnx(file.model, declared or Declared(), name=model, opset=choices.opset, max_size=maximum)
    if foreign.kind == "generator" and choices.direction is not None:
        raise ImporterError(f"{path} is a generator, which translates nothing: leave --direction out")
    size = foreign.size and foreign.size.at_least(target.smallest)
    choices.report(_found(model, foreign.kind, foreign.given, foreign.made, None))
    edge = DEFAULT_MAX_SIZE // 2 if size else int(foreign.made.shape[1])
    candidate = Candidate(
        name=model,
        kind=foreign.kind,
        given=foreign.given,
        made=foreign.made,
        model=foreign.model,
        reference=OriginalReference(foreign.original),
        edge=edge,
        statement=Statement("foreign", choices.direction, choices.licence, choices.metrics),
        provenance=Provenance(ONNX, file.digest, model),
        size=size,
        latent=foreign.latent,
        scale=foreign.scale,
    )
    _check_buckets(model, foreign.given, size, choices.buckets)
    yield candidate, _real_images(model, foreign.given, size, edge, target, choices.images, choices.report)


def _trained_range(config: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the value range that the run declared of its training images."""
    low_high = config.get("data", {}).get("value_range")
    return None if low_high is None else (low_high[0], low_high[1])


def _found(model: str, kind: str, given: Port, made: Port, network: nn.Module | None) -> str:
    """Say in one line what is about to be exported."""
    shapes = (" × ".join(map(str, port.shape[1:])) for port in (given, made))
    weights = f", {sum(p.numel() for p in network.parameters()):,} parameters" if network is not None else ""
    return f"{model}: a {kind} from {' to '.join(shapes)}{weights}"


def _real_images(
    model: str,
    port: Port,
    size: SizeLimits | None,
    edge: int,
    target: Target,
    place: ImagePlace | None,
    report: Report,
) -> list[NDArray[Any]]:
    if size is None:
        if place is not None:
            raise ImageSetError(f"{model} is a generator and takes no images: leave --images out")
        return []
    if place is None:
        if target.calibrated:
            raise ImageSetError(f"{model}: {target.name} is calibrated on real images: give some with --images")
        return []
    images = load_images(place, port, size, edge, report=report)
    if all(image.min() == image.max() for image in images):
        raise ImageSetError(
            f"{place.place}: each of the {len(images)} images is of one value, which proves nothing: give photographs, "
            "and with more than 8 bits the right --images-range"
        )
    return images


def _check_buckets(model: str, port: Port, size: SizeLimits | None, buckets: Sequence[Shape]) -> None:
    for bucket in buckets:
        fits = len(bucket) == len(port.shape) and all(
            edge == axis if isinstance(axis, int) else edge > 0 for edge, axis in zip(bucket, port.shape, strict=True)
        )
        if fits and math.prod(bucket) > _LARGEST_BUCKET:
            raise UnsupportedGraphError(
                f"bucket {'x'.join(map(str, bucket))} is too large to be proved: give a smaller one"
            )
        if not fits or (size is not None and size.legal(*bucket[1:3]) != bucket[1:3]):
            axes = " x ".join(str(axis) for axis in port.shape)
            limits = f" with {size}" if size else ""
            raise UnsupportedGraphError(
                f"bucket {'x'.join(map(str, bucket))} is no legal input of {model}, which takes {axes}{limits}"
            )


def prove(
    candidate: Candidate,
    target: Target,
    images: Sequence[NDArray[Any]],
    buckets: tuple[Shape, ...],
    provider: Literal["cuda", "cpu"],
    folder: Path,
) -> Manifest:
    """Stage the first of the target's variants that is proved in the new `folder`.

    `images` are real ones, uint8 or of the candidate's own dtype, [height, width, channels] of legal sizes. Calibrated
    targets are calibrated on one half of them and proved on the other.

    Raises:
        RefusedError: none is proved; the reasons are those of the last one.
        UnsupportedGraphError: the target cannot have such a model.
    """
    if not target.large and graph.is_large(candidate.model):
        raise UnsupportedGraphError(f"{candidate.name} is above 2 GB, which {target.name} cannot be: export it to onnx")
    judged = images[1::2] or images if target.calibrated else images
    samples = _samples(candidate, images[::2]) if target.calibrated else []
    expected = expect(candidate, target, judged, buckets)
    refused: RefusedError | None = None
    for variant in target.variants(candidate.model, samples):
        if found := graph.faults(variant.model, provider):
            raise RefusedError(f"{candidate.name} cannot be exported", [UnsupportedGraphError(text) for text in found])
        write_model(variant.model, candidate, target, folder)
        try:
            compared = verify(candidate, folder, target, expected, variant.emulation)
        except RefusedError as error:
            refused = error
            shutil.rmtree(folder)
        else:
            _check_clipping(candidate)
            return describe(variant.model, candidate, target, compared, buckets, folder)
    assert refused is not None
    raise refused


def _check_clipping(candidate: Candidate) -> None:
    """Refuse a model most of whose values are cut off: its declared range is then not its own."""
    share = candidate.reference.clipped_share
    if share > MOST_CLIPPED:
        reason = ProofError(
            f"{share:.0%} of its output values lie outside the declared range and would be cut off: check "
            "--input-range and --output-range, such as 0 255 for a network that takes bytes"
        )
        raise RefusedError(f"{candidate.name} is not proved", [reason])


def _samples(candidate: Candidate, images: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """What to calibrate with: the images, or for a generator other codes than those of its proof."""
    return [image[None] for image in images] or [*probes(candidate, seed=1), *probes(candidate, seed=2)]


def _with_cycles(proved: list[_Proved]) -> Iterator[_Proved]:
    """Translators that lead back to each other say how far images come back from themselves."""
    by_direction = {entry.manifest.direction: entry for entry in proved}
    for entry in proved:
        first, _, second = (entry.manifest.direction or "").partition("to")
        other = by_direction.get(f"{second}to{first}") if second else None
        if other is not None:
            there, back = ((end.candidate, end.folder) for end in (entry, other))
            came = cycle(there, back, entry.images)
            proof = dataclasses.replace(entry.manifest.proof, cycle=came)
            entry = dataclasses.replace(entry, manifest=dataclasses.replace(entry.manifest, proof=proof))
        yield entry


def _publish(repository: Repository, proved: list[_Proved]) -> list[str]:
    """Publish all or, where the repository fails halfway, none; returns their places."""
    done: list[tuple[str, int]] = []
    try:
        for entry in proved:
            version = repository.add(entry.folder, entry.manifest)
            done.append((entry.manifest.name, version))
    except BaseException:
        for model, version in done:
            repository.delete(model, version)
        raise
    return [f"{repository.place.rstrip('/')}/{model}/{version}" for model, version in done]


def _provenance(source: Snapshot, network: str, origin: str) -> Provenance:
    if origin != SNAPSHOT:
        return Provenance(origin, source.digest, network)
    config = source.config
    return Provenance(
        origin,
        source.digest,
        network,
        images_seen=source.images_seen,
        ema=source.ema,
        config=config,
        config_digest=hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest(),
        revision=config.get("run", {}).get("revision"),
    )
