"""A field of the manifest that was changed is named, and so is one under a forged seal."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper

from export.manifest import Latent, Manifest, Tensor
from export.sizes import SizeLimits
from serving.errors import ArtifactError
from serving.replay import verify
from tests.serving.forged import MODELS, flip, forge, starts, weight_at
from tests.serving.tiny import LATENT_DIM, generator_manifest, inverter_manifest, write

FIELDS = sorted(field.name for field in dataclasses.fields(Manifest) if field.name != "schema_version")


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    return write(tmp_path, *MODELS["digits"])


def altered(value: Any) -> Any:
    """Another value of the same JSON type where there is one."""
    if isinstance(value, bool) or value is None:
        return 1
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, int | float):
        return value + 1
    return [*value, 1] if isinstance(value, list) else value | {"x": 1}


@pytest.mark.parametrize("name", FIELDS)
def test_a_changed_field_is_named(digits: Path, name: str) -> None:
    path = digits / "manifest.json"
    fields = json.loads(path.read_text())
    fields[name] = altered(fields[name])
    path.write_text(json.dumps(fields))
    with pytest.raises(ArtifactError, match=rf"manifest\.json was changed after it was written \({name}\)"):
        verify(digits, "cpu")
    with pytest.raises(ArtifactError, match=rf"\({name}\)"):
        starts(digits)


def test_a_missing_field_and_a_missing_seal_are_named(digits: Path) -> None:
    path = digits / "manifest.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in fields.items() if name != "task"}))
    with pytest.raises(ArtifactError, match=r"changed after it was written \(task\)"):
        verify(digits, "cpu")
    path.write_text(json.dumps({name: value for name, value in fields.items() if name != "seal"}))
    with pytest.raises(ArtifactError, match="has no seal"):
        verify(digits, "cpu")
    for version, message in ((3, "has schema version 3"), (1, "breaks the artifact contract")):
        path.write_text(json.dumps(fields | {"schema_version": version}))
        with pytest.raises(ArtifactError, match=message):
            verify(digits, "cpu")


def port(manifest: Manifest, side: str, **changes: Any) -> tuple[Tensor, ...]:
    return (dataclasses.replace(getattr(manifest, side)[0], **changes),)


GENERATOR, INVERTER = generator_manifest(), inverter_manifest()
FORGED: list[tuple[str, str, Any]] = [
    ("digits", "name", "numbers"),
    ("digits", "task", "cyclegan"),
    ("digits", "kind", "translator"),
    ("digits", "target", "onnx-fp16"),
    ("digits", "direction", "AtoB"),  # where the model has none
    ("digits", "source", dataclasses.replace(GENERATOR.source, digest="beef")),
    ("digits", "source", dataclasses.replace(GENERATOR.source, network="critic")),
    ("digits", "source", dataclasses.replace(GENERATOR.source, images_seen=5)),
    ("digits", "inputs", port(GENERATOR, "inputs", name="code")),
    ("digits", "inputs", port(GENERATOR, "inputs", dtype="int64")),
    ("digits", "inputs", port(GENERATOR, "inputs", shape=("batch", LATENT_DIM + 1))),
    ("digits", "inputs", port(GENERATOR, "inputs", shape=(2, LATENT_DIM))),
    ("digits", "inputs", (*GENERATOR.inputs, Tensor("label", "int64", ("batch",), "class"))),
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
def test_a_field_under_a_forged_seal_is_held_against_the_model(
    tmp_path: Path, name: str, field: str, value: Any
) -> None:
    folder = write(tmp_path, *MODELS[name])
    forge(folder, **{field: value})
    said = "network|source_digest|images_seen" if field == "source" else field
    with pytest.raises(ArtifactError, match=rf"(: |, )({said})[, ].*of the manifest and of the model do not agree"):
        verify(folder, "cpu")


def test_a_golden_sample_cannot_be_left_out(digits: Path) -> None:
    (digits / "golden.npz").unlink()
    forge(digits)
    with pytest.raises(ArtifactError, match="1: files of the manifest and of the model do not agree"):
        verify(digits, "cpu")


# The first schema


def old_manifest(folder: Path) -> None:
    """Write the manifest of `digits` as the first schema had it."""
    model = (folder / "model.onnx").read_bytes()
    now = json.loads((folder / "manifest.json").read_text())
    new = {"files", "nodes", "graph_digest", "weights_digest", "labels", "buckets", "metrics", "licence", "seal"}
    old = {name: value for name, value in now.items() if name not in new} | {
        "schema_version": 1,
        "sha256": hashlib.sha256(model).hexdigest(),
        "nbytes": len(model),
        "source": {
            "snapshot_digest": now["source"]["digest"],
            "images_seen": 1280,
            "ema": False,
            "network": "generator",
            "config": {},
        },
        "proof": {
            "max_grey_diff": 1,
            "psnr": None,
            "shapes": [[1, LATENT_DIM]],
            "real_images": 0,
            "onnxruntime": "1.31.1",
            "torch": "2.13.0",
        },
    }
    (folder / "manifest.json").write_text(json.dumps(old))


def write_old(repository: Path) -> Path:
    """An artifact as the first schema had it: without a golden sample, and a model that says less of itself."""
    folder = write(repository, *MODELS["digits"])
    graph = onnx.load(folder / "model.onnx")
    facts = {entry.key: entry.value for entry in graph.metadata_props if entry.key != "zorse.target"}
    facts["zorse.snapshot_digest"] = facts.pop("zorse.source_digest")
    helper.set_model_props(graph, facts | {"zorse.schema_version": "1"})
    onnx.save(graph, folder / "model.onnx")
    (folder / "golden.npz").unlink()
    old_manifest(folder)
    return folder


def test_an_artifact_of_the_first_schema_is_verified_without_a_sample(tmp_path: Path) -> None:
    folder = write_old(tmp_path)
    found = verify(folder, "cpu")
    assert (found.samples, found.max_grey_diff) == (0, 0)
    assert found.artifact.manifest.latent == Latent(LATENT_DIM)
    starts(folder)
    flip(folder / "model.onnx", weight_at(folder), 0)
    with pytest.raises(ArtifactError, match=r"model\.onnx is not the file"):
        verify(folder, "cpu")


def test_an_artifact_cannot_pass_for_one_of_the_first_schema(digits: Path) -> None:
    old_manifest(digits)
    with pytest.raises(ArtifactError, match="files of the manifest and of the model do not agree"):
        verify(digits, "cpu")
