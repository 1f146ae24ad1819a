"""The reader of repositories: what a model is, what is skipped, and the reason that is given."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from export.errors import RepositoryError
from export.layout import ALIASES_FILE, RepositoryReader
from export.repository import Repository
from tests.export.artifacts import add
from tests.export.test_models_cli import cells, run
from zorse_common.storage import Storage


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A repository with `digits` 1 and 2."""
    repository = Repository(str(tmp_path / "models"))
    for _ in range(2):
        add(repository, tmp_path)
    return tmp_path / "models"


def _versions(place: Path) -> dict[str, list[int]]:
    return {model: list(manifests) for model, manifests in RepositoryReader(Storage(place)).models().manifests.items()}


def test_manifests_are_read_by_model_and_version(place: Path) -> None:
    models = RepositoryReader(Storage(place)).models()
    assert models.skipped == {}
    assert {name: list(found) for name, found in models.manifests.items()} == {"digits": [1, 2]}
    assert models.manifests["digits"][2] == Repository(str(place)).manifest("digits", 2)


def test_renamed_model_is_skipped_and_named(place: Path) -> None:
    (place / "digits").rename(place / "letters")
    models = RepositoryReader(Storage(place)).models()
    assert models.manifests == {}
    assert models.skipped.keys() == {"letters/1", "letters/2"}
    assert models.skipped["letters/2"].endswith("is the manifest of digits@2: undo the renaming or export again")
    with pytest.raises(RepositoryError, match="is the manifest of digits@2"):
        RepositoryReader(Storage(place)).manifest(*RepositoryReader(Storage(place)).resolve("letters"))


def test_version_with_another_number_is_skipped_alone(place: Path) -> None:
    (place / "digits" / "2").rename(place / "digits" / "7")
    assert _versions(place) == {"digits": [1]}
    assert "is the manifest of digits@2" in RepositoryReader(Storage(place)).models().skipped["digits/7"]


@pytest.mark.parametrize(
    ("old", "new", "folder", "reason"),
    [
        ("digits", "my model", "my model", "may hold letters, digits"),
        ("digits/2", "digits/02", "digits/02", "versions are called 1, 2, 3"),
        ("digits/2", "digits/copy of 2", "digits/copy of 2", "versions are called 1, 2, 3"),
    ],
)
def test_folder_with_a_bad_name_is_skipped_and_named(place: Path, old: str, new: str, folder: str, reason: str) -> None:
    (place / old).rename(place / new)
    models = RepositoryReader(Storage(place)).models()
    assert list(models.skipped) == [folder]
    assert reason in models.skipped[folder]


def test_other_folders_and_hidden_ones_are_ignored(place: Path) -> None:
    (place / "notes" / "1").mkdir(parents=True)
    (place / "digits" / "1").rename(place / "digits" / ".removed")
    (place / ".trash").symlink_to(place / "digits", target_is_directory=True)
    models = RepositoryReader(Storage(place)).models()
    assert models.skipped == {}
    assert _versions(place) == {"digits": [2]}


def test_version_with_a_model_and_without_a_manifest_is_skipped_and_named(place: Path) -> None:
    (place / "digits" / "2" / "manifest.json").unlink()
    (place / "digits" / "3").mkdir()
    (place / "digits" / "copy").mkdir()
    (place / "digits" / "copy" / "model.onnx").write_bytes(b"")
    models = RepositoryReader(Storage(place)).models()
    assert list(models.manifests["digits"]) == [1]
    assert models.skipped == {
        "digits/2": "it has a model.onnx and no manifest.json: export the model again, or remove the folder"
    }
    (place / "digits" / "1" / "manifest.json").unlink()
    models = RepositoryReader(Storage(place)).models()
    assert (models.manifests, sorted(models.skipped)) == ({}, ["digits/1", "digits/2"])


class FakeStore(Storage):
    """An object store with these paths and no contents."""

    def __init__(self, *paths: str) -> None:
        self.uri, self.local, self._paths = "s3://models", None, paths

    def kind(self) -> Literal["folder", "file", "nothing"]:
        return "folder"

    def entries(self) -> dict[str, float]:
        return dict.fromkeys(self._paths, 0.0)


def test_version_without_a_manifest_on_an_object_store_is_skipped_unless_its_upload_is_unfinished() -> None:
    whole = [f"digits/1/{name}" for name in ("model.onnx", "manifest.json")]
    paths = ["digits/2/model.onnx", "digits/3/model.onnx", "digits/3/.unfinished-1", "digits/4/notes.txt"]
    published, skipped = RepositoryReader(FakeStore(*whole, *paths)).published_models()
    assert published == {"digits": [1]}
    assert list(skipped) == ["digits/2"]


def test_links_to_folders_are_followed(place: Path, tmp_path: Path) -> None:
    (place / "digits").rename(tmp_path / "elsewhere")
    (place / "digits").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert _versions(place) == {"digits": [1, 2]}
    assert RepositoryReader(Storage(place)).resolve("digits") == ("digits", 2)


def test_names_of_versions_are_resolved(place: Path) -> None:
    (place / "digits" / ALIASES_FILE).write_text('{"stable": 1, "gone": 9}')
    names = ["digits", "digits@latest", "digits@1", "digits@stable"]
    assert [RepositoryReader(Storage(place)).resolve(name)[1] for name in names] == [2, 2, 1, 1]
    for name in ("digits@gone", "digits@3", "digits@beta"):
        with pytest.raises(RepositoryError, match=r"has no digits@\w+: digits has 1, 2, .*latest"):
            RepositoryReader(Storage(place)).resolve(name)
    with pytest.raises(RepositoryError, match="has no model other: it has digits"):
        RepositoryReader(Storage(place)).resolve("other")


def test_list_command_prints_the_skipped_last(place: Path, tmp_path: Path) -> None:
    add(Repository(str(place)), tmp_path, name="letters")
    (place / "letters").rename(place / "renamed")
    result = run("list", str(place))
    assert [line[:2] for line in cells(result.stdout)[1:]] == [["digits", "2"], ["digits", "1"]]
    assert isinstance(result.exception, RepositoryError)
    assert str(result.exception).startswith("skipped renamed/1: ")
