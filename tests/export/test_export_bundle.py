"""Publishing: versions, names, atomicity, and the files beside the model."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from export.bundle import TRITON_FILE, Bundle, model_name, open_repository, publish
from export.errors import RepositoryError
from export.manifest import MODEL_FILE, Manifest, file_digest, read_manifest

GOLDEN = Manifest.from_json((Path(__file__).parent / "golden_manifest.json").read_text(encoding="utf-8"))
BUNDLE = Bundle(GOLDEN, b"a model")


def test_an_artifact_is_whole_and_its_manifest_describes_it(tmp_path: Path) -> None:
    artifact = publish(tmp_path / "new" / "repository", BUNDLE)
    assert artifact == tmp_path / "new" / "repository" / GOLDEN.name / "1"
    assert sorted(path.name for path in artifact.iterdir()) == ["manifest.json", "model.onnx"]
    manifest = read_manifest(artifact)
    assert (manifest.version, manifest.nbytes) == (1, 7)
    assert manifest.sha256 == file_digest(artifact / MODEL_FILE)
    assert {path.name for path in artifact.parent.iterdir()} == {"1", TRITON_FILE}


def test_versions_count_up_and_ignore_what_is_no_version(tmp_path: Path) -> None:
    folder = tmp_path / GOLDEN.name
    for name in ("2", "10", "latest", ".staging-dead/artifact"):
        (folder / name).mkdir(parents=True)
    assert publish(tmp_path, BUNDLE).name == "11"
    assert read_manifest(publish(tmp_path, BUNDLE)).version == 12


def test_exporters_at_once_get_a_version_each(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        artifacts = list(pool.map(lambda _: publish(tmp_path, BUNDLE), range(24)))
    assert sorted(int(artifact.name) for artifact in artifacts) == list(range(1, 25))
    assert all(read_manifest(artifact).version == int(artifact.name) for artifact in artifacts)


def test_a_crash_while_writing_leaves_no_artifact(tmp_path: Path) -> None:
    unwritable = dataclasses.replace(GOLDEN.source, config={"key": object()})
    with pytest.raises(TypeError):
        publish(tmp_path, Bundle(dataclasses.replace(GOLDEN, source=unwritable), b"a model"))
    assert [path.name for path in (tmp_path / GOLDEN.name).iterdir()] == [TRITON_FILE]
    assert publish(tmp_path, BUNDLE).name == "1"


def test_triton_finds_its_configuration(tmp_path: Path) -> None:
    artifact = publish(tmp_path, BUNDLE)
    assert (artifact.parent / TRITON_FILE).read_text() == (
        'name: "toy-AtoB"\n'
        'platform: "onnxruntime_onnx"\n'
        "max_batch_size: 32\n"
        'input [ { name: "source" data_type: TYPE_UINT8 dims: [ -1, -1, 3 ] } ]\n'
        'output [ { name: "image" data_type: TYPE_UINT8 dims: [ -1, -1, 3 ] } ]\n'
        "dynamic_batching { }\n"
    )


def test_a_repository_must_be_a_local_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RepositoryError, match="is not a folder"):
        open_repository(str(tmp_path / "file"))
    with pytest.raises(RepositoryError, match="s3://bucket is not a local folder"):
        open_repository("s3://bucket")


def test_a_repository_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / GOLDEN.name).write_text("in the way")
    with pytest.raises(RepositoryError, match="cannot be written"):
        publish(tmp_path, BUNDLE)


def test_names_of_translators_carry_their_direction() -> None:
    assert model_name("stripes", "AtoB") == "stripes-AtoB"
    assert model_name("digits", None) == "digits"


@pytest.mark.parametrize("name", ["", "../up", ".hidden", "a/b", "two words", "naïve"])
def test_names_that_break_a_path_or_url_are_refused(name: str) -> None:
    with pytest.raises(RepositoryError, match="--name"):
        model_name(name, None)
