"""Artifacts, and functions that damage them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np

from export import manifest as contract
from export.interface import Interface
from serving.application_names import application_name
from serving.config import ModelSettings
from serving.deployment import ModelReplica
from tests.serving.tiny import (
    REALS,
    WORDS,
    conditional_manifest,
    generator_graph,
    generator_manifest,
    inverter_graph,
    inverter_manifest,
    upscaler_manifest,
    with_interface,
    write_manifest,
)

MODELS = {
    "digits": (generator_graph(), generator_manifest()),
    "digits of 16 bits": (generator_graph(WORDS), generator_manifest(pixels=WORDS)),
    "invert": (inverter_graph(), inverter_manifest()),
    "invert in floats": (inverter_graph(REALS), inverter_manifest(pixels=REALS)),
    "classes": (generator_graph(classes=3), conditional_manifest()),
    "upscale": (inverter_graph(scale=2), upscaler_manifest()),
    "invert at one size": (inverter_graph(axes=(1, 32, 48, 3)), inverter_manifest(axes=(1, 32, 48, 3))),
}


def forge(folder: Path, **fields: Any) -> None:
    """Change fields of the manifest or of its interface, and make its digests fit."""
    manifest = contract.read_manifest(folder)
    inner = {name: fields.pop(name) for name in list(fields) if name in Interface.__dataclass_fields__}
    write_manifest(folder, dataclasses.replace(with_interface(manifest, **inner), **fields))


def flip(path: Path, position: int, bit: int) -> None:
    """Flip the bit `bit` of the value that begins at byte `position` of the file."""
    content = bytearray(path.read_bytes())
    content[position + bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def weight_at(folder: Path, name: str = "model.onnx") -> int:
    """Return the byte position of a randomly chosen weight in the file `name`."""
    tensor = next(entry for entry in generator_graph().graph.initializer if entry.name == "weight")
    index = int(np.random.default_rng(3).integers(len(tensor.raw_data) // 4))
    return (folder / name).read_bytes().index(tensor.raw_data) + 4 * index


def start_replica(folder: Path, name: str = "digits") -> None:
    """Construct a replica of the artifact `name` as Ray Serve does on a cluster, but without a gateway to report to."""
    replica = SimpleNamespace(app_name=application_name(name), replica_id=SimpleNamespace(unique_id="one"))
    with (
        patch("serving.deployment.serve.get_replica_context", return_value=replica),
        patch("serving.deployment.Reporter"),
    ):
        ModelReplica(ModelSettings(name=name, artifact=str(folder)))
