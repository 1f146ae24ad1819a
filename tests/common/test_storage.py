"""A folder behaves alike on a disk, at a file URI and on an object store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.s3 import s3_server
from zorse_common.errors import StorageError, printable
from zorse_common.storage import Storage


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_server(tmp_path_factory.mktemp("s3"), "s3://storage"):
        yield "s3://storage"


@pytest.fixture(params=["path", "file", pytest.param("s3", marks=pytest.mark.ray)])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "s3":
        return Storage(f"{request.getfixturevalue('bucket')}/{tmp_path.name}")
    return Storage(tmp_path if request.param == "path" else f"file://{tmp_path}")


def test_files_are_written_read_listed_and_removed(folder: Storage) -> None:
    folder.write("deep/down/a.bin", b"abcdef")
    folder.write("b.bin", b"12")
    folder.write("b.bin", b"123")
    assert (folder.read("b.bin"), folder.read("deep/down/a.bin", 4)) == (b"123", b"abcd")
    assert b"".join((folder / "deep").chunks("down/a.bin")) == b"abcdef"
    folder.write_chunks("c.bin", iter([b"1", b"", b"23"]))
    assert folder.tree().sizes == {"deep/down/a.bin": 6, "b.bin": 3, "c.bin": 3}
    assert (folder.files(), folder.folders(), folder.kind()) == (["b.bin", "c.bin"], ["deep"], "folder")
    assert {"deep", "deep/down", "deep/down/a.bin", "b.bin"} <= folder.entries().keys()
    assert (folder / "b.bin").kind() == "file"
    assert folder.exists("deep/down/a.bin")
    with (folder / "c.bin").open_file() as file:
        file.seek(1)
        assert file.read() == b"23"
    folder.remove("b.bin")
    folder.remove("deep")
    folder.remove("nothing")
    assert folder.tree().sizes == {"c.bin": 3}


def test_what_is_not_there_is_empty_or_not_found(folder: Storage) -> None:
    nothing = folder / "nothing"
    assert (nothing.kind(), nothing.files(), nothing.folders(), nothing.entries()) == ("nothing", [], [], {})
    assert not nothing.exists("file")
    with pytest.raises(FileNotFoundError):
        nothing.read("file")
    with pytest.raises(FileNotFoundError):
        list(nothing.chunks("file"))


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("", "an empty place"),
        ("s3://", "names no bucket"),
        ("s3://b/x?y=1", "leave [?] and # out"),
        ("ftp9://x/y", "cannot be opened"),
    ],
)
def test_a_place_that_is_none_is_one_clear_line(place: str, reason: str) -> None:
    with pytest.raises(StorageError, match=reason):
        Storage(place)


def test_a_failed_write_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    folder = Storage(tmp_path)
    folder.write("a", b"old")
    (tmp_path / "a.part").mkdir()
    with pytest.raises(OSError, match=r"a\.part"):
        folder.write("a", b"new")
    assert folder.read("a") == b"old"


def test_links_to_a_folder_and_to_one_inside_it_list_each_file_once(tmp_path: Path) -> None:
    for names in (("a", "b"), ("b", "a")):
        root = tmp_path / names[0]
        (root / "ext" / "sub").mkdir(parents=True)
        (root / "links").mkdir()
        for file in ("one", "sub/two"):
            (root / "ext" / file).touch()
        (root / "links" / names[0]).symlink_to("../ext/sub")
        (root / "links" / names[1]).symlink_to("../ext")
        found = Storage(root / "links").tree()
        assert sorted(name.rsplit("/", 1)[-1] for name in found.sizes) == ["one", "two"]
        assert len(found.skipped) == 1


def test_names_are_printed_on_one_line() -> None:
    assert printable("Mu\udcf1oz\nà\ud800") == r"Mu\xf1oz\nà\ud800"
