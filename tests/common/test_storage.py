"""Storage behaves alike on a disk, at a file URI and on an object store."""

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


def test_storage_writes_reads_lists_and_removes_files(folder: Storage) -> None:
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


def test_storage_of_a_missing_folder_is_empty(folder: Storage) -> None:
    missing = folder / "missing"
    assert (missing.kind(), missing.files(), missing.folders(), missing.entries()) == ("nothing", [], [], {})
    assert not missing.exists("file")
    with pytest.raises(FileNotFoundError):
        missing.read("file")
    with pytest.raises(FileNotFoundError):
        list(missing.chunks("file"))


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("", "the path is empty"),
        ("s3://", "names no bucket"),
        ("s3://b/x?y=1", "leave [?] and # out"),
        ("ftp9://x/y", "cannot be opened"),
    ],
)
def test_storage_refuses_a_malformed_uri_in_one_line(uri: str, reason: str) -> None:
    with pytest.raises(StorageError, match=reason):
        Storage(uri)


def test_write_that_fails_keeps_the_previous_file(tmp_path: Path) -> None:
    folder = Storage(tmp_path)
    folder.write("a", b"old")
    (tmp_path / "a.part").mkdir()
    with pytest.raises(OSError, match=r"a\.part"):
        folder.write("a", b"new")
    assert folder.read("a") == b"old"


def test_tree_lists_each_file_once_despite_overlapping_links(tmp_path: Path) -> None:
    for names in (("a", "b"), ("b", "a")):
        root = tmp_path / names[0]
        (root / "ext" / "sub").mkdir(parents=True)
        (root / "links").mkdir()
        for file in ("one", "sub/two"):
            (root / "ext" / file).touch()
        (root / "links" / names[0]).symlink_to("../ext/sub")
        (root / "links" / names[1]).symlink_to("../ext")
        tree = Storage(root / "links").tree()
        assert sorted(name.rsplit("/", 1)[-1] for name in tree.sizes) == ["one", "two"]
        assert len(tree.skipped) == 1


def test_printable_escapes_undecodable_bytes_and_line_breaks() -> None:
    assert printable("Mu\udcf1oz\nà\ud800") == r"Mu\xf1oz\nà\ud800"
