"""`zorse export` and the pipeline behind it, from a snapshot to published artifacts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import typer
from typer.testing import CliRunner

from export.cli import register
from export.errors import ExportError, ImageSetError, ImporterError, RepositoryError, UnsupportedGraphError
from export.manifest import MODEL_FILE, read_manifest, reversed_directions
from export.pipeline import export
from export.repository import Repository
from tests.export.conftest import BUCKET
from tests.export.networks import LARGEST
from trainer.errors import SnapshotError
from trainer.snapshot import read_snapshot


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    app = typer.Typer()
    app.callback()(lambda: None)  # as in the front door, commands keep their names
    register(app)
    return app


def test_export_command_publishes_and_prints_the_proof(
    app: typer.Typer, translator: str, pictures: Path, tmp_path: Path
) -> None:
    repository = tmp_path / "repository"
    (tmp_path / "figures.json").write_text('{"fid": 12.5}', encoding="utf-8")
    arguments = ["export", translator, "--to", str(repository), "--images", str(pictures), "--name", "stripes"]
    arguments += ["--max-size", "32", "--bucket", "2x16x24x3", "--opset", "19", "--licence", "CC0"]
    arguments += ["--metrics", str(tmp_path / "figures.json"), "--json"]
    result = CliRunner(env={"COLUMNS": "120"}).invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "stripes-AtoB: converting G to onnx" in result.stderr
    assert "stripes-AtoB: proving it against torch" in result.stderr
    manifest = read_manifest(repository / "stripes-AtoB" / "1")
    (printed,) = json.loads(result.stdout)
    assert (printed["model"], printed["version"], printed["nodes"]) == ("stripes-AtoB", 1, manifest.nodes)
    assert (printed["place"], printed["psnr"]) == (f"{repository}/stripes-AtoB/1", manifest.proof.psnr)
    assert manifest.opset == 19
    assert manifest.buckets == ((2, 16, 24, 3),)
    assert (manifest.licence, manifest.metrics) == ("CC0", {"fid": 12.5})
    assert manifest.interface.size is not None
    assert manifest.interface.size.largest == (32, 32)
    assert manifest.proof.real_images == 3


def test_export_publishes_both_of_a_pair_or_none(cyclegan: str, tmp_path: Path) -> None:
    # A file lies where the folder of the second model would be.
    (tmp_path / "toy-BtoA").write_text("in the way")
    with pytest.raises(RepositoryError, match="cannot be written"):
        export(cyclegan, str(tmp_path), max_size=LARGEST)
    assert [path.name for path in tmp_path.iterdir()] == ["toy-BtoA"]


def test_export_publishes_a_pair_with_all_its_facts(pair: list[Path], cyclegan: str) -> None:
    assert [(path.parent.name, path.name) for path in pair] == [("toy-AtoB", "1"), ("toy-BtoA", "1")]
    snapshot = read_snapshot(cyclegan)
    for artifact, network, direction in zip(pair, ("A2B", "B2A"), ("AtoB", "BtoA"), strict=True):
        manifest = read_manifest(artifact)
        assert (manifest.direction, manifest.provenance.network) == (direction, network)
        assert (manifest.provenance.format, manifest.provenance.digest) == ("snapshot", snapshot.digest)
        assert (manifest.provenance.images_seen, manifest.provenance.ema, manifest.provenance.revision) == (
            640,
            True,
            "0123abc",
        )
        assert manifest.provenance.config == snapshot.config
        assert manifest.provenance.config_digest
        assert (manifest.licence, manifest.metrics) == ("CC0", {"fid": 12.5})
        assert manifest.proof.max_grey_diff <= 1
        assert manifest.proof.real_images == 3
        assert {(1, LARGEST, LARGEST, 3), (1, 24, 32, 3), BUCKET} <= set(manifest.proof.shapes)


def test_cycle_of_a_pair_is_the_same_in_torch_and_onnxruntime(pair: list[Path]) -> None:
    manifests = [read_manifest(artifact) for artifact in pair]
    cycles = [manifest.proof.cycle for manifest in manifests]
    for cycle in cycles:
        assert cycle is not None
        assert cycle.reference == pytest.approx(cycle.onnxruntime, abs=0.1)
    assert cycles[0] != cycles[1]


def test_cycle_is_that_of_the_real_images(pair: list[Path], pictures: Path) -> None:
    from PIL import Image

    there, back = (
        onnxruntime.InferenceSession(artifact / MODEL_FILE, providers=["CPUExecutionProvider"]) for artifact in pair
    )
    far = []
    for path in sorted(pictures.iterdir()):
        source = np.array(Image.open(path))[None]
        (between,) = there.run(None, {"source": source})
        (came,) = back.run(None, {"source": between})
        far.append(np.abs(came.astype(float) - source).mean())
    cycle = read_manifest(pair[0]).proof.cycle
    assert cycle is not None
    assert cycle.onnxruntime == pytest.approx(np.mean(far), abs=0.01)
    assert cycle.onnxruntime < 60, "the pair was fitted to lead back"


def test_translator_alone_has_no_cycle(translator: str, tmp_path: Path) -> None:
    (artifact,) = export(translator, str(tmp_path), max_size=LARGEST)
    assert read_manifest(Path(artifact)).proof.cycle is None


def test_generator_manifest_has_the_latent(generator: Path) -> None:
    manifest = read_manifest(generator)
    assert (manifest.name, manifest.interface.kind, manifest.direction, manifest.interface.size) == (
        "toy",
        "generator",
        None,
        None,
    )
    assert manifest.interface.latent is not None
    assert manifest.interface.latent.dim == 8
    assert manifest.interface.inputs[0].shape == ("batch", 8)
    assert manifest.interface.outputs[0].shape == ("batch", 16, 16, 3)
    assert manifest.created.endswith("+00:00")


def test_second_export_is_the_next_version(gan: str, generator: Path, tmp_path: Path) -> None:
    repository = str(generator.parent.parent)
    assert export(gan, repository) == [f"{repository}/toy/2"]
    assert Repository(repository).versions("toy") == [1, 2]
    first, second = (read_manifest(generator.parent / version) for version in ("1", "2"))
    assert (first.graph_digest, first.weights_digest) == (second.graph_digest, second.weights_digest)
    assert export(gan, str(tmp_path), name="digits") == [f"{tmp_path}/digits/1"]


def test_user_errors_are_raised_before_any_work(gan: str, translator: str, tmp_path: Path) -> None:
    lines: list[str] = []

    def refused(kind: type[Exception], match: str, place: str = gan, **options: object) -> None:
        with pytest.raises(kind, match=match):
            export(place, str(tmp_path / "r"), report=lines.append, **options)

    refused(SnapshotError, "neither a snapshot nor a run", str(tmp_path / "nowhere"))
    refused(
        ExportError,
        r"unknown export target 'onxx' \(did you mean onnx\?\); known: onnx, onnx-fp16, onnx-int8",
        target="onxx",
    )
    refused(ImporterError, r"unknown origin 'onxx' \(did you mean onnx\?\); known: auto", origin="onxx")
    refused(RepositoryError, "--name", name="a/b")
    refused(ImageSetError, "takes no images", images=str(tmp_path))
    refused(
        ImageSetError,
        r"onnx-int8 is calibrated on real images: give some with --images",
        translator,
        target="onnx-int8",
    )
    refused(UnsupportedGraphError, r"the maximum is 4: give a larger --max-size", translator, max_size=4)
    # The summary lines come first; nothing was converted or proved.
    assert [line for line in lines if "converting" in line or "proving" in line] == []
    assert not (tmp_path / "r").exists()


def test_command_line_is_assembled_without_torch() -> None:
    code = "import sys, export.cli; sys.exit(bool({'torch', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("direction", "way_back"), [("AtoB", "BtoA"), ("phototomap", "maptophoto"), ("tomatotoapple", "appletotomato")]
)
def test_way_back_is_found_although_a_domain_has_a_to_in_its_name(direction: str, way_back: str) -> None:
    assert way_back in reversed_directions(direction)
    assert direction in reversed_directions(way_back)
    assert reversed_directions("") == []
