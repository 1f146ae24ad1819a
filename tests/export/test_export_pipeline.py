"""`zorse export` and the pipeline behind it, from a snapshot to published artifacts."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from export.cli import register
from export.errors import ExportError, ImageSetError, ManifestError, RepositoryError
from export.manifest import Manifest, Proof, SizeLimits, Source, read_manifest
from export.pipeline import export
from trainer.errors import SnapshotError
from trainer.snapshot import read_snapshot

GOLDEN = Path(__file__).parent / "golden_manifest.json"


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    app = typer.Typer()
    app.callback()(lambda: None)  # as in the front door, commands keep their names
    register(app)
    return app


def test_the_command_publishes_and_prints_what_was_proved(app: typer.Typer, cyclegan: str, tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(tmp_path / "one.png")
    repository = tmp_path / "repository"
    arguments = ["export", cyclegan, "--to", str(repository), "--images", str(tmp_path)]
    result = CliRunner(env={"COLUMNS": "120"}).invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    for word in ("toy-AtoB: converting A2B to onnx", "toy-BtoA: proving", "max grey difference", "MiB"):
        assert word in result.output
    assert sorted(path.name for path in repository.iterdir()) == ["toy-AtoB", "toy-BtoA"]

    manifest = read_manifest(repository / "toy-AtoB" / "1")
    assert manifest.proof.max_grey_diff <= 1
    assert manifest.proof.real_images == 1
    assert (1, 12, 16, 3) in manifest.proof.shapes
    assert manifest.source == Source(read_snapshot(cyclegan).digest, 640, True, "A2B", {"run": {"seed": 0}})
    assert manifest.nbytes == (repository / "toy-AtoB" / "1" / "model.onnx").stat().st_size
    assert _without_measurements(manifest).to_json() == GOLDEN.read_text(encoding="utf-8")


def _without_measurements(manifest: Manifest) -> Manifest:
    """`manifest` with what depends on the day, the machine and the weights put to fixed values."""
    return dataclasses.replace(
        manifest,
        sha256="0" * 64,
        nbytes=1,
        created="2026-01-01T00:00:00+00:00",
        zorse_version="0.1.0",
        source=dataclasses.replace(manifest.source, snapshot_digest="1" * 64),
        proof=dataclasses.replace(manifest.proof, max_grey_diff=1, psnr=80.5, onnxruntime="1.31.1", torch="2.13.0"),
    )


def test_a_golden_manifest_reads_back_as_written() -> None:
    text = GOLDEN.read_text(encoding="utf-8")
    manifest = Manifest.from_json(text)
    assert manifest.to_json() == text
    assert manifest.size == SizeLimits(multiple=4, minimum=8, maximum=2048)
    assert isinstance(manifest.proof, Proof)
    assert manifest.inputs[0].shape == ("batch", "height", "width", 3)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"kind": "painter"}, "kind is 'painter'"),
        ({"version": "1"}, "version is '1'"),
        ({"inputs": []}, "there are no inputs or no outputs"),
        ({"size": {"multiple": 0, "minimum": 8, "maximum": 64}}, "size is"),
        ({"latent": {"dim": 0}}, "latent is"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_manifest_that_no_server_could_use_is_refused(change: dict[str, object], reason: str) -> None:
    data = json.loads(GOLDEN.read_text(encoding="utf-8"))
    with pytest.raises(ManifestError, match=rf"it\.json breaks the artifact contract \(.*{reason}"):
        Manifest.from_json(json.dumps({**data, **change}), "it.json")
    data["outputs"][0]["dtype"] = "uint7"
    with pytest.raises(ManifestError, match="image is 'uint7'"):
        Manifest.from_json(json.dumps(data))


def test_a_generator_s_manifest_says_its_latent(generator: Path) -> None:
    manifest = read_manifest(generator)
    assert (manifest.name, manifest.kind, manifest.direction, manifest.size) == ("toy", "generator", None, None)
    assert manifest.latent is not None
    assert manifest.latent.dim == 8
    assert manifest.inputs[0].shape == ("batch", 8)
    assert manifest.outputs[0].shape == ("batch", 16, 16, 3)
    assert manifest.created.endswith("+00:00")


def test_a_second_export_is_the_next_version(gan: str, generator: Path) -> None:
    assert export(gan, str(generator.parent.parent)) == [generator.parent / "2"]


def test_an_artifact_can_have_another_name(gan: str, tmp_path: Path) -> None:
    assert export(gan, str(tmp_path), name="digits") == [tmp_path / "digits" / "1"]


def test_user_errors_are_found_before_any_work(gan: str, tmp_path: Path) -> None:
    lines: list[str] = []
    with pytest.raises(SnapshotError, match="neither a snapshot nor a run"):
        export(str(tmp_path / "nowhere"), str(tmp_path / "r"), report=lines.append)
    with pytest.raises(ExportError, match=r"unknown export target 'onxx'; known: .*onnx"):
        export(gan, str(tmp_path / "r"), target="onxx", report=lines.append)
    with pytest.raises(RepositoryError, match="--name"):
        export(gan, str(tmp_path / "r"), name="a/b", report=lines.append)
    with pytest.raises(ImageSetError, match="takes no images"):
        export(gan, str(tmp_path / "r"), images=str(tmp_path), report=lines.append)
    assert lines == []
    assert not (tmp_path / "r").exists()


def test_the_command_line_is_assembled_without_torch() -> None:
    code = "import sys, export.cli; sys.exit(bool({'torch', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
