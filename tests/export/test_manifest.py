"""The manifest: a golden file, and one changed field after another."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from export.errors import ManifestError
from export.interface import SizeLimits
from export.manifest import (
    GOLDEN_FILE,
    MODEL_FILE,
    Cycle,
    FileEntry,
    Manifest,
    Proof,
    fields_digest,
    read_manifest,
)
from tests.export.conftest import BUCKET
from tests.export.networks import LARGEST

HERE = Path(__file__).parent
TEXT = (HERE / "golden_manifest.json").read_text(encoding="utf-8")
GOLDEN = Manifest.from_json(TEXT)
FIELDS = sorted(set(json.loads(TEXT)) - {"schema_version"})


def _read(data: dict[str, Any]) -> Manifest:
    return Manifest.from_json(json.dumps(data), "it.json")


def test_golden_manifest_reads_back_as_written() -> None:
    assert GOLDEN.to_json() == TEXT
    assert GOLDEN.interface.size == SizeLimits.square(4, 8, LARGEST)
    assert isinstance(GOLDEN.proof, Proof)
    assert GOLDEN.proof.cycle == Cycle(reference=20.5, onnxruntime=20.25)
    assert GOLDEN.interface.inputs[0].shape == ("batch", "height", "width", 3)
    assert GOLDEN.buckets == (BUCKET,)


def test_export_writes_the_golden_manifest_except_for_measurements(pair: list[Path]) -> None:
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
        provenance=dataclasses.replace(made.provenance, digest="1" * 64),
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


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("change", ["another value", "removed"])
def test_manifest_with_a_changed_field_is_refused(field: str, change: str) -> None:
    data = json.loads(TEXT)
    if change == "removed":
        del data[field]
    else:
        data[field] = _other(data[field])
    with pytest.raises(ManifestError, match=r"^it\.json was changed after it was written: restore it or export"):
        _read(data)


def _other(value: Any) -> Any:
    """Something near to `value` that is not it."""
    if isinstance(value, dict):
        return value | {next(iter(value), "key"): "another"}
    if isinstance(value, list):
        return [*value, *value[:1], 1]
    return value + 1 if isinstance(value, int) else f"{value or ''}!"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("proof", "max_grey_diff"), 0),
        (("proof", "cycle", "onnxruntime"), 0.0),
        (("files", MODEL_FILE, "sha256"), "1" * 64),
        (("files", GOLDEN_FILE, "nbytes"), 2),
        (("interface", "size", "height", "maximum"), 4096),
        (("interface", "inputs", 0, "value_range", 1), 1.0),
        (("provenance", "config", "run", "seed"), 1),
        (("metrics", "fid"), 2.5),
        (("colour",), "red"),
    ],
)
def test_manifest_with_a_change_deep_inside_is_refused(path: tuple[Any, ...], value: Any) -> None:
    with pytest.raises(ManifestError, match="was changed after it was written"):
        _read(_changed(path, value))


def _changed(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """The golden manifest's fields with another value at `path`."""
    data = inner = json.loads(TEXT)
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return data


@pytest.mark.parametrize("version", [0, 2, "1", None, 2.5, True])
def test_manifest_of_another_schema_is_refused_with_what_to_do(version: Any) -> None:
    with pytest.raises(ManifestError, match=r"has schema version .* and this zorse reads 1: export the model again"):
        _read(json.loads(TEXT) | {"schema_version": version})


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", "[" * 100_000, "1" * 5000], ids=lambda text: text[:3])
def test_manifest_that_is_no_json_object_is_refused(text: str) -> None:
    with pytest.raises(ManifestError, match=r"^it\.json is not (JSON|a JSON object)"):
        Manifest.from_json(text, "it.json")


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("colour",), "red", "colour is unknown"),
        (("interface", "inputs", 0, "colour"), "red", r"interface\.inputs\[0\]\.colour is unknown"),
        (("interface", "kind"), "painter", "interface\\.kind is 'painter': input should be"),
        (("version",), "1", "version is '1': input should be a valid integer"),
        (("version",), -1, "version is -1: input should be greater than or equal to 0"),
        (("version",), True, "version is True"),
        (("opset",), 20.5, r"opset is 20\.5"),
        (("interface", "inputs"), [], r"interface\.inputs is \[\]: "),
        (("interface", "outputs", 0, "dtype"), "uint7", r"interface\.outputs\[0\]\.dtype is 'uint7'"),
        (("interface", "outputs", 0, "value_range"), ["a", "b"], r"outputs\[0\]\.value_range\[0\] is 'a'"),
        (
            ("interface", "outputs", 0, "value_range"),
            [5, 5],
            r"outputs\[0\]: the value range of image is \(5\.0, 5\.0\)",
        ),
        (("interface", "outputs", 0, "value_range"), [0], r"outputs\[0\]\.value_range\[1\] is missing"),
        (("interface", "size"), [], r"interface\.size is \[\]"),
        (("interface", "size", "height", "multiple"), 0, r"interface\.size\.height\.multiple is 0"),
        (("interface", "size", "width", "multiple"), 128, "interface\\.size\\.width: there is no size of 8 to 48 in"),
        (("interface", "size", "width", "minimum"), 100, "there is no size of 100 to 48 in steps of 4 pixels"),
        (("interface", "size", "width", "minimum"), -5, r"width\.minimum is -5"),
        (("interface", "size", "width", "maximum"), 7, "there is no size of 8 to 7"),
        (("interface", "latent"), {"dim": 0}, r"interface\.latent\.dim is 0"),
        (("interface", "scale"), 0, r"interface\.scale is 0"),
        (("buckets",), [[True, 16, 16, 3]], r"buckets\[0\]\[0\] is True"),
        (("metrics", "fid"), float("nan"), r"metrics\.fid is nan"),
        (("proof", "replay_tolerance"), "a", r"proof\.replay_tolerance is 'a'"),
        (("proof", "replay_tolerance"), None, r"proof\.replay_tolerance is None"),
        (("files",), {}, r"files has no model\.onnx"),
        (("files", "../secret"), {"sha256": "", "nbytes": 1}, r"a file is called '\.\./secret'"),
    ],
)
def test_manifest_with_an_illegal_value_is_refused_although_its_digest_fits(
    path: tuple[Any, ...], value: Any, reason: str
) -> None:
    with pytest.raises(ManifestError, match=rf"^it\.json breaks the artifact contract \(.*{reason}.*\): export the"):
        _read(_signed(_changed(path, value)))


def test_manifest_names_a_missing_field() -> None:
    data = json.loads(TEXT)
    del data["proof"]["psnr"]
    with pytest.raises(ManifestError, match=r"contract \(proof\.psnr is missing\): export"):
        _read(_signed(data))


def _signed(data: dict[str, Any]) -> dict[str, Any]:
    fields = {name: value for name, value in data.items() if name != "digest"}
    return fields | {"digest": fields_digest(fields)}


def test_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"is not an artifact: manifest\.json cannot be read"):
        read_manifest(tmp_path)
