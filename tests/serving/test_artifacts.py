from __future__ import annotations

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
    assert artifacts.find(tmp_path) == {"digits": tmp_path / "digits" / "10"}


def test_load_takes_an_artifact_or_a_model_folder(repository: Path) -> None:
    direct = artifacts.load(repository / "digits" / "1")
    assert direct == artifacts.load(repository / "digits")
    assert direct.model.is_file()


def test_a_repository_that_is_missing_or_empty(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="there is no model repository at"):
        artifacts.find(tmp_path / "none")
    with pytest.raises(ArtifactError, match="holds no artifact"):
        artifacts.find(tmp_path)


def test_a_name_that_cannot_stand_in_a_url(tmp_path: Path) -> None:
    write(tmp_path, generator_graph(), generator_manifest("my digits"))
    with pytest.raises(ArtifactError, match="'my digits' in"):
        artifacts.find(tmp_path)


def test_an_artifact_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="there is no artifact at"):
        artifacts.load(tmp_path / "none")
    with pytest.raises(ArtifactError, match=r"it has no manifest\.json and no version folder"):
        artifacts.load(tmp_path)


def test_a_changed_graph_is_refused(tmp_path: Path) -> None:
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


def test_a_broken_manifest_is_one_clear_line(tmp_path: Path) -> None:
    folder = write(tmp_path, generator_graph(), generator_manifest())
    (folder / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError, match="is not JSON"):
        artifacts.load(folder)
