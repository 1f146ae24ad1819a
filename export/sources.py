"""Builds the models under test from a snapshot, a foreign state dict or an ONNX file, with real images for each."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import nn

from export.bundle import model_name
from export.convert import convert
from export.errors import ImporterError
from export.foreign import wrap_onnx
from export.images import ImagePlace, real_images
from export.importers import base as importers
from export.interface import DEFAULT_MAX_SIZE, Interface
from export.lint import trace
from export.manifest import Provenance
from export.model_under_test import ModelUnderTest
from export.onnx_source import load_onnx
from export.options import ONNX, SNAPSHOT, ExportOptions, Report
from export.proof_inputs import check_buckets
from export.reference import OnnxReference, TorchReference
from export.targets.base import Target
from export.wrapper import wrap
from trainer.snapshot import Snapshot, read_snapshot
from zorse_common.errors import nearest_hint

Images = list[NDArray[Any]]


def find_origin(place: str, origin: str) -> str:
    """Return the format of `place`: `origin` itself, or if that is "auto" what the file or folder is.

    Raises:
        ImporterError: `origin` is unknown, or no importer knows the tensors of the file.
    """
    if origin in (ONNX, SNAPSHOT, *importers.names()):
        return origin
    if origin != "auto":
        known = ["auto", SNAPSHOT, ONNX, *importers.names()]
        raise ImporterError(f"unknown origin {origin!r}{nearest_hint(origin, known)}; known: {', '.join(known)}")
    path = Path(place)
    if not path.is_file():
        return SNAPSHOT
    return ONNX if path.suffix.lower() == ".onnx" else importers.recognise(path).name


def models_under_test(
    place: str, origin: str, target: Target, options: ExportOptions, report: Report
) -> Iterator[tuple[ModelUnderTest, Images]]:
    """Yield each model at `place` with real images for it, converted once all of them can be exported.

    Raises:
        trainer.errors.TrainerError: the snapshot cannot be read or built.
        ExportError: a file cannot be imported, the images cannot be used, or a network cannot be exported.
    """
    if origin == ONNX:
        yield _from_onnx(Path(place), target, options, report)
        return
    snapshot = read_snapshot(place) if origin == SNAPSHOT else _imported(origin, Path(place), options.direction)
    yield from _from_snapshot(snapshot, origin, target, options, report)


def _imported(origin: str, path: Path, direction: str | None) -> Snapshot:
    """Read a foreign state dict; `direction` is the user's if the file name says none.

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
    # "AtoB" names its source; "phototomap" could be split in two ways, and then all images are taken.
    domains = direction.split("to")
    source = domains[0] if len(domains) == 2 and all(domains) else None
    changed = dataclasses.replace(entry, direction=direction, source=source)
    return dataclasses.replace(snapshot, networks={network: changed})


def _from_snapshot(
    snapshot: Snapshot, origin: str, target: Target, options: ExportOptions, report: Report
) -> Iterator[tuple[ModelUnderTest, Images]]:
    # All networks are traced before the first is converted: a pair is refused at once and not after minutes.
    traced = []
    for network, entry in snapshot.networks.items():
        name = model_name(options.name or snapshot.name, entry.direction)
        wrapped = wrap(
            snapshot.build(network),
            name,
            training_size=entry.size,
            pixels=options.pixels,
            max_size=options.max_size,
            labels=entry.labels,
        )
        traceable = dataclasses.replace(wrapped, interface=_for_target(wrapped.interface, target))
        check_buckets(name, traceable.interface, options.buckets)
        report(_summary(name, traceable.interface, traceable.graph.network))
        place = _image_place(options, entry.source or "", _trained_range(snapshot.config))
        if traceable.interface.kind == "generator" and any(other.direction for other in snapshot.networks.values()):
            place = None  # the images are for the translators of the same snapshot
        images = real_images(name, traceable.interface, traceable.training_size, target, place, report)
        traced.append((network, name, traceable, images, trace(traceable, name)))
    for network, name, traceable, images, program in traced:
        report(f"{name}: converting {network} to {target.name}")
        model = ModelUnderTest(
            name=name,
            interface=traceable.interface,
            model=convert(program, traceable.interface, options.opset),
            reference=TorchReference(traceable),
            training_size=traceable.training_size,
            provenance=_provenance(snapshot, network, origin),
            task=snapshot.task,
            direction=snapshot.networks[network].direction,
            licence=options.licence,
            metrics=options.metrics,
        )
        yield model, images


def _from_onnx(path: Path, target: Target, options: ExportOptions, report: Report) -> tuple[ModelUnderTest, Images]:
    name = model_name(options.name or path.stem, options.direction)
    foreign, digest = load_onnx(path)
    maximum = options.max_size or DEFAULT_MAX_SIZE
    wrapped = wrap_onnx(foreign, options.declared, name=name, opset=options.opset, max_size=maximum)
    if wrapped.interface.kind == "generator" and options.direction is not None:
        raise ImporterError(f"{path} is a generator, which translates nothing: leave --direction out")
    interface = _for_target(wrapped.interface, target)
    report(_summary(name, interface, None))
    size = DEFAULT_MAX_SIZE // 2 if interface.size else int(interface.outputs[0].shape[1])
    model = ModelUnderTest(
        name=name,
        interface=interface,
        model=wrapped.model,
        reference=OnnxReference(wrapped.source),
        training_size=size,
        provenance=Provenance(ONNX, digest, name),
        task="foreign",
        direction=options.direction,
        licence=options.licence,
        metrics=options.metrics,
    )
    check_buckets(name, interface, options.buckets)
    return model, real_images(name, interface, size, target, _image_place(options), report)


def _image_place(
    options: ExportOptions, domain: str = "", trained_range: tuple[float, float] | None = None
) -> ImagePlace | None:
    return None if options.images is None else ImagePlace(options.images, domain, options.images_range or trained_range)


def _for_target(interface: Interface, target: Target) -> Interface:
    """Return `interface` without the image sizes that are too small for the target."""
    size = interface.size and interface.size.at_least(target.smallest)
    return dataclasses.replace(interface, size=size)


def _trained_range(config: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the value range that the run declared for its training images."""
    low_high = config.get("data", {}).get("value_range")
    return None if low_high is None else (low_high[0], low_high[1])


def _summary(name: str, interface: Interface, network: nn.Module | None) -> str:
    """Return one line that says what is about to be exported."""
    inputs, output = (
        " and ".join(" × ".join(map(str, spec.shape[1:])) or spec.name for spec in specs)
        for specs in (interface.inputs, interface.outputs)
    )
    weights = f", {sum(p.numel() for p in network.parameters()):,} parameters" if network is not None else ""
    return f"{name}: a {interface.kind} from {inputs} to {output}{weights}"


def _provenance(snapshot: Snapshot, network: str, origin: str) -> Provenance:
    if origin != SNAPSHOT:
        return Provenance(origin, snapshot.digest, network)
    config = snapshot.config
    return Provenance(
        origin,
        snapshot.digest,
        network,
        images_seen=snapshot.images_seen,
        ema=snapshot.ema,
        config=config,
        config_digest=hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest(),
        revision=config.get("run", {}).get("revision"),
    )
