"""Stages what was proved in a folder, with all that the artifact contract asks for beside the model."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from export import graph
from export.candidate import Candidate, Shape
from export.errors import RepositoryError
from export.manifest import (
    GOLDEN_FILE,
    MODEL_FILE,
    NAME,
    WEIGHTS_FILE,
    Manifest,
    file_entry,
    model_properties,
)
from export.targets.base import Target
from export.verify import Compared


def model_name(name: str, direction: str | None) -> str:
    """The artifact's name: `name`, and the direction of a translator after a dash.

    Raises:
        RepositoryError: it could not stand in a path and in a URL.
    """
    full = f"{name}-{direction}" if direction else name
    if not NAME.fullmatch(full):
        raise RepositoryError(
            f"model name {full!r} may hold letters, digits, '.', '_' and '-' only, and starts with a letter or "
            "digit: give another with --name"
        )
    return full


def write_model(model: onnx.ModelProto, candidate: Candidate, target: Target, folder: Path) -> None:
    """Write the model's files into `folder`, with what must be known of it where its manifest is not at hand.

    Raises:
        UnsupportedGraphError: it breaks ONNX's rules.
    """
    properties = model_properties(
        name=candidate.name,
        task=candidate.statement.task,
        target=target.name,
        direction=candidate.statement.direction,
        provenance=candidate.provenance,
        interface=candidate.interface,
    )
    onnx.helper.set_model_props(model, {f"zorse.{key}": value for key, value in properties.items()})
    folder.mkdir()
    graph.save(model, folder)
    graph.check(folder)


def describe(
    model: onnx.ModelProto,
    candidate: Candidate,
    target: Target,
    compared: Compared,
    buckets: tuple[Shape, ...],
    folder: Path,
) -> Manifest:
    """Write the golden sample into `folder`, and return the manifest of all that is there, without a version.

    `model` is the one that was written there.
    """
    golden: dict[str, Any] = {f"input_{i}": given for i, (given, _) in enumerate(compared.golden)}
    golden |= {f"output_{i}": made for i, (_, made) in enumerate(compared.golden)}
    np.savez_compressed(folder / GOLDEN_FILE, **golden)
    names = [name for name in (MODEL_FILE, WEIGHTS_FILE, GOLDEN_FILE) if (folder / name).exists()]
    return Manifest(
        name=candidate.name,
        version=0,
        task=candidate.statement.task,
        target=target.name,
        opset=next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")),
        interface=candidate.interface,
        files={name: file_entry(folder / name) for name in names},
        nodes=len(model.graph.node),
        graph_digest=graph.graph_digest(model),
        weights_digest=graph.weights_digest(model),
        provenance=candidate.provenance,
        proof=compared.proof,
        direction=candidate.statement.direction,
        buckets=buckets,
        metrics=dict(candidate.statement.metrics or {}),
        licence=candidate.statement.licence,
        zorse_version=_zorse_version(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _zorse_version() -> str:
    try:
        return metadata.version("zorse")
    except metadata.PackageNotFoundError:
        return ""
