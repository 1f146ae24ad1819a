"""The manifest: a golden file, older schemas, and one field after another that was changed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from export.errors import ManifestError
from export.manifest import GOLDEN_FILE, MODEL_FILE, Cycle, FileEntry, Latent, Manifest, Proof, Source, read_manifest
from export.sizes import EdgeLimits, SizeLimits
from tests.export.conftest import BUCKET
from tests.export.networks import LARGEST

HERE = Path(__file__).parent
TEXT = (HERE / "golden_manifest.json").read_text(encoding="utf-8")
TEXT_1 = (HERE / "golden_manifest_1.json").read_text(encoding="utf-8")
GOLDEN = Manifest.from_json(TEXT)
FIELDS = sorted(set(json.loads(TEXT)) - {"seal", "schema_version"})


def _read(data: dict[str, Any]) -> Manifest:
    return Manifest.from_json(json.dumps(data), "it.json")


def test_the_golden_manifest_reads_back_as_written() -> None:
    assert GOLDEN.to_json() == TEXT
    assert GOLDEN.size == SizeLimits.square(4, 8, LARGEST)
    assert isinstance(GOLDEN.proof, Proof)
    assert GOLDEN.proof.cycle == Cycle(reference=20.5, onnxruntime=20.25)
    assert GOLDEN.inputs[0].shape == ("batch", "height", "width", 3)
    assert GOLDEN.buckets == (BUCKET,)


def test_export_writes_the_golden_manifest_but_for_what_is_measured(pair: list[Path]) -> None:
    made = read_manifest(pair[0])
    assert made.proof.cycle is not None
    fixed = dataclasses.replace(
        made,
        files={name: FileEntry("0" * 64, 1) for name in made.files},
        nodes=29,
        graph_digest="2" * 64,
        weights_digest="3" * 64,
        created="2026-01-01T00:00:00+00:00",
        zorse_version="0.1.0",
        source=dataclasses.replace(made.source, digest="1" * 64),
        proof=dataclasses.replace(
            made.proof,
            max_grey_diff=1,
            p999_grey_diff=0,
            psnr=80.5,
            onnxruntime="1.31.1",
            reference="torch 2.13.0",
            cycle=Cycle(reference=20.5, onnxruntime=20.25),
        ),
    )
    assert fixed.to_json() == TEXT


def test_the_first_schema_is_still_read() -> None:
    old, data = Manifest.from_json(TEXT_1), json.loads(TEXT_1)
    assert data["schema_version"] == 1
    assert (old.name, old.kind, old.version, old.direction) == ("toy-AtoB", "translator", 1, "AtoB")
    assert old.files == {MODEL_FILE: FileEntry(data["sha256"], data["nbytes"])}
    assert old.size == SizeLimits(EdgeLimits(4, 8, 2048), EdgeLimits(4, 8, 2048))
    assert old.source == Source("snapshot", "1" * 64, "A2B", 640, True, {"run": {"seed": 0}})
    assert old.proof.reference == "torch 2.13.0"
    assert (old.proof.max_grey_diff, old.proof.p999_grey_diff, old.proof.psnr) == (1, 1, 80.5)
    assert old.proof.shapes[0] == (1, 16, 16, 3)
    assert (old.buckets, old.labels, old.metrics, old.licence) == ((), None, {}, None)
    assert Manifest.from_json(old.to_json()) == old


def test_a_generator_of_the_first_schema_is_still_read() -> None:
    data = json.loads(TEXT_1) | {"kind": "generator", "latent": {"dim": 8, "distribution": "normal"}, "size": None}
    old = _read(data)
    assert (old.latent, old.size) == (Latent(8), None)


@pytest.mark.parametrize("missing", ["sha256", "nbytes", "proof", "source", "size", "inputs"])
def test_a_first_schema_without_a_field_is_refused(missing: str) -> None:
    data = json.loads(TEXT_1)
    del data[missing]
    with pytest.raises(ManifestError, match=rf"it\.json breaks the artifact contract \('?{missing}\b"):
        _read(data)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("change", ["another value", "removed"])
def test_a_field_that_was_changed_is_named(field: str, change: str) -> None:
    data = json.loads(TEXT)
    if change == "removed":
        del data[field]
    else:
        data[field] = _other(data[field])
    with pytest.raises(ManifestError, match=rf"^it\.json was changed after it was written \({field}\): restore it or"):
        _read(data)


def _other(value: Any) -> Any:
    """Something near to `value` that is not it."""
    if isinstance(value, dict):
        return value | {next(iter(value), "key"): "another"}
    if isinstance(value, list):
        return [*value, *value[:1], 1]
    return value + 1 if isinstance(value, int) else f"{value or ''}!"


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        (("proof", "max_grey_diff"), 0, "proof"),
        (("proof", "cycle", "onnxruntime"), 0.0, "proof"),
        (("files", MODEL_FILE, "sha256"), "1" * 64, "files"),
        (("files", GOLDEN_FILE, "nbytes"), 2, "files"),
        (("size", "height", "maximum"), 4096, "size"),
        (("inputs", 0, "value_range", 1), 1.0, "inputs"),
        (("source", "config", "run", "seed"), 1, "source"),
        (("metrics", "fid"), 2.5, "metrics"),
    ],
)
def test_a_change_deep_inside_is_named_too(path: tuple[Any, ...], value: Any, field: str) -> None:
    data = inner = json.loads(TEXT)
    for key in path[:-1]:
        inner = inner[key]
    assert inner[path[-1]] != value
    inner[path[-1]] = value
    with pytest.raises(ManifestError, match=rf"was changed after it was written \({field}\)"):
        _read(data)


def test_several_changes_are_named_together_and_a_field_that_was_added_too() -> None:
    data = json.loads(TEXT) | {"licence": "none", "colour": "red", "opset": 7}
    with pytest.raises(ManifestError, match=r"changed after it was written \(colour, licence, opset\)"):
        _read(data)


@pytest.mark.parametrize("seal", [None, "all of it", []])
def test_a_manifest_without_a_seal_is_refused(seal: Any) -> None:
    with pytest.raises(ManifestError, match="has no seal"):
        _read(json.loads(TEXT) | {"seal": seal})
    data = json.loads(TEXT)
    del data["seal"]
    with pytest.raises(ManifestError, match="has no seal"):
        _read(data)


@pytest.mark.parametrize("version", [0, 3, "2", None, 2.5])
def test_another_schema_is_refused_with_what_to_do(version: Any) -> None:
    with pytest.raises(ManifestError, match=r"has schema version .* and this zorse reads 1 to 2: export the model ag"):
        _read(json.loads(TEXT) | {"schema_version": version})


def test_the_second_schema_cannot_pass_for_the_first_to_go_without_its_seal() -> None:
    with pytest.raises(ManifestError, match="breaks the artifact contract"):
        _read(json.loads(TEXT) | {"schema_version": 1})


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", "[" * 100_000, "1" * 5000], ids=lambda text: text[:3])
def test_what_is_no_json_object_is_refused(text: str) -> None:
    with pytest.raises(ManifestError, match=r"^it\.json is not (JSON|a JSON object)"):
        Manifest.from_json(text, "it.json")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"kind": "painter"}, "kind is 'painter'"),
        ({"version": "1"}, "version is '1'"),
        ({"inputs": ()}, "there are no inputs or no outputs"),
        ({"files": {}}, "files has no model.onnx"),
        ({"size": SizeLimits.square(0, 8, 64)}, "size is"),
        ({"size": SizeLimits.square(128, 8, 64)}, "size is"),
        ({"latent": Latent(0)}, "latent is"),
        ({"version": -1}, "version is -1"),
        ({"version": True}, "version is True"),
        ({"opset": 20.5}, r"opset is 20\.5"),
        ({"size": []}, r"size is \[\]"),
        ({"size": SizeLimits.square(4, 100, 64)}, "size is"),
        ({"size": SizeLimits.square(4, -5, 64)}, "size is"),
        ({"size": SizeLimits.square(4, 5, 7)}, "size is"),
        ({"buckets": ((True, 16, 16, 3),)}, r"buckets\[0\]\[0\] is True"),
        ({"metrics": {"fid": float("nan")}}, r"metrics\.fid is nan"),
        ({"proof": dataclasses.replace(GOLDEN.proof, replay_tolerance="a")}, r"proof\.replay_tolerance is 'a'"),
        ({"proof": dataclasses.replace(GOLDEN.proof, replay_tolerance=None)}, r"proof\.replay_tolerance is None"),
        ({"outputs": (dataclasses.replace(GOLDEN.outputs[0], value_range=("a", "b")),)}, r"value_range\[0\] is 'a'"),
        (
            {"outputs": (dataclasses.replace(GOLDEN.outputs[0], value_range=(5, 5)),)},
            r"value range of image is \(5, 5\)",
        ),
        ({"outputs": (dataclasses.replace(GOLDEN.outputs[0], value_range=(0,)),)}, r"value_range is \[0\]"),
        ({"outputs": (dataclasses.replace(GOLDEN.outputs[0], dtype="uint7"),)}, r"outputs\[0\]\.dtype is 'uint7'"),
    ],
)
def test_a_manifest_that_no_server_could_use_is_refused_though_it_is_sealed(
    change: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ManifestError, match=rf"it\.json breaks the artifact contract \(.*{reason}"):
        Manifest.from_json(dataclasses.replace(GOLDEN, **change).to_json(), "it.json")


def test_a_folder_without_a_manifest_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"is not an artifact: manifest\.json cannot be read"):
        read_manifest(tmp_path)
