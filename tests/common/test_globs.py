"""Patterns select the same files on a disk and in a zip."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from zorse_common.files import FilesError, FileSet
from zorse_common.globs import Glob, expanded, find_glob, parse_glob
from zorse_common.storage import Storage

NAMES = ("a.png", "b.jpg", "one/a.png", "one/two/a.png", "one/two/three/b.png", "two/a1.png", "two/b[1].png")
SELECTED = {
    "*.png": ("a.png",),
    "*": ("a.png", "b.jpg"),
    "*/a?.png": ("two/a1.png",),
    "**/a.png": ("a.png", "one/a.png", "one/two/a.png"),
    "[o]ne/**": ("one/a.png", "one/two/a.png", "one/two/three/b.png"),
    "**/two/**/*.png": ("one/two/a.png", "one/two/three/b.png", "two/a1.png", "two/b[1].png"),
    "[ab].*": ("a.png", "b.jpg"),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for name in NAMES:
            (tmp_path / "all" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "all" / name).write_text(name)
            archive.writestr(name, name)
    return tmp_path


@pytest.mark.parametrize("pattern", SELECTED)
@pytest.mark.parametrize("place", ["all", "all.zip"])
def test_file_set_reads_the_files_that_match_a_pattern(root: Path, place: str, pattern: str) -> None:
    files = FileSet(f"{root}/{place}/{pattern}")
    assert tuple(files.sizes) == SELECTED[pattern]
    assert [files.read(name) for name in files.sizes] == [name.encode() for name in SELECTED[pattern]]


def test_names_start_at_the_folder_before_the_first_wildcard(root: Path) -> None:
    assert list(FileSet(f"{root}/all/one/**").sizes) == ["a.png", "two/a.png", "two/three/b.png"]


def test_file_set_takes_an_existing_name_with_brackets_literally(root: Path) -> None:
    (root / "all").rename(root / "set [1]")
    assert len(FileSet(f"{root}/set [1]").sizes) == len(NAMES)


def test_file_set_refuses_a_pattern_without_matches(root: Path) -> None:
    with pytest.raises(FilesError, match=r"\*\.webp matches no file"):
        FileSet(f"{root}/all/*.webp")
    with pytest.raises(FilesError, match="does not exist"):
        FileSet(f"{root}/none/*.png")


@pytest.mark.parametrize(
    ("path", "glob"),
    [
        ("a/b.png", None),
        ("*.png", Glob(".", ("*.png",))),
        ("/*.png", Glob("/", ("*.png",))),
        ("/a/b*/c", Glob("/a", ("b*", "c"))),
        ("s3://bucket/a/**/b.png", Glob("s3://bucket/a", ("**", "b.png"))),
        ("s3://bucket/a?b", None),
    ],
)
def test_parse_glob_splits_a_path_before_the_first_wildcard(path: str, glob: Glob | None) -> None:
    assert parse_glob(path) == glob


def test_tree_lists_no_folder_below_its_depth(root: Path) -> None:
    storage = Storage(root / "all")
    assert sorted(storage.tree(1).sizes) == ["a.png", "b.jpg"]
    assert sorted(storage.tree(2).sizes) == ["a.png", "b.jpg", "one/a.png", "two/a1.png", "two/b[1].png"]


def test_find_glob_takes_what_exists_for_no_pattern(tmp_path: Path) -> None:
    (tmp_path / "a[1]").mkdir()
    assert find_glob(f"{tmp_path}/a[1]") is None
    assert find_glob(f"{tmp_path}/a[2]") == Glob(str(tmp_path), ("a[2]",))


def test_home_folder_takes_the_place_of_a_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert expanded("~/photos/**/*.png") == "/home/somebody/photos/**/*.png"
    assert [expanded(place) for place in ("photos/~", "s3://~/photos")] == ["photos/~", "s3://~/photos"]
