"""A changed manifest is refused, and so is a field that contradicts the model under a forged digest."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from export.interface import Latent, SizeLimits, TensorSpec
from export.manifest import GOLDEN_FILE, Manifest, fields_digest
from serving.errors import ArtifactError
from serving.selftest import verify_artifact
from tests.serving.forged import MODELS, forge, start_replica
from tests.serving.tiny import LATENT_DIM, generator_manifest, inverter_manifest, write

FIELDS = sorted({*(field.name for field in dataclasses.fields(Manifest)), "digest"} - {"schema_version"})


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    return write(tmp_path, *MODELS["digits"])


def altered(value: Any) -> Any:
    """Return another value, of the same JSON type if it has other values."""
    if isinstance(value, bool) or value is None:
        return 1
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, int | float):
        return value + 1
    return [*value, 1] if isinstance(value, list) else value | {"x": 1}


@pytest.mark.parametrize("name", FIELDS)
def test_manifest_with_a_changed_or_missing_field_is_refused(digits: Path, name: str) -> None:
    path = digits / "manifest.json"
    fields = json.loads(path.read_text())
    for changed in (fields | {name: altered(fields[name])}, {key: fields[key] for key in fields if key != name}):
        path.write_text(json.dumps(changed))
        with pytest.raises(ArtifactError, match=r"manifest\.json was changed after it was written: restore it"):
            verify_artifact(digits, "cpu")
        with pytest.raises(ArtifactError, match="was changed after it was written"):
            start_replica(digits)


def test_manifest_of_another_schema_is_refused(digits: Path) -> None:
    path = digits / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 3}))
    with pytest.raises(ArtifactError, match="has schema version 3"):
        verify_artifact(digits, "cpu")


def port(manifest: Manifest, side: str, **changes: Any) -> tuple[TensorSpec, ...]:
    return (dataclasses.replace(getattr(manifest.interface, side)[0], **changes),)


GENERATOR, INVERTER = generator_manifest(), inverter_manifest()
FORGED: list[tuple[str, str, Any]] = [
    ("digits", "name", "numbers"),
    ("digits", "task", "cyclegan"),
    ("digits", "kind", "translator"),
    ("digits", "target", "onnx-fp16"),
    ("digits", "direction", "AtoB"),  # where the model has none
    ("digits", "provenance", dataclasses.replace(GENERATOR.provenance, digest="beef")),
    ("digits", "provenance", dataclasses.replace(GENERATOR.provenance, network="critic")),
    ("digits", "provenance", dataclasses.replace(GENERATOR.provenance, images_seen=5)),
    ("digits", "inputs", port(GENERATOR, "inputs", name="code")),
    ("digits", "inputs", port(GENERATOR, "inputs", dtype="int64")),
    ("digits", "inputs", port(GENERATOR, "inputs", shape=("batch", LATENT_DIM + 1))),
    ("digits", "inputs", port(GENERATOR, "inputs", shape=(2, LATENT_DIM))),
    ("digits", "inputs", (*GENERATOR.interface.inputs, TensorSpec("label", "int64", ("batch",), "class"))),
    ("digits", "outputs", port(GENERATOR, "outputs", name="picture")),
    ("digits", "outputs", port(GENERATOR, "outputs", dtype="uint16")),
    ("digits", "outputs", port(GENERATOR, "outputs", shape=("batch", 8, 8, 1))),
    ("digits", "outputs", port(GENERATOR, "outputs", value_range=(0, 10**9))),
    ("digits", "latent", Latent(LATENT_DIM + 1)),
    ("digits", "latent", None),
    ("digits", "size", SizeLimits.square(4, 16, 320)),
    ("invert", "direction", "BtoA"),
    ("invert", "direction", None),
    ("invert", "kind", "generator"),
    ("invert", "inputs", port(INVERTER, "inputs", dtype="uint16")),
    ("invert", "outputs", port(INVERTER, "outputs", shape=("batch", "width", "height", 3))),
    ("invert", "size", None),
    ("invert", "latent", Latent(3)),
    ("invert at one size", "size", SizeLimits.square(4, 16, 320)),
    ("invert at one size", "size", SizeLimits.square(32, 32, 32)),
]


@pytest.mark.parametrize(("name", "field", "value"), FORGED, ids=lambda value: str(value)[:40])
def test_check_fields_compares_a_field_under_a_forged_digest_with_the_model(
    tmp_path: Path, name: str, field: str, value: Any
) -> None:
    folder = write(tmp_path, *MODELS[name])
    forge(folder, **{field: value})
    names = "network|source_digest|images_seen" if field == "provenance" else field
    with pytest.raises(ArtifactError, match=rf"(: |, )({names})[, ].*of the manifest and of the model do not agree"):
        verify_artifact(folder, "cpu")


def test_golden_sample_cannot_be_left_out(digits: Path) -> None:
    path = digits / "manifest.json"
    fields = json.loads(path.read_text())
    del fields["files"][GOLDEN_FILE], fields["digest"]
    path.write_text(json.dumps(fields | {"digest": fields_digest(fields)}))
    with pytest.raises(ArtifactError, match=r"breaks the artifact contract \(files has no golden\.npz\)"):
        verify_artifact(digits, "cpu")
