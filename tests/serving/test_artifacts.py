from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from serving import artifacts
from serving.errors import ArtifactError
from tests.serving.tiny import generator_graph, generator_manifest, write


def test_find_takes_the_newest_version_by_number(tmp_path: Path) -> None:
    for version in (2, 9, 10):
        write(tmp_path, generator_graph(), generator_manifest(version=version))
    (tmp_path / "digits" / "11").mkdir()
    (tmp_path / "digits" / "draft").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "README.md").write_text("")
    listing = artifacts.find(tmp_path)
    assert {name: Path(found.uri) for name, found in listing.models.items()} == {"digits": tmp_path / "digits" / "10"}
    assert listing.skipped == {}


def test_load_takes_an_artifact_or_a_model_folder(repository: Path) -> None:
    direct = artifacts.load(repository / "digits" / "1")
    assert direct == artifacts.load(repository / "digits")
    assert direct.model.is_file()


def test_load_refuses_another_artifact_than_the_pinned_one(tmp_path: Path) -> None:
    write(tmp_path, generator_graph(), generator_manifest())
    pinned = artifacts.find(tmp_path).models["digits"]
    assert artifacts.load(pinned.uri, pinned.digest) == artifacts.load(pinned.uri)
    shutil.rmtree(tmp_path / "digits")
    write(tmp_path, generator_graph(), generator_manifest(), weights_apart=True)
    with pytest.raises(ArtifactError, match=f"is not the artifact with the digest {pinned.digest}: it was published"):
        artifacts.load(pinned.uri, pinned.digest)


def test_find_refuses_a_missing_or_empty_repository(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="there is no model repository at"):
        artifacts.find(tmp_path / "none")
    with pytest.raises(ArtifactError, match="holds no artifact"):
        artifacts.find(tmp_path)


def test_find_skips_and_names_folders_that_are_not_models(tmp_path: Path) -> None:
    write(tmp_path, generator_graph(), generator_manifest("my digits"))
    with pytest.raises(ArtifactError, match=r"holds no artifact .*; skipped my digits: a model's name may hold"):
        artifacts.find(tmp_path)
    write(tmp_path, generator_graph(), generator_manifest("digits"))
    write(tmp_path, generator_graph(), generator_manifest("letters"))
    (tmp_path / "letters").rename(tmp_path / "renamed")
    listing = artifacts.find(tmp_path)
    assert list(listing.models) == ["digits"]
    assert listing.skipped["renamed/1"].endswith("is the manifest of letters@1: undo the renaming or export again")
    assert set(listing.skipped) == {"my digits", "renamed/1"}
    for name in ("renamed", "renamed@1"):
        with pytest.raises(ArtifactError, match="is the manifest of letters@1"):
            artifacts.load(tmp_path / name)


def test_find_never_replaces_a_broken_version_by_an_older_one(tmp_path: Path) -> None:
    write(tmp_path, generator_graph(), generator_manifest())
    folder = write(tmp_path, generator_graph(), generator_manifest(version=2))
    (folder / "manifest.json").write_text("{")
    write(tmp_path, generator_graph(), generator_manifest("letters"))
    listing = artifacts.find(tmp_path)
    assert (list(listing.models), list(listing.skipped)) == (["letters"], ["digits/2"])


def test_load_names_a_missing_artifact(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="there is no artifact at"):
        artifacts.load(tmp_path / "none")
    with pytest.raises(ArtifactError, match=r"there is no artifact at .*: give an artifact folder"):
        artifacts.load(tmp_path)


def test_load_refuses_a_changed_graph(tmp_path: Path) -> None:
    folder = write(tmp_path, generator_graph(), generator_manifest())
    data = bytearray((folder / "model.onnx").read_bytes())
    data[-30] ^= 1
    (folder / "model.onnx").write_bytes(data)
    with pytest.raises(ArtifactError, match=r"digest mismatch.*export the model again"):
        artifacts.load(folder)
    (folder / "model.onnx").write_bytes(data[:-1])
    with pytest.raises(ArtifactError, match="digest mismatch"):
        artifacts.load(folder)
    (folder / "model.onnx").unlink()
    with pytest.raises(ArtifactError, match="is missing"):
        artifacts.load(folder)


def test_load_reports_a_broken_manifest_in_one_line(tmp_path: Path) -> None:
    folder = write(tmp_path, generator_graph(), generator_manifest())
    (folder / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError, match="is not JSON"):
        artifacts.load(folder)
