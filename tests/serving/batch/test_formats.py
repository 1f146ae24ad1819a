"""Every output format: equal images give equal bytes, whenever they are written."""

from __future__ import annotations

import io
import json
import tarfile
import time
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from serving.batch.formats.base import FORMATS, Columns, Item
from serving.batch.formats.webdataset import member_header, sample_key
from serving.errors import BatchError

ITEMS = [Item(f"zoo/horse.{number}", bytes([number]) * 700, "png", {"number": number, "label": 1}) for number in (3, 4)]
COLUMNS: Columns = {"number": int, "label": int}
FORMAT_NAMES = FORMATS.names()


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_format_repeats_its_bytes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write = FORMATS.find(name)
    first = write("000007", ITEMS, COLUMNS)
    later = time.time() + 10**7
    monkeypatch.setattr(time, "time", lambda: later)
    assert write("000007", list(ITEMS), dict(COLUMNS)) == first
    assert all(file.startswith("000007") for file in first)


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_format_writes_a_shard_without_images(name: str) -> None:
    files = FORMATS.find(name)("000000", [], COLUMNS)
    assert len(files) == (0 if name == "images" else 1)


def test_images_are_files_in_the_folder_of_the_shard() -> None:
    files = FORMATS.find("images")("000007", ITEMS, COLUMNS)
    assert files == {f"000007/{item.file_name}": item.content for item in ITEMS}


def test_images_with_equal_names_are_refused() -> None:
    with pytest.raises(BatchError, match="images of shard 000007 have equal names"):
        FORMATS.find("images")("000007", [ITEMS[0], ITEMS[0]], COLUMNS)


def test_webdataset_members_have_no_time_and_no_owner() -> None:
    content = FORMATS.find("webdataset")("000007", ITEMS, COLUMNS)
    with tarfile.open(fileobj=io.BytesIO(content["000007.tar"])) as archive:
        members = archive.getmembers()
    assert [member.name for member in members] == [
        "zoo/horse%2E3.png",
        "zoo/horse%2E3.cls",
        "zoo/horse%2E4.png",
        "zoo/horse%2E4.cls",
    ]
    assert {(member.mtime, member.uid, member.gid, member.uname, member.mode) for member in members} == {
        (0, 0, 0, "", 0o644)
    }


@given(st.text(st.characters(exclude_characters="\0"), max_size=130), st.integers(0, 2**34))
def test_webdataset_headers_are_those_of_tarfile(name: str, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size = size
    assert member_header(name, size) == info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def test_webdataset_columns_of_text_are_json() -> None:
    item = Item("ä" * 200, b"content", "jpeg", {"number": 0, "source": "ä.jpg"})
    content = FORMATS.find("webdataset")("000000", [item], {"number": int, "source": str})["000000.tar"]
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        assert archive.getnames() == [f"{item.name}.jpeg", f"{item.name}.json"]
        member = archive.extractfile(f"{item.name}.json")
        assert member is not None
        assert json.load(member) == {"source": "ä.jpg"}


def test_webdataset_keys_differ_where_names_differ() -> None:
    names = ["a.b", "a%2Eb", "a%b", "a/b.c", "a.d/b"]
    keys = [sample_key(name) for name in names]
    assert len(set(keys)) == len(names)
    assert not any("." in key.rpartition("/")[2] for key in keys)


def test_zip_is_a_data_set_of_stylegan() -> None:
    content = FORMATS.find("zip")("000007", ITEMS, COLUMNS)["000007.zip"]
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        labels = json.loads(archive.read("dataset.json"))["labels"]
        assert labels == [["zoo/horse.3.png", 1], ["zoo/horse.4.png", 1]]
        assert archive.read("zoo/horse.3.png") == ITEMS[0].content
    without = FORMATS.find("zip")("000007", ITEMS, {"number": int})["000007.zip"]
    with zipfile.ZipFile(io.BytesIO(without)) as archive:
        assert json.loads(archive.read("dataset.json")) == {"labels": None}


def test_parquet_has_images_and_columns() -> None:
    content = FORMATS.find("parquet")("000007", ITEMS, COLUMNS)["000007.parquet"]
    table = parquet.read_table(io.BytesIO(content))
    assert table.column_names == ["image", "number", "label"]
    assert table.to_pylist() == [
        {"image": {"bytes": item.content, "path": item.file_name}, "number": item.fields["number"], "label": 1}
        for item in ITEMS
    ]
    empty = FORMATS.find("parquet")("000000", [], COLUMNS)["000000.parquet"]
    assert parquet.read_schema(io.BytesIO(empty)) == parquet.read_schema(io.BytesIO(content))
