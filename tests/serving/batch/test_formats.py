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

from serving.batch.formats.base import FORMATS, Columns, Item, free_name
from serving.batch.formats.webdataset import member_header, sample_key
from serving.errors import BatchError

ITEMS = [
    Item(f"zoo/horse.{number}", {"image": bytes([number]) * 700}, "png", {"number": number, "label": 1})
    for number in (3, 4)
]
COLUMNS: Columns = {"image": "image", "number": "index", "label": "int"}
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
    table = files.pop("000007/metadata.jsonl").decode().splitlines()
    assert files == {f"000007/{item.name}.png": item.images["image"] for item in ITEMS}
    assert [json.loads(line) for line in table] == [
        {"file_name": "zoo/horse.3.png", "number": 3, "label": 1},
        {"file_name": "zoo/horse.4.png", "number": 4, "label": 1},
    ]


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


def test_webdataset_has_all_values_of_a_sample() -> None:
    values = {
        "number": 0,
        "source": "ä.jpg",
        "label": 3,
        "txt": "a horse",
        "json": {"source": "x", "age": 2},
        "l1": 0.5,
    }
    item = Item("ä" * 200, {"image": b"content"}, "jpeg", {**values, "none": None})
    columns: Columns = {"image": "image", "number": "index", "source": "str", "label": "int", "txt": "str"}
    columns = {**columns, "json": "json", "l1": "float", "none": "str", "missing": "int"}
    content = FORMATS.find("webdataset")("000000", [item], columns)["000000.tar"]
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        members = {name: archive.extractfile(name).read() for name in archive.getnames()}  # type: ignore[union-attr]
    assert list(members) == [f"{item.name}.{ending}" for ending in ("jpeg", "cls", "txt", "json")]
    assert (members[f"{item.name}.cls"], members[f"{item.name}.txt"]) == (b"3", b"a horse")
    merged = {"source": "ä.jpg", "l1": 0.5, "input_source": "x", "age": 2}
    assert json.loads(members[f"{item.name}.json"]) == merged


def test_webdataset_keeps_what_is_no_object_and_no_class_in_its_json() -> None:
    item = Item("a", {"image": b"content"}, "png", {"label": [0.5, 1.0], "json": [1, 2]})
    content = FORMATS.find("webdataset")("000000", [item], {"image": "image", "label": "json", "json": "json"})
    with tarfile.open(fileobj=io.BytesIO(content["000000.tar"])) as archive:
        assert archive.getnames() == ["a.png", "a.json"]
        assert json.load(archive.extractfile("a.json")) == {"label": [0.5, 1.0], "json": [1, 2]}  # type: ignore[arg-type]


TWO = Item("zoo/a", {"first": b"1", "second": b"2"}, "png", {"number": 0})
TWO_COLUMNS: Columns = {"first": "image", "second": "image", "number": "index"}


def test_images_of_several_models_are_in_folders_columns_or_members() -> None:
    images = FORMATS.find("images")("7", [TWO], TWO_COLUMNS)
    table = {"first_file_name": "first/zoo/a.png", "second_file_name": "second/zoo/a.png", "number": 0}
    assert json.loads(images.pop("7/metadata.jsonl")) == table
    assert images == {"7/first/zoo/a.png": b"1", "7/second/zoo/a.png": b"2"}
    tar = FORMATS.find("webdataset")("7", [TWO], TWO_COLUMNS)["7.tar"]
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        assert archive.getnames() == ["zoo/a.first.png", "zoo/a.second.png"]
    with zipfile.ZipFile(io.BytesIO(FORMATS.find("zip")("7", [TWO], TWO_COLUMNS)["7.zip"])) as bundle:
        assert bundle.namelist() == ["first/zoo/a.png", "second/zoo/a.png", "dataset.json", "metadata.jsonl"]
    rows = parquet.read_table(io.BytesIO(FORMATS.find("parquet")("7", [TWO], TWO_COLUMNS)["7.parquet"])).to_pylist()
    path = "zoo/a.png"
    assert rows == [{"first": {"bytes": b"1", "path": path}, "second": {"bytes": b"2", "path": path}, "number": 0}]


@pytest.mark.parametrize(
    ("name", "taken", "expected"),
    [("a", {"b"}, "a"), ("a", {"a"}, "input_a"), ("a", {"a", "input_a"}, "input_input_a")],
)
def test_free_name_is_not_taken(name: str, taken: set[str], expected: str) -> None:
    assert free_name(name, taken) == expected


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
        assert archive.read("zoo/horse.3.png") == ITEMS[0].images["image"]
    without = FORMATS.find("zip")("000007", ITEMS, {"image": "image"})["000007.zip"]
    with zipfile.ZipFile(io.BytesIO(without)) as archive:
        assert json.loads(archive.read("dataset.json")) == {"labels": None}


def test_parquet_has_images_and_columns() -> None:
    content = FORMATS.find("parquet")("000007", ITEMS, COLUMNS)["000007.parquet"]
    table = parquet.read_table(io.BytesIO(content))
    assert table.column_names == ["image", "number", "label"]
    assert table.to_pylist() == [
        {
            "image": {"bytes": item.images["image"], "path": f"{item.name}.png"},
            "number": item.fields["number"],
            "label": 1,
        }
        for item in ITEMS
    ]
    empty = FORMATS.find("parquet")("000000", [], COLUMNS)["000000.parquet"]
    assert parquet.read_schema(io.BytesIO(empty)) == parquet.read_schema(io.BytesIO(content))
