"""Export: read the source, and build, wrap, convert and prove each of its networks; then publish them all."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from export import graph
from export.bundle import Statement, describe, model_name, write_model
from export.candidate import Candidate, Shape, probes
from export.convert import DEFAULT_OPSET, OPSETS, convert
from export.errors import ExportError, ImageSetError, ImporterError, RefusedError, UnsupportedGraphError
from export.foreign import wrap_onnx
from export.images import load_images
from export.importers import base as importers
from export.lint import trace
from export.manifest import Manifest, Source, digest
from export.manifest import Tensor as Port
from export.original import Declared, load_onnx
from export.reference import OriginalReference, TorchReference
from export.repository import Repository
from export.sizes import SizeLimits
from export.targets import base as targets
from export.targets.base import Target
from export.verify import cycle, expect, verify
from export.wrapper import BYTES, SMALLEST_MAXIMUM, Pixels, wrap
from trainer.snapshot import Snapshot, read_snapshot

SNAPSHOT, ONNX = "snapshot", "onnx"
Report = Callable[[str], None]
"""Takes one line of progress."""


@dataclass(frozen=True)
class _Choices:
    """How to export: those arguments of `export` that its steps share."""

    opset: int
    max_size: int | None
    images: str | None
    buckets: Sequence[Shape]
    pixels: Pixels
    provider: Literal["cuda", "cpu"]
    licence: str | None
    metrics: Mapping[str, float] | None


@dataclass(frozen=True)
class _Prepared:
    candidate: Candidate
    images: list[NDArray[Any]]
    statement: Statement
    source: Source


@dataclass(frozen=True)
class _Proved:
    prepared: _Prepared
    folder: Path
    manifest: Manifest


def export(
    place: str,
    repository: str,
    *,
    origin: str = SNAPSHOT,
    name: str | None = None,
    target: str = "onnx",
    opset: int = DEFAULT_OPSET,
    max_size: int | None = None,
    images: str | None = None,
    buckets: Sequence[Shape] = (),
    pixels: Pixels = BYTES,
    provider: Literal["cuda", "cpu"] = "cuda",
    declared: Declared | None = None,
    size_multiple: int = 1,
    licence: str | None = None,
    metrics: Mapping[str, float] | None = None,
    report: Report = lambda line: None,
) -> list[str]:
    """Turn every network of a snapshot or of a foreign file into a proved artifact; publish them once all are.

    `place` is a snapshot's folder or a run's (then its newest one), with an importer's name as `origin` a checkpoint of
    another program, or with "onnx" an ONNX file, of which `declared` and `size_multiple` say what the file does not.
    `repository` is a local folder or a URI; `name` is the artifacts' name instead of the source's. `opset` is ONNX's;
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
    asked = _Choices(opset, max_size, images, buckets, pixels, provider, licence, metrics)
    if opset not in OPSETS:
        raise ExportError(f"opset {opset} is none of {OPSETS[0]} to {OPSETS[-1]}: give another --opset")
    if origin != ONNX and (declared is not None or size_multiple != 1):
        raise ExportError(f"{place}: only ONNX files need to be described: leave --input-range and the like out")
    if origin not in (known := [SNAPSHOT, ONNX, *importers.names()]):
        raise ImporterError(f"unknown origin {origin!r}; known: {', '.join(known)}")
    if origin == ONNX:
        prepared = _from_onnx(Path(place), name, declared, size_multiple, chosen, asked)
    else:
        source = read_snapshot(place) if origin == SNAPSHOT else importers.find(origin).read(Path(place))
        prepared = _from_networks(source, origin, name, chosen, asked, report)
    with tempfile.TemporaryDirectory(prefix="zorse-export-") as staging:
        proved = []
        for entry in prepared:
            model = entry.candidate.name
            report(f"{model}: proving it against {entry.candidate.reference.name}")
            proved.append(_prove(entry, chosen, asked, Path(staging) / model))
        whole = list(_with_cycles(proved))
        return [_publish(root, entry) for entry in whole]


def _from_networks(
    source: Snapshot, origin: str, name: str | None, target: Target, choices: _Choices, report: Report
) -> Iterator[_Prepared]:
    """Each network of a snapshot, wrapped and converted."""
    names = {network: model_name(name or source.name, entry.direction) for network, entry in source.networks.items()}
    for network, model in names.items():
        wrapped = wrap(source.build(network), model, edge=source.size, pixels=choices.pixels, max_size=choices.max_size)
        size = wrapped.size and wrapped.size.from_edge(target.smallest)
        _check_buckets(model, wrapped.given, size, choices.buckets)
        domain = (source.networks[network].direction or "").partition("to")[0]
        images = _real_images(model, wrapped.given, size, wrapped.edge, target, choices.images, domain)
        report(f"{model}: converting {network} to {target.name}")
        candidate = Candidate(
            name=model,
            kind=wrapped.kind,
            given=wrapped.given,
            made=wrapped.made,
            model=convert(trace(wrapped, model), wrapped, choices.opset),
            reference=TorchReference(wrapped),
            edge=wrapped.edge,
            size=size,
            latent=wrapped.latent,
        )
        statement = Statement(source.task, source.networks[network].direction, choices.licence, choices.metrics)
        yield _Prepared(candidate, images, statement, _source(source, network, origin))


def _from_onnx(
    path: Path, name: str | None, declared: Declared | None, multiple: int, target: Target, choices: _Choices
) -> Iterator[_Prepared]:
    """The one model of an ONNX file, wrapped."""
    model = model_name(name or path.stem, None)
    if declared is None:
        raise ImporterError(f"{path}: an ONNX file does not say what black and white are: give its --input-range")
    if choices.pixels != BYTES:
        raise ImporterError(f"{path}: foreign models are made to take bytes: leave --pixels out")
    original = load_onnx(path)
    foreign = wrap_onnx(
        original,
        declared,
        opset=choices.opset,
        size_multiple=multiple,
        max_size=choices.max_size or SMALLEST_MAXIMUM,
        name=model,
    )
    size = foreign.size and foreign.size.from_edge(target.smallest)
    edge = SMALLEST_MAXIMUM // 2 if size else int(foreign.made.shape[1])
    candidate = Candidate(
        name=model,
        kind=foreign.kind,
        given=foreign.given,
        made=foreign.made,
        model=foreign.model,
        reference=OriginalReference(original, declared, model),
        edge=edge,
        size=size,
        latent=foreign.latent,
    )
    _check_buckets(model, foreign.given, size, choices.buckets)
    images = _real_images(model, foreign.given, size, edge, target, choices.images)
    statement = Statement("foreign", None, choices.licence, choices.metrics)
    yield _Prepared(candidate, images, statement, Source(ONNX, digest(original.SerializeToString()), model))


def _real_images(
    model: str, port: Port, size: SizeLimits | None, edge: int, target: Target, place: str | None, domain: str = ""
) -> list[NDArray[Any]]:
    if size is None:
        if place is not None:
            raise ImageSetError(f"{model} is a generator and takes no images: leave --images out")
        return []
    if place is None:
        if target.calibrated:
            raise ImageSetError(f"{model}: {target.name} is calibrated on real images: give some with --images")
        return []
    return load_images(place, port, size, edge, domain)


def _check_buckets(model: str, port: Port, size: SizeLimits | None, buckets: Sequence[Shape]) -> None:
    for bucket in buckets:
        fits = len(bucket) == len(port.shape) and all(
            edge == axis if isinstance(axis, int) else edge > 0 for edge, axis in zip(bucket, port.shape, strict=True)
        )
        if not fits or (size is not None and size.legal(*bucket[1:3]) != bucket[1:3]):
            axes = " x ".join(str(axis) for axis in port.shape)
            limits = f" with {size}" if size else ""
            raise UnsupportedGraphError(
                f"bucket {'x'.join(map(str, bucket))} is no legal input of {model}, which takes {axes}{limits}"
            )


def _prove(prepared: _Prepared, target: Target, choices: _Choices, folder: Path) -> _Proved:
    """Stage the first of the target's variants that is proved in `folder`."""
    candidate, statement, source = prepared.candidate, prepared.statement, prepared.source
    buckets = tuple(choices.buckets)
    if target.name != "onnx" and graph.is_large(candidate.model):
        raise UnsupportedGraphError(f"{candidate.name} is above 2 GB, for which there is the target onnx alone")
    expected = expect(candidate, prepared.images, buckets)
    refused: RefusedError | None = None
    samples = [image[None] for image in prepared.images] or list(probes(candidate))
    for model in target.variants(candidate.model, samples):
        if found := graph.faults(model, choices.provider):
            raise RefusedError(f"{candidate.name} cannot be exported", [UnsupportedGraphError(text) for text in found])
        write_model(model, candidate, target, statement, source, folder)
        try:
            compared = verify(candidate, folder, target, expected)
        except RefusedError as error:
            refused = error
            shutil.rmtree(folder)
        else:
            manifest = describe(model, candidate, target, statement, source, compared, buckets, folder)
            return _Proved(prepared, folder, manifest)
    assert refused is not None
    raise refused


def _with_cycles(proved: list[_Proved]) -> Iterator[_Proved]:
    """Translators that lead back to each other say how far images come back from themselves."""
    by_direction = {entry.manifest.direction: entry for entry in proved}
    for entry in proved:
        first, _, second = (entry.manifest.direction or "").partition("to")
        other = by_direction.get(f"{second}to{first}") if second else None
        if other is not None:
            there, back = ((end.prepared.candidate, end.folder) for end in (entry, other))
            came = cycle(there, back, entry.prepared.images)
            proof = dataclasses.replace(entry.manifest.proof, cycle=came)
            entry = dataclasses.replace(entry, manifest=dataclasses.replace(entry.manifest, proof=proof))
        yield entry


def _publish(repository: Repository, proved: _Proved) -> str:
    version = repository.add(proved.folder, proved.manifest)
    return f"{repository.place}/{proved.manifest.name}/{version}"


def _source(source: Snapshot, network: str, origin: str) -> Source:
    if origin != SNAPSHOT:
        return Source(origin, source.digest, network)
    config = source.config
    return Source(
        origin,
        source.digest,
        network,
        images_seen=source.images_seen,
        ema=source.ema,
        config=config,
        config_digest=hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest(),
        revision=config.get("run", {}).get("revision"),
    )
