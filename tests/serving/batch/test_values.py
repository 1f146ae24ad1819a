"""What is known of inputs beside the image is kept: from WebDataset, Parquet and StyleGAN's ZIP to every format."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from serving.artifacts import load
from serving.batch.columns import carried_columns
from serving.batch.formats.base import FORMATS, Item
from serving.batch.inputs import list_inputs, read_entry
from serving.batch.sources.base import SOURCES
from serving.errors import BatchError, ImageError
from tests.serving.batch.jobs import make_all, plan_of
from tests.serving.tiny import conditional_manifest, generator_graph, inverter_manifest
from tests.serving.tiny import write as write_model
from zorse_common.image_writer import encode

IMAGES = [encode(np.full((16, 20, 3), level, np.uint8)) for level in (1, 2, 3)]
CAPTIONS = ["a horse", "ein Pferd – schön", "un cheval"]


def _tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def _webdataset(folder: Path) -> Path:
    members: dict[str, bytes] = {}
    for number, (image, caption) in enumerate(zip(IMAGES, CAPTIONS, strict=True)):
        members |= {f"a/{number}.cls": str(number % 2).encode(), f"a/{number}.png": image}
        members |= {f"a/{number}.txt": caption.encode(), f"a/{number}.json": json.dumps({"age": number}).encode()}
    return _tar(folder / "photos.tar", members)


def _parquet(folder: Path) -> Path:
    columns = {
        "image": [{"bytes": image, "path": f"a/{number}.png"} for number, image in enumerate(IMAGES)],
        "label": [0, 1, 0],
        "txt": CAPTIONS,
        "age": [0.5, None, 1.5],
        "is_old": [True, False, None],
        "box": [[1, 2], [], None],
        "number": [70, 71, 72],
        "thumbnail": pyarrow.array([b"x"] * 3, pyarrow.binary(1)),
    }
    parquet.write_table(pyarrow.table(columns), folder / "photos.parquet", row_group_size=2)
    return folder / "photos.parquet"


def _stylegan(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        for number, image in enumerate(IMAGES):
            archive.writestr(f"a/{number}.png", image)
        labels = [[f"a/{number}.png", number % 2] for number in range(3)]
        archive.writestr("dataset.json", json.dumps({"labels": labels}))
    return folder / "photos.zip"


def _folder(folder: Path) -> Path:
    for number, image in enumerate(IMAGES):
        (folder / "photos/a").mkdir(parents=True, exist_ok=True)
        (folder / f"photos/a/{number}.png").write_bytes(image)
    return folder / "photos"


PLACES = {"tar": _webdataset, "parquet": _parquet, "zip": _stylegan, "folder": _folder}
EXPECTED: dict[str, list[dict[str, Any]]] = {
    "tar": [{"label": n % 2, "txt": CAPTIONS[n], "json": {"age": n}} for n in range(3)],
    "parquet": [
        {"label": 0, "txt": CAPTIONS[0], "age": 0.5, "is_old": True, "box": [1, 2], "input_number": 70},
        {"label": 1, "txt": CAPTIONS[1], "age": None, "is_old": False, "box": [], "input_number": 71},
        {"label": 0, "txt": CAPTIONS[2], "age": 1.5, "is_old": None, "box": None, "input_number": 72},
    ],
    "zip": [{"label": n % 2} for n in range(3)],
    "folder": [{}, {}, {}],
}
JSON_COLUMNS = {"json", "box"}


def _read_parquet(folder: Path) -> list[dict[str, Any]]:
    rows = parquet.read_table(folder / "000000.parquet").drop_columns(["image", "number", "source"]).to_pylist()
    return [
        {name: json.loads(value) if name in JSON_COLUMNS and value else value for name, value in row.items()}
        for row in rows
    ]


def _read_table(text: bytes) -> list[dict[str, Any]]:
    own = {"file_name", "number", "source"}
    return [{k: v for k, v in json.loads(line).items() if k not in own} for line in text.splitlines()]


def _read_zip(folder: Path) -> list[dict[str, Any]]:
    with zipfile.ZipFile(folder / "000000.zip") as archive:
        rows = _read_table(archive.read("metadata.jsonl"))
        labels = json.loads(archive.read("dataset.json"))["labels"]
    has_labels = any("label" in row for row in rows)
    assert labels == ([[f"a/{n}.png", row["label"]] for n, row in enumerate(rows)] if has_labels else None)
    return rows


def _read_webdataset(folder: Path) -> list[dict[str, Any]]:
    """Read the members as the input's values: those of its JSON stand beside the job's own in the .json."""
    rows = []
    with tarfile.open(folder / "000000.tar") as archive:
        members = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    for number in range(3):
        row = json.loads(members[f"a/{number}.json"])
        assert row.pop("source") == f"a/{number}.png"
        row |= {"label": int(members[name])} if (name := f"a/{number}.cls") in members else {}
        row |= {"txt": members[name].decode()} if (name := f"a/{number}.txt") in members else {}
        rows.append(row)
    return rows


READERS = {
    "parquet": _read_parquet,
    "images": lambda folder: _read_table((folder / "000000/metadata.jsonl").read_bytes()),
    "zip": _read_zip,
    "webdataset": _read_webdataset,
}


def test_every_source_and_format_has_a_test() -> None:
    assert (sorted(PLACES), sorted(READERS)) == (SOURCES.names(), FORMATS.names())


@pytest.mark.parametrize("name", sorted(READERS))
@pytest.mark.parametrize("kind", sorted(PLACES))
def test_values_of_inputs_are_kept(kind: str, name: str, repository: Path, tmp_path: Path) -> None:
    place = PLACES[kind](tmp_path)
    plan = plan_of(load(repository / "invert").manifest, format=name)
    (outcome,) = make_all(repository / "invert", plan, tmp_path / "out", str(place))
    assert outcome.record.errors == ()
    expected = EXPECTED[kind]
    if name == "webdataset":  # which has no members for what is missing
        expected = [{**row, **row.get("json", {})} for row in expected]
        expected = [{k: v for k, v in row.items() if k != "json" and v is not None} for row in expected]
    assert READERS[name](tmp_path / "out/shards") == expected


def test_values_beside_no_image_are_left_out(tmp_path: Path) -> None:
    members = {"a.png": IMAGES[0], "a.json": b"{}", "a.xml": b"", "b.json": b"{}"}
    listing = list_inputs(str(_tar(tmp_path / "x.tar", members)))
    assert listing.left_out == {"x.tar/a.xml": "no image", "x.tar/b.json": "no image"}
    assert listing.columns == {"json": "json"}


@pytest.mark.parametrize(("ending", "content"), [("cls", b"cat"), ("json", b"{"), ("txt", b"\xff")])
def test_damaged_value_of_an_input_is_named(ending: str, content: bytes, repository: Path, tmp_path: Path) -> None:
    place = _tar(tmp_path / "x.tar", {"a.png": IMAGES[0], f"a.{ending}": content, "b.png": IMAGES[1]})
    with pytest.raises(ImageError, match=f"the .{ending} beside the image cannot be read"):
        read_entry(list_inputs(str(place)).entries[0])
    plan = plan_of(load(repository / "invert").manifest)
    (outcome,) = make_all(repository / "invert", plan, tmp_path / "out", str(place))
    assert (outcome.record.count, [error.name for error in outcome.record.errors]) == (1, ["a.png"])


@pytest.mark.parametrize("name", sorted(READERS))
def test_label_of_more_than_64_bits_makes_a_bad_input(name: str, repository: Path, tmp_path: Path) -> None:
    place = _tar(tmp_path / "x.tar", {"a.png": IMAGES[0], "a.cls": str(2**63).encode(), "b.png": IMAGES[1]})
    plan = plan_of(load(repository / "invert").manifest, format=name)
    (outcome,) = make_all(repository / "invert", plan, tmp_path / "out", str(place))
    reasons = [error.reason for error in outcome.record.errors]
    assert (outcome.record.count, reasons) == (1, ["the label beside the image is no number of 64 bits"])


@pytest.mark.parametrize("text", ["{", "[]", '{"labels": [1]}'])
def test_damaged_labels_of_a_zip_are_refused(text: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.png", IMAGES[0])
        archive.writestr("dataset.json", text)
    with pytest.raises(BatchError, match=r"x.zip: the labels in dataset.json cannot be read"):
        list_inputs(str(tmp_path / "x.zip"))


@pytest.mark.parametrize("name", sorted(FORMATS.names()))
def test_values_that_json_does_not_have_are_null(name: str) -> None:
    item = Item("a", {"image": IMAGES[0]}, "png", {"json": {"age": float("nan"), "box": [float("inf"), 1.5]}})
    files = FORMATS.find(name)("000000", [item], {"image": "image", "json": "json"})
    content = b"".join(files.values())
    assert b"NaN" not in content
    assert b'"age": null, "box": [null, 1.5]' in content


def test_values_of_different_kinds_are_json(tmp_path: Path) -> None:
    for name, label in (("one", 1), ("two", "cat"), ("three", "dog")):
        parquet.write_table(pyarrow.table({"image": [IMAGES[0]], "label": [label]}), tmp_path / f"{name}.parquet")
    assert list_inputs(str(tmp_path)).columns == {"label": "json"}


@pytest.mark.parametrize("kind", ["parquet", "zip"])
def test_archive_that_was_replaced_is_read_anew(kind: str, tmp_path: Path) -> None:
    place = PLACES[kind](tmp_path)
    assert read_entry(list_inputs(str(place)).entries[0]).image == IMAGES[0]
    if kind == "parquet":
        parquet.write_table(pyarrow.table({"image": [IMAGES[2]]}), place)
    else:
        with zipfile.ZipFile(place, "w") as archive:
            archive.writestr("c.png", IMAGES[2])
    assert read_entry(list_inputs(str(place)).entries[0]).image == IMAGES[2]


def test_values_that_are_called_as_columns_of_the_job_have_another_name() -> None:
    plan = plan_of(
        inverter_manifest(), carried=dict.fromkeys(("number", "source", "input_source", "age", "file_name"), "str")
    )
    names = {"number": "input_number", "source": "input_input_source", "input_source": "input_source", "age": "age"}
    names["file_name"] = "input_file_name"
    assert carried_columns(plan) == names


def test_results_of_a_job_keep_their_values_in_the_next_one(repository: Path, tmp_path: Path) -> None:
    model = write_model(tmp_path / "repository", generator_graph(classes=3), conditional_manifest())
    for name in ("parquet", "webdataset", "zip"):
        make_all(model, plan_of(load(model).manifest, format=name, shard_size=20), tmp_path / name)
        plan = plan_of(load(repository / "invert").manifest, format="parquet", shard_size=20)
        make_all(repository / "invert", plan, tmp_path / f"{name}-next", str(tmp_path / name))
        table = parquet.read_table(tmp_path / f"{name}-next/shards/000000.parquet")
        assert table["label"].to_pylist() == [number % 3 for number in range(20)]


def test_generated_images_have_their_classes_in_a_table(tmp_path: Path) -> None:
    model = write_model(tmp_path / "repository", generator_graph(classes=3), conditional_manifest())
    make_all(model, plan_of(load(model).manifest, format="images", keys={"seed": 7, "labels": 2}), tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out/shards/000000/metadata.jsonl").read_text().splitlines()]
    assert rows[3] == {"file_name": "7_000003.png", "number": 3, "seed": 7, "label": 2}


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:2060] + b"x" + content[2061:],  # in the header of the third member
        lambda content: content[:2048],
        lambda content: content + content,
    ],
    ids=["damaged header", "cut off", "two in one"],
)
def test_tar_whose_end_is_missing_is_refused(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    place = _tar(tmp_path / "photos.tar", {f"{number}.png": image for number, image in enumerate(IMAGES)})
    place.write_bytes(damage(place.read_bytes()))
    with pytest.raises(BatchError, match=r"photos.tar is damaged or cut off at byte \d+"):
        list_inputs(str(place))


def test_tar_hard_link_is_its_target_and_other_links_are_named(tmp_path: Path) -> None:
    place = _tar(tmp_path / "photos.tar", {"a.png": IMAGES[0]})
    with tarfile.open(place, "a") as archive:
        for name, kind in (("b.png", tarfile.LNKTYPE), ("c.png", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a.png"
            archive.addfile(info)
    listing = list_inputs(str(place))
    assert [(entry.name, read_entry(entry).image) for entry in listing.entries] == [
        ("a.png", IMAGES[0]),
        ("b.png", IMAGES[0]),
    ]
    assert listing.left_out == {"photos.tar/c.png": "a link"}
