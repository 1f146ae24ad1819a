"""Stages the files of an artifact: the model, the golden sample and the manifest."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from export import graph
from export.errors import RepositoryError
from export.feeds import Sample
from export.layout import NAME_RULE
from export.manifest import (
    GOLDEN_FILE,
    MODEL_FILE,
    NAME,
    WEIGHTS_FILE,
    Manifest,
    ModelCard,
    file_entry,
    golden_key,
    model_properties,
)
from export.model_under_test import ModelUnderTest, Shape
from export.proof import ProofResult
from export.targets.base import Target


def model_name(name: str, direction: str | None) -> str:
    """Return the artifact's name: `name`, and the direction of a translator after a dash.

    Raises:
        RepositoryError: it could not stand in a path and in a URL.
    """
    full = f"{name}-{direction}" if direction else name
    if not NAME.fullmatch(full):
        raise RepositoryError(f"model name {full!r} {NAME_RULE}: give another with --name")
    return full


def write_model(model: onnx.ModelProto, tested: ModelUnderTest, target: Target, folder: Path) -> None:
    """Write the files of `model` into the new `folder`; its metadata repeats what the manifest will say of it.

    `model` is the target's variant of the model of `tested`.

    Raises:
        UnsupportedGraphError: it breaks ONNX's rules.
    """
    properties = model_properties(tested, target.name)
    onnx.helper.set_model_props(model, {f"zorse.{key}": value for key, value in properties.items()})
    folder.mkdir()
    graph.save(model, folder)
    graph.check(folder)


def describe(
    model: onnx.ModelProto,
    tested: ModelUnderTest,
    target: Target,
    result: ProofResult,
    buckets: tuple[Shape, ...],
    folder: Path,
) -> Manifest:
    """Write the golden sample into `folder`, and return the manifest of all files there, with version 0.

    `model` is the one that `write_model` wrote there.
    """
    np.savez_compressed(folder / GOLDEN_FILE, allow_pickle=False, **_golden_arrays(result.golden, tested))
    names = [name for name in (MODEL_FILE, WEIGHTS_FILE, GOLDEN_FILE) if (folder / name).exists()]
    card = {field.name: getattr(tested, field.name) for field in dataclasses.fields(ModelCard)}
    return Manifest(
        **card,
        version=0,
        target=target.name,
        opset=next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")),
        files={name: file_entry(folder / name) for name in names},
        nodes=len(model.graph.node),
        graph_digest=graph.graph_digest(model),
        weights_digest=graph.weights_digest(model),
        proof=result.proof,
        buckets=buckets,
        zorse_version=_zorse_version(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _golden_arrays(samples: list[Sample], tested: ModelUnderTest) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    for number, sample in enumerate(samples):
        arrays |= {golden_key("input", number, name): array for name, array in sample.feeds.items()}
        arrays[golden_key("output", number, tested.image_spec.name)] = sample.image
    return arrays


def _zorse_version() -> str:
    try:
        return metadata.version("zorse")
    except metadata.PackageNotFoundError:
        return ""
