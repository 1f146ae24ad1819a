"""The model repository on a disk: versions, names, and that only whole versions are ever seen."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from export.errors import ManifestError, RepositoryError
from export.layout import ALIASES_FILE
from export.manifest import MANIFEST_FILE, read_manifest
from export.repository import Repository
from export.uploads import TRITON_FILE, UNFINISHED_AGE
from tests.export.artifacts import FILES, TRITON, UPLOAD, add, manifest, stage, tree


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(str(tmp_path / "models"))


def _folder(repository: Repository, *parts: str) -> Path:
    return Path(repository.place).joinpath(*parts)


def test_added_version_is_complete(repository: Repository, tmp_path: Path) -> None:
    staged = stage(tmp_path / "staged")
    assert repository.add(staged, manifest(staged)) == 1
    artifact = _folder(repository, "digits", "1")
    assert tree(artifact) == {**FILES, MANIFEST_FILE: (artifact / MANIFEST_FILE).read_bytes()}
    assert read_manifest(artifact) == repository.manifest("digits", 1) == manifest(staged, version=1)
    assert {path.name for path in artifact.parent.iterdir()} == {"1", TRITON_FILE}
    assert (artifact.parent / TRITON_FILE).read_text() == TRITON
    assert artifact.stat().st_mode & 0o005 == 0o005
    assert tree(staged) == FILES


def test_version_numbers_count_up_past_every_numbered_folder(repository: Repository, tmp_path: Path) -> None:
    for name in ("2", "10", "latest", ".staging-dead/artifact", "007"):
        _folder(repository, "digits", name).mkdir(parents=True)
    assert [add(repository, tmp_path) for _ in range(2)] == [11, 12]
    assert repository.versions("digits") == [11, 12]
    assert repository.resolve("digits") == ("digits", 12)
    assert list(repository.models().manifests) == ["digits"]


def test_unpublished_folders_are_not_versions(repository: Repository, tmp_path: Path) -> None:
    add(repository, tmp_path)
    _folder(repository, "digits", "2").mkdir()
    _folder(repository, "digits", "2", "model.onnx").write_bytes(b"half")
    _folder(repository, "other", "1").mkdir(parents=True)
    assert list(repository.models().manifests) == ["digits"]
    assert repository.versions("digits") == [1]
    assert repository.versions("other") == []
    with pytest.raises(RepositoryError, match="has no digits@2: digits has 1, latest"):
        repository.manifest("digits", 2)


def test_concurrent_exporters_get_different_versions(repository: Repository, tmp_path: Path) -> None:
    staged = stage(tmp_path / "staged")
    with ThreadPoolExecutor(8) as pool:
        added = list(pool.map(lambda _: repository.add(staged, manifest(staged)), range(24)))
    assert sorted(added) == repository.versions("digits") == list(range(1, 25))
    assert all(repository.manifest("digits", version).version == version for version in added)
    assert {path.name for path in _folder(repository, "digits").iterdir()} == {TRITON_FILE, *map(str, range(1, 25))}


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz"])
def test_damaged_or_missing_file_is_named_and_nothing_is_published(
    repository: Repository, tmp_path: Path, name: str
) -> None:
    staged = stage(tmp_path / "staged")
    described = manifest(staged)
    (staged / name).write_bytes(FILES[name][:-1] + b"!")
    with pytest.raises(RepositoryError, match=f"{name} is damaged"):
        repository.add(staged, described)
    (staged / name).unlink()
    with pytest.raises(RepositoryError, match=f"{name} is missing"):
        repository.add(staged, described)
    assert not _folder(repository, "digits").exists()
    assert list(repository.models().manifests) == []


def test_names_resolve_to_versions(repository: Repository, tmp_path: Path) -> None:
    for _ in range(3):
        add(repository, tmp_path)
    repository.promote("digits", 2, "stable")
    assert repository.resolve("digits") == ("digits", 3)
    assert repository.resolve("digits@latest") == ("digits", 3)
    assert repository.resolve("digits@1") == ("digits", 1)
    assert repository.resolve("digits@stable") == ("digits", 2)
    for name in ("digits@4", "digits@0", "digits@new", "digits@", "digits@../1", "digits@-1"):
        with pytest.raises(RepositoryError, match=f"has no {name}: digits has 1, 2, 3"):
            repository.resolve(name)
    with pytest.raises(RepositoryError, match="has no model numbers: it has digits"):
        repository.resolve("numbers")


def test_aliases_are_moved_and_removed(repository: Repository, tmp_path: Path) -> None:
    for _ in range(2):
        add(repository, tmp_path)
    assert repository.aliases("digits") == {}
    repository.promote("digits", 1, "stable")
    repository.promote("digits", 2, "next")
    repository.promote("digits", 2, "stable")
    assert repository.aliases("digits") == {"next": 2, "stable": 2}
    repository.remove_alias("digits", "stable")
    assert repository.aliases("digits") == {"next": 2}
    with pytest.raises(RepositoryError, match="no alias stable of digits: it has next"):
        repository.remove_alias("digits", "stable")
    with pytest.raises(RepositoryError, match="has no digits@3"):
        repository.promote("digits", 3, "stable")
    assert {path.name for path in _folder(repository, "digits").iterdir()} == {"1", "2", TRITON_FILE, ALIASES_FILE}


def test_aliases_are_replaced_atomically(repository: Repository, tmp_path: Path) -> None:
    add(repository, tmp_path)
    repository.promote("digits", 1, "stable")
    with _folder(repository, "digits", ALIASES_FILE).open() as reader:
        repository.promote("digits", 1, "next")
        assert json.load(reader) == {"stable": 1}
    assert repository.aliases("digits") == {"next": 1, "stable": 1}


@pytest.mark.parametrize("alias", ["", "latest", "7", "a/b", ".hidden", "two words", "../up"])
def test_aliases_with_reserved_names_are_refused(repository: Repository, tmp_path: Path, alias: str) -> None:
    add(repository, tmp_path)
    with pytest.raises(RepositoryError, match="alias"):
        repository.promote("digits", 1, alias)
    assert repository.aliases("digits") == {}


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b'{"stable": "1"}', b'{"stable": true}', b'{"latest": 1}', b'{"3": 1}', b"\xff\xfe"],
)
def test_broken_aliases_stop_only_what_needs_them(repository: Repository, tmp_path: Path, content: bytes) -> None:
    add(repository, tmp_path)
    path = _folder(repository, "digits", ALIASES_FILE)
    path.write_bytes(content)
    for use in (
        lambda: repository.aliases("digits"),
        lambda: repository.resolve("digits@stable"),
        lambda: repository.promote("digits", 1, "stable"),
        lambda: repository.delete("digits", 1),
    ):
        with pytest.raises(ManifestError, match=ALIASES_FILE):
            use()
    assert path.read_bytes() == content
    assert repository.resolve("digits@1") == repository.resolve("digits@latest") == ("digits", 1)
    assert add(repository, tmp_path) == 2


def test_delete_of_the_last_version_removes_the_model(repository: Repository, tmp_path: Path) -> None:
    for _ in range(2):
        add(repository, tmp_path)
    repository.promote("digits", 1, "stable")
    with pytest.raises(RepositoryError, match=r"digits@1 of .* is stable"):
        repository.delete("digits", 1)
    assert repository.versions("digits") == [1, 2]
    repository.delete("digits", 2)
    assert {path.name for path in _folder(repository, "digits").iterdir()} == {"1", TRITON_FILE, ALIASES_FILE}
    repository.remove_alias("digits", "stable")
    repository.delete("digits", 1)
    assert list(_folder(repository).iterdir()) == []
    with pytest.raises(RepositoryError, match="has no model digits"):
        repository.delete("digits", 1)


def test_model_folder_keeps_other_files_after_the_last_version(repository: Repository, tmp_path: Path) -> None:
    add(repository, tmp_path)
    note = _folder(repository, "digits", "note.txt")
    note.write_text("mine")
    repository.delete("digits", 1)
    assert list(note.parent.iterdir()) == [note]


def test_copy_is_byte_for_byte_equal_under_the_same_number(repository: Repository, tmp_path: Path) -> None:
    for _ in range(3):
        add(repository, tmp_path)
    other = Repository(str(tmp_path / "other"))
    progress: list[tuple[str, int]] = []
    repository.copy("digits", 2, other, alias="stable", progress=lambda *step: progress.append(step))
    assert tree(_folder(other, "digits", "2")) == tree(_folder(repository, "digits", "2"))
    assert progress == [(name, len(content)) for name, content in sorted(FILES.items())]
    assert (other.versions("digits"), other.aliases("digits")) == ([2], {"stable": 2})
    assert _folder(other, "digits", TRITON_FILE).read_text() == TRITON
    assert add(other, tmp_path) == 3


def test_copy_of_an_equal_version_changes_nothing(repository: Repository, tmp_path: Path) -> None:
    add(repository, tmp_path)
    other = Repository(str(tmp_path / "other"))
    repository.copy("digits", 1, other)
    before = {path: path.stat().st_mtime_ns for path in Path(other.place).rglob("*")}
    copied: list[str] = []
    repository.copy("digits", 1, other, progress=lambda name, _: copied.append(name))
    assert copied == []
    assert {path: path.stat().st_mtime_ns for path in Path(other.place).rglob("*")} == before


def test_copy_replaces_leftovers_but_no_other_artifact(repository: Repository, tmp_path: Path) -> None:
    add(repository, tmp_path)
    other = Repository(str(tmp_path / "other"))
    rests = _folder(other, "digits", "1")
    rests.mkdir(parents=True)
    (rests / "model.onnx").write_bytes(b"half")
    (rests / "model.onnx.data").write_bytes(b"of another model")
    repository.copy("digits", 1, other)
    assert tree(rests) == tree(_folder(repository, "digits", "1"))
    third = Repository(str(tmp_path / "third"))
    add(third, tmp_path, licence="another")
    with pytest.raises(RepositoryError, match="1 is another artifact with the same number"):
        third.copy("digits", 1, other)
    assert tree(rests) == tree(_folder(repository, "digits", "1"))


def test_copy_of_an_older_version_keeps_the_triton_file(repository: Repository, tmp_path: Path) -> None:
    for _ in range(2):
        add(repository, tmp_path)
    other = Repository(str(tmp_path / "other"))
    repository.copy("digits", 2, other)
    _folder(other, "digits", TRITON_FILE).write_text("tuned")
    repository.copy("digits", 1, other)
    assert _folder(other, "digits", TRITON_FILE).read_text() == "tuned"
    assert other.versions("digits") == [1, 2]


def test_damaged_file_is_not_copied(repository: Repository, tmp_path: Path) -> None:
    add(repository, tmp_path)
    model = _folder(repository, "digits", "1", "model.onnx")
    content = bytearray(model.read_bytes())
    content[3] ^= 1
    model.write_bytes(content)
    other = Repository(str(tmp_path / "other"))
    with pytest.raises(RepositoryError, match=r"digits/1/model\.onnx is damaged"):
        repository.copy("digits", 1, other, alias="stable")
    assert list(other.models().manifests) == []
    with pytest.raises(RepositoryError, match="alias '7'"):
        repository.copy("digits", 1, other, alias="7")


def test_copy_of_a_renamed_version_is_refused(repository: Repository, tmp_path: Path) -> None:
    add(repository, tmp_path)
    _folder(repository, "digits", "1").rename(_folder(repository, "digits", "2"))
    with pytest.raises(RepositoryError, match=r"2/manifest\.json is the manifest of digits@1"):
        repository.manifest("digits", 2)


@pytest.mark.parametrize("name", FILES)
def test_killed_copy_leaves_no_version_and_is_swept_after_a_day(
    repository: Repository, tmp_path: Path, name: str
) -> None:
    add(repository, tmp_path)
    other = Repository(str(tmp_path / "other"))
    command = [sys.executable, "-c", UPLOAD, repository.place, other.place, name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"in the middle\n"
        child.send_signal(signal.SIGKILL)
    (rests,) = _folder(other, "digits").iterdir()
    assert rests.name.startswith(".staging-")
    assert list(other.models().manifests) == other.versions("digits") == []
    repository.copy("digits", 1, other)
    assert tree(_folder(other, "digits", "1")) == tree(_folder(repository, "digits", "1"))
    add(Repository(other.place, now=lambda: time.time() + UNFINISHED_AGE / 2), tmp_path)
    assert rests.exists()
    add(Repository(other.place, now=lambda: time.time() + UNFINISHED_AGE + 1), tmp_path)
    assert {path.name for path in rests.parent.iterdir()} == {"1", "2", "3", TRITON_FILE}


@pytest.mark.parametrize("name", ["", "../up", ".hidden", "a/b", "two words", "naïve"])
def test_names_that_break_a_path_or_url_are_refused(repository: Repository, tmp_path: Path, name: str) -> None:
    for use in (
        lambda: add(repository, tmp_path, name=name),
        lambda: repository.versions(name),
        lambda: repository.resolve(f"{name}@1"),
    ):
        with pytest.raises(RepositoryError, match="model name"):
            use()
    assert not Path(repository.place).exists()


def test_places_that_are_no_repository_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RepositoryError, match="file is not a folder"):
        Repository(str(tmp_path / "file"))
    with pytest.raises(RepositoryError, match="cannot be opened"):
        Repository("nonsense://place")
    with pytest.raises(RepositoryError, match="no model repository at"):
        Repository(str(tmp_path / "nothing")).models()
    (tmp_path / "digits").write_text("in the way")
    with pytest.raises(RepositoryError, match="cannot be written") as error:
        add(Repository(str(tmp_path)), tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("place", ["", "s3://", "s3:", "s3:///", "s3://bucket/a#b", "s3://bucket/a?b"])
def test_places_that_would_mean_another_one_are_refused(place: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RepositoryError, match=r"path is empty|names no bucket|leave \? and # out"):
        Repository(place)
    assert list(tmp_path.iterdir()) == []


def test_concurrent_promotions_lose_no_alias(repository: Repository, tmp_path: Path) -> None:
    add(repository, tmp_path)
    names = [f"alias-{number}" for number in range(60)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda name: repository.promote("digits", 1, name), names))
    assert repository.aliases("digits") == dict.fromkeys(names, 1)


def test_version_is_promoted_or_deleted_but_not_both(repository: Repository, tmp_path: Path) -> None:
    add(repository, tmp_path)
    for _ in range(20):
        version = add(repository, tmp_path)
        with ThreadPoolExecutor(2) as pool:
            both = [
                pool.submit(repository.promote, "digits", version, "stable"),
                pool.submit(repository.delete, "digits", version),
            ]
        errors = [work.exception() for work in both]
        assert [type(error) for error in errors if error is not None] == [RepositoryError]
        assert ("stable" in repository.aliases("digits")) == (version in repository.versions("digits"))
        if errors[0] is None:
            repository.remove_alias("digits", "stable")


def test_concurrent_deletions_delete_once(repository: Repository, tmp_path: Path) -> None:
    add(repository, tmp_path)
    for _ in range(10):
        version = add(repository, tmp_path)
        with ThreadPoolExecutor(4) as pool:
            works = [pool.submit(repository.delete, "digits", version) for _ in range(4)]
        errors = [work.exception() for work in works]
        refusals = [error for error in errors if error is not None]
        assert len(refusals) == 3
        assert all(f"has no digits@{version}" in str(error) for error in refusals)


def test_version_is_withdrawn_if_the_triton_file_fails(repository: Repository, tmp_path: Path) -> None:
    add(repository, tmp_path)
    (_folder(repository, "digits") / TRITON_FILE).unlink()
    (_folder(repository, "digits") / TRITON_FILE).mkdir()
    with pytest.raises(RepositoryError, match="cannot be written"):
        add(repository, tmp_path)
    assert repository.versions("digits") == [1]


def test_broken_manifest_is_named(repository: Repository, tmp_path: Path) -> None:
    add(repository, tmp_path)
    path = _folder(repository, "digits", "1", MANIFEST_FILE)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"opset": 3}))
    with pytest.raises(ManifestError, match=r"1/manifest\.json was changed"):
        repository.manifest("digits", 1)
