"""The inputs of a batch job: folders, archives and patterns of them, with safe and unique names."""

from __future__ import annotations

import contextlib
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from serving.batch.formats.base import FORMATS, Item
from serving.batch.inputs import check_output, inputs_digest, inputs_nbytes, list_inputs, read_entry, safe_name
from serving.batch.sources.base import SOURCES, Entry, Listing
from serving.errors import BatchError
from zorse_common.errors import ZorseError
from zorse_common.image_writer import encode

CONTENTS = {
    f"{name}.png": encode(np.full((4, 5, 3), level, np.uint8)) for name, level in (("b/two", 9), ("a", 1), ("b/x", 4))
}


def _folder(root: Path) -> Path:
    for name, content in CONTENTS.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def _zip(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in CONTENTS.items():
            archive.writestr(name, content)
    return path


def _tar(path: Path) -> Path:
    _folder(path.parent / "unpacked")
    with tarfile.open(path, "w") as archive:
        for name in CONTENTS:
            archive.add(path.parent / "unpacked" / name, name)
    return path


def _parquet(path: Path) -> Path:
    rows = [{"bytes": content, "path": name} for name, content in CONTENTS.items()]
    parquet.write_table(pyarrow.table({"image": rows, "caption": ["text"] * 3}), path, row_group_size=2)
    return path


def _read(uri: Path | str) -> dict[str, bytes]:
    return {entry.name: read_entry(entry).image for entry in list_inputs(str(uri)).entries}


MAKERS = {"folder": _folder, "zip": _zip, "tar": _tar, "parquet": _parquet}


def test_every_source_has_a_test() -> None:
    assert sorted(MAKERS) == SOURCES.names()


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_source_lists_and_reads_its_images_in_order(kind: str, tmp_path: Path) -> None:
    place = MAKERS[kind](tmp_path / f"images.{kind}")
    found = _read(place)
    assert found == CONTENTS
    assert list(found) == sorted(CONTENTS)


@pytest.mark.parametrize("kind", sorted(FORMATS.names()))
def test_format_is_an_input_again(kind: str, tmp_path: Path) -> None:
    items = [
        Item(name.removesuffix(".png"), {"image": content}, "png", {"number": 0}) for name, content in CONTENTS.items()
    ]
    for name, content in FORMATS.find(kind)("000000", items, {"image": "image", "number": "index"}).items():
        (tmp_path / "shards" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "shards" / name).write_bytes(content)
    (tmp_path / "plan-0123456789abcdef.json").write_text("{}")
    (tmp_path / "contact-sheet.png").write_bytes(CONTENTS["a.png"])
    prefix = "000000/" if kind == "images" else ""
    assert _read(tmp_path) == {f"{prefix}{name}": content for name, content in CONTENTS.items()}


def test_folder_of_archives_counts_as_the_images_in_them(tmp_path: Path) -> None:
    _zip(tmp_path / "one.zip")
    _parquet(tmp_path / "two.parquet")
    (tmp_path / "notes.txt").write_text("no image")
    listing = list_inputs(str(tmp_path))
    expected = {f"{archive}/{name}" for archive in ("one", "two") for name in CONTENTS}
    assert {entry.name for entry in listing.entries} == expected
    assert listing.left_out == {"notes.txt": "no image"}


def test_pattern_takes_images_and_archives(tmp_path: Path) -> None:
    _folder(tmp_path / "photos")
    _zip(tmp_path / "photos/more.zip")
    assert list(_read(f"{tmp_path}/photos/b/*")) == ["two.png", "x.png"]
    assert len(_read(f"{tmp_path}/**/*")) == 6
    with pytest.raises(ZorseError, match="matches no file"):
        list_inputs(f"{tmp_path}/photos/*.gif")


@pytest.mark.parametrize(
    ("inputs", "output", "is_refused"),
    [
        ("photos", "photos", True),
        ("photos", "photos/out", True),
        ("photos", "link/out", True),
        ("photos/", "photos-of-zebras", False),
        ("photos", "", False),
        ("photos/*.png", "photos/out", False),
        ("photos/*/*.png", "photos/out", True),
        ("photos/**/*.png", "photos/b/out", True),
        ("photos/more.zip", "photos/out", False),
        ("job", "job/out", False),
        ("job", "job/shards/out", True),
    ],
)
def test_output_among_the_inputs_is_refused(inputs: str, output: str, is_refused: bool, tmp_path: Path) -> None:
    _zip(_folder(tmp_path / "photos") / "more.zip")
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    _folder(tmp_path / "job/shards")
    (tmp_path / "job/plan-0123456789abcdef.json").write_text("{}")
    with pytest.raises(BatchError, match="would be taken for images") if is_refused else contextlib.nullcontext():
        check_output(f"{tmp_path}/{inputs}", f"{tmp_path}/{output}")


def test_single_image_is_an_input(tmp_path: Path) -> None:
    assert _read(_folder(tmp_path) / "a.png") == {"a.png": CONTENTS["a.png"]}


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "there is nothing at"),
        (lambda path: path.mkdir(), "there are no images at"),
        (lambda path: path.write_bytes(b"damaged"), "cannot be read as an uncompressed tar"),
    ],
)
def test_place_without_images_is_refused(write, message: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    write(tmp_path / "images.tar")
    with pytest.raises(BatchError, match=message):
        list_inputs(str(tmp_path / "images.tar"))


@pytest.mark.parametrize("kind", ["folder", "parquet", "tar", "zip"])
def test_inputs_have_about_the_bytes_of_their_images(kind: str, tmp_path: Path) -> None:
    images = {f"{n}.png": np.random.default_rng(n).bytes(40_000 * (n + 1)) for n in range(4)}
    path = tmp_path / f"photos.{kind}"
    if kind == "parquet":
        parquet.write_table(pyarrow.table({"image": list(images.values())}), path)
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in images.items():
                archive.writestr(name, content)
    else:
        (tmp_path / "photos.folder").mkdir()
        for name, content in images.items():
            (tmp_path / "photos.folder" / name).write_bytes(content)
        if kind == "tar":
            with tarfile.open(path, "w") as archive:
                archive.add(tmp_path / "photos.folder", arcname="photos")
    assert 400_000 <= inputs_nbytes(list_inputs(str(path))) < 1.2 * 400_000


def test_parquet_without_images_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table({"caption": ["a"]}), path)
    with pytest.raises(BatchError, match="has no column with the bytes of image files"):
        list_inputs(str(path))


def test_parquet_with_two_columns_of_one_name_is_refused(tmp_path: Path) -> None:
    columns = [pyarrow.array([b"x"]), pyarrow.array([1]), pyarrow.array([2])]
    parquet.write_table(pyarrow.Table.from_arrays(columns, ["image", "age", "age"]), tmp_path / "rows.parquet")
    with pytest.raises(BatchError, match=r"rows.parquet has two columns of one name"):
        list_inputs(str(tmp_path / "rows.parquet"))


def test_parquet_whose_paths_are_not_utf_8_is_refused(tmp_path: Path) -> None:
    paths = pyarrow.Array.from_buffers(pyarrow.string(), 1, pyarrow.array([b"\xff"]).buffers())
    rows = pyarrow.StructArray.from_arrays([pyarrow.array([b"x"]), paths], ["bytes", "path"])
    parquet.write_table(pyarrow.table({"image": rows}), tmp_path / "rows.parquet")
    with pytest.raises(BatchError, match=r"rows.parquet cannot be read as a Parquet file \('utf-8'"):
        list_inputs(str(tmp_path / "rows.parquet"))


def test_parquet_whose_paths_are_no_text_has_numbers_as_names(tmp_path: Path) -> None:
    rows = [{"bytes": b"x", "path": 5}, {"bytes": b"y", "path": 6}]
    parquet.write_table(pyarrow.table({"image": rows}), tmp_path / "rows.parquet")
    assert _read(tmp_path / "rows.parquet") == {"rows-000000": b"x", "rows-000001": b"y"}


@pytest.mark.parametrize(
    ("column", "value"), [("image", b"x"), ("image", {"bytes": b"x"}), ("photo", {"bytes": b"x", "path": None})]
)
def test_parquet_with_bytes_beside_images_leaves_them_out(column: str, value: object, tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"md5": [b"0123"], column: [value]}), tmp_path / "rows.parquet")
    assert _read(tmp_path / "rows.parquet") == {"rows-000000": b"x"}
    left_out = list_inputs(str(tmp_path / "rows.parquet")).left_out
    assert left_out == {"rows.parquet/md5": "bytes beside a column of images"}


def test_parquet_with_several_columns_of_images_has_all_of_them(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table({"photo": [b"x", b"y"], "mask": [b"z", b"w"]}), path)
    names = ["mask/rows-000000", "mask/rows-000001", "photo/rows-000000", "photo/rows-000001"]
    assert _read(path) == dict(zip(names, [b"z", b"w", b"x", b"y"], strict=True))


@pytest.mark.parametrize("pattern", ["", "/*.png"])
def test_folder_lists_what_is_called_as_an_image_and_is_no_file(pattern: str, tmp_path: Path) -> None:
    folder = _folder(tmp_path / "photos")
    os.mkfifo(folder / "pipe.png")
    os.mkfifo(folder / "pipe.txt")
    (folder / "gone.png").symlink_to(tmp_path / "gone")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    listing = list_inputs(f"{folder}{pattern}")
    reasons = {}
    for entry in listing.entries:
        if entry.member not in CONTENTS:
            with pytest.raises(OSError, match=r"^(a link to|neither)") as error:
                read_entry(entry)
            reasons[entry.name] = str(error.value)
    link = "a link to a missing file"
    expected = {"gone.png": link, "loop.png": link, "pipe.png": "neither a file nor a folder"}
    assert reasons == expected | ({} if pattern else {"loop.jpg": link})
    assert listing.left_out["pipe.txt"] == "neither a file nor a folder"


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("a/b.png", "a/b.png"),
        ("../../etc/passwd", "etc/passwd"),
        ("/absolute/x.png", "absolute/x.png"),
        ("a\\..\\b.png", "a/b.png"),
        ("a\nb.png", "a_nb.png"),
        ("..", "image"),
    ],
)
def test_safe_name_stays_in_the_folder(name: str, safe: str) -> None:
    assert safe_name(name) == safe


def test_inputs_digest_depends_on_names_and_sizes() -> None:
    entry = Entry("a", 1, "folder", "/x", "a")
    digest = inputs_digest(Listing([entry]))
    assert digest == inputs_digest(Listing([entry._replace(place="/y")]))
    assert digest != inputs_digest(Listing([entry._replace(size=2)]))
    assert digest != inputs_digest(Listing([entry, entry]))


@pytest.mark.parametrize("is_alone", [True, False])
@pytest.mark.parametrize("kind", ["parquet", "tar", "zip"])
def test_inputs_digest_depends_on_the_size_and_time_of_archives(kind: str, is_alone: bool, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = MAKERS[kind](tmp_path / f"in/images.{kind}")
    shutil.rmtree(tmp_path / "in/unpacked", ignore_errors=True)
    uri = str(path if is_alone else path.parent)
    listing = list_inputs(uri)
    assert listing.archives == {path.name: (path.stat().st_size, path.stat().st_mtime_ns)}
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert list_inputs(uri).entries == listing.entries
    assert inputs_digest(list_inputs(uri)) != inputs_digest(listing)


@pytest.mark.parametrize("kind", ["parquet", "tar", "zip"])
def test_damaged_archive_in_a_folder_is_left_out_with_its_reason(kind: str, tmp_path: Path) -> None:
    _folder(tmp_path / "photos")
    (tmp_path / f"photos/damaged.{kind}").write_bytes(b"damaged")
    listing = list_inputs(str(tmp_path / "photos"))
    assert [entry.name for entry in listing.entries] == sorted(CONTENTS)
    assert list(listing.left_out) == [f"damaged.{kind}"]
    assert f"damaged.{kind}" in listing.left_out[f"damaged.{kind}"]
    with pytest.raises(BatchError, match=rf"no images at .*left out 1 files.*damaged\.{kind}"):
        list_inputs(f"{tmp_path}/photos/*.{kind}")


@pytest.mark.parametrize("scheme", ["", "file://"])
@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_file_that_is_gone_is_no_failure_of_a_store(kind: str, scheme: str, tmp_path: Path) -> None:
    place = MAKERS[kind](tmp_path / f"images.{kind}")
    entry = list_inputs(f"{scheme}{place}").entries[0]
    if kind == "folder":
        shutil.rmtree(place)
    else:
        place.unlink()
    with pytest.raises(FileNotFoundError, match="the file is gone: it was there when the inputs were listed"):
        read_entry(entry)
