"""`zorse data info` and `zorse data preview` on folders, zips, patterns and broken files."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet
from typer.testing import CliRunner

from serving.batch.formats.base import FORMATS, Item
from zorse.cli import app
from zorse_common.files import FilesError
from zorse_common.image_writer import encode

KEYS = [
    *("schema", "path", "kind", "decoded", "images", "bytes", "folders", "formats", "modes", "bits", "width", "height"),
    *(
        "file_bytes",
        "turned",
        "deep_greys",
        "deep_colours",
        "duplicates",
        "unreadable",
        "left_out",
        "datasets",
        "columns",
    ),
]


def _run(*words: str | Path) -> str:
    result = CliRunner().invoke(app, ["data", *map(str, words)])
    if result.exception is not None:
        raise result.exception
    return result.stdout


def _info(*words: str | Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(_run("info", *words, "--json"))
    return document


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    for seed, name in enumerate(("trainA/0.png", "trainA/1.png", "trainB/0.jpg", "testA/0.png", "other/0.png")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(seed).integers(0, 256, (20, 30 + seed, 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / name)
    (root / "trainB" / "1.png").write_bytes((root / "trainA" / "1.png").read_bytes())
    (root / "trainB" / "torn.png").write_bytes((root / "trainA" / "0.png").read_bytes()[:500])
    (root / "trainA" / "empty.png").write_bytes(b"")
    (root / "trainA" / "notes.txt").write_text("text")
    return root


def test_info_gives_a_document_with_stable_keys(pictures: Path) -> None:
    document = _info(pictures)
    assert list(document) == KEYS
    assert (document["schema"], document["kind"], document["decoded"], document["images"]) == (1, "folder", False, 8)
    assert {folder: facts["images"] for folder, facts in document["folders"].items()} == {
        "other": 1,
        "testA": 1,
        "trainA": 3,
        "trainB": 3,
    }
    assert document["width"] == {"least": 30, "5 %": 30, "median": 31, "95 %": 34, "most": 34}
    assert document["unreadable"] == {"trainA/empty.png": "the image is empty: give the bytes of an image file"}
    assert document["left_out"] == {"trainA/notes.txt": "no image"}
    assert document["duplicates"] == [["trainA/1.png", "trainB/1.png"]]


def test_info_says_what_each_dataset_takes(pictures: Path) -> None:
    views = {view["type"]: view for view in _info(pictures)["datasets"]}
    assert views["folder"]["collections"] == {"training": 8, "held out": 0}
    unpaired = views["unpaired"]
    assert (unpaired["domains"], unpaired["classes"], unpaired["paired"]) == (["A", "B"], None, False)
    assert unpaired["collections"] == {"trainA": 3, "trainB": 3, "testA": 1, "testB": 0}
    assert (unpaired["unused"], unpaired["reason"]) == (1, "not in trainA, trainB, testA, testB")
    assert unpaired["facts"][0].startswith("trainA: 3 images of 30×20 to 31×20 pixels")


def test_info_finds_damaged_pixels_only_with_decode(pictures: Path) -> None:
    assert "trainB/torn.png" not in _info(pictures)["unreadable"]
    assert "truncated" in _info(pictures, "--decode")["unreadable"]["trainB/torn.png"]


def test_info_says_the_same_of_a_zip_as_of_its_folder(pictures: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for path in pictures.rglob("*.*"):
            archive.write(path, path.relative_to(pictures))
    folder, packed = _info(pictures), _info(tmp_path / "set.zip")
    for key in ("path", "kind", "datasets"):
        del folder[key], packed[key]
    assert packed == folder


def test_info_takes_patterns(pictures: Path) -> None:
    document = _info(f"{pictures}/train?/*.png")
    assert (document["images"], document["formats"]) == (5, {"PNG": 4})
    with pytest.raises(FilesError, match="matches no file"):
        _info(f"{pictures}/*.webp")


def test_info_prints_one_screen_of_whole_lines(pictures: Path) -> None:
    for number in range(30):
        (pictures / f"more{number:02}").mkdir()
        Image.new("L", (9, 9), number).save(pictures / f"more{number:02}" / "0.png")
        (pictures / "trainA" / f"bad{number:02}.png").write_bytes(b"bad")
    text = _run("info", pictures)
    assert f"{pictures} (folder): 68 images, 31 of them unreadable, " in text
    for words in ("26 more folders", "L 30, RGB 7", "26 more", "left out: no image", "30 copies of 2 files, 1 of them"):
        assert words in text
    assert len(text.splitlines()) < 50


def test_info_states_the_values_of_deep_greys(tmp_path: Path) -> None:
    for number in range(20):
        values = np.linspace(0, 4095, 64 * 8).reshape(8, 64) - number
        Image.fromarray(values.clip(0).astype(np.uint16)).save(tmp_path / f"{number}.png")
    (greys,) = (document := _info(tmp_path))["deep_greys"].items()
    assert greys == (
        "16-bit PNG",
        {"images": 20, "examined": 16, "least": 0, "most": 4095, "narrow": 16, "ranges": [[0, 65535]]}
        | {"likely_range": [0, 4095]},
    )
    assert "set data.value_range" in document["datasets"][0]["refused"]
    assert _info(tmp_path, "--decode")["deep_greys"]["16-bit PNG"]["examined"] == 20
    assert _info(tmp_path, "--value-range", "0", "4095")["datasets"][0]["refused"] is None
    assert "is it data.value_range=[0, 4095]?" in _run("info", tmp_path)


def test_preview_writes_a_sheet_and_names_unreadable_files(pictures: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["data", "preview", str(pictures), "-o", str(tmp_path / "out" / "sheet.png")])
    assert result.exit_code == 0
    assert result.stdout == f"{tmp_path}/out/sheet.png: 8 of 8 images\n"
    assert [line.split(":")[0] for line in result.stderr.splitlines()] == [
        "skipped trainA/empty.png",
        "skipped trainB/torn.png",
    ]
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        assert sheet.size == (1250, 534)


def test_preview_lists_its_images_as_json(pictures: Path, tmp_path: Path) -> None:
    document = json.loads(_run("preview", pictures, "-o", tmp_path / "sheet.png", "--count", "4", "--json"))
    assert list(document) == ["schema", "path", "sheet", "images"]
    assert [image["name"] for image in document["images"]] == [
        "other/0.png",
        "trainA/0.png",
        "trainA/empty.png",
        "trainB/1.png",
    ]
    assert [image["reason"] is None for image in document["images"]] == [True, True, False, True]


def test_preview_refuses_a_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(FilesError, match="holds no images"):
        _run("preview", tmp_path)


def _webdataset(path: Path, count: int) -> None:
    with tarfile.open(path, "w") as archive:
        for number in range(count):
            noise = np.random.default_rng(number).integers(0, 256, (20, 30 + number, 3), dtype=np.uint8)
            members = {"png": encode(noise), "cls": str(number).encode(), "xml": b"<a/>"}
            for ending, content in members.items():
                info = tarfile.TarInfo(f"{path.stem}/{number}.{ending}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("place", ["a.tar", "", "*.tar"])
def test_info_counts_the_images_of_a_webdataset(place: str, tmp_path: Path) -> None:
    _webdataset(tmp_path / "a.tar", 5)
    if place != "a.tar":
        _webdataset(tmp_path / "b.tar", 3)
    document = _info(f"{tmp_path}/{place}")
    assert list(document) == KEYS
    count = 5 if place == "a.tar" else 8
    assert (document["kind"], document["images"], document["width"]["most"]) == ("tar", count, 34)
    assert (document["columns"], document["datasets"]) == ({"label": "int"}, [])
    assert document["left_out"]["a.tar/a/0.xml"] == "no image"
    assert len(document["left_out"]) == count
    assert len(document["duplicates"]) == (0 if place == "a.tar" else 3)
    assert document["bytes"] == sum(len(content) for content in _png_members(tmp_path))


def _png_members(folder: Path) -> Iterator[bytes]:
    for path in folder.glob("*.tar"):
        with tarfile.open(path) as archive:
            yield from (archive.extractfile(name).read() for name in archive.getnames() if name.endswith("png"))  # type: ignore[union-attr]


def test_info_of_parquet_has_sizes_values_and_what_cannot_be_read(tmp_path: Path) -> None:
    images = [encode(np.full((4, 6 + number, 3), number, np.uint8)) for number in range(3)]
    rows = [*images, b"no image", images[0], None]
    columns = {"image": pyarrow.array(rows, pyarrow.binary()), "caption": ["a horse"] * 6}
    parquet.write_table(pyarrow.table(columns), tmp_path / "photos.parquet", row_group_size=2)
    document = _info(tmp_path / "photos.parquet")
    assert (document["kind"], document["columns"]) == ("parquet", {"caption": "str"})
    # Without a name a file counts as an image by its first bytes.
    assert (document["images"], document["formats"]) == (4, {"PNG": 4})
    assert document["left_out"] == {"photos-000003": "no image", "photos-000005": "no image"}
    assert document["duplicates"] == [["photos-000000", "photos-000004"]]
    assert document["bytes"] == sum(map(len, images)) + len(images[0])
    text = _run("info", tmp_path / "photos.parquet")
    assert "caption" in text
    assert "these are inputs for zorse translate" in text


def test_info_names_an_image_whose_value_is_damaged(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, content in {"0.png": encode(np.zeros((4, 4, 3), np.uint8)), "0.cls": b"horse"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    (reason,) = _info(tmp_path / "a.tar")["unreadable"].values()
    assert "the .cls beside the image cannot be read" in reason


@pytest.mark.parametrize("name", ["images", "webdataset"])
def test_info_of_the_output_of_a_batch_job_has_its_images(name: str, tmp_path: Path) -> None:
    image = encode(np.zeros((4, 4, 3), np.uint8))
    files = FORMATS.find(name)("000000", [Item("a", {"image": image}, "png", {})], {"image": "image"})
    for path, content in {**{f"shards/{path}": content for path, content in files.items()}, "sheet.png": image}.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    assert _info(tmp_path)["images"] == 2 - (name == "webdataset")  # no plan: it could be any folder
    (tmp_path / "plan-0123456789abcdef.json").write_text("{}")
    document = _info(tmp_path)
    assert (document["images"], document["kind"]) == (1, "folder" if name == "images" else "tar")


def test_info_keeps_rows_of_one_name_apart(tmp_path: Path) -> None:
    rows = [{"bytes": encode(np.full((4, 4, 3), number, np.uint8)), "path": "a.png"} for number in range(3)]
    parquet.write_table(pyarrow.table({"image": rows}), tmp_path / "photos.parquet")
    assert _info(tmp_path / "photos.parquet")["images"] == 3


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_preview_draws_the_images_of_archives(kind: str, tmp_path: Path) -> None:
    _webdataset(tmp_path / "photos.tar", 5)
    with tarfile.open(tmp_path / "photos.tar") as archive:
        rows = [{"bytes": archive.extractfile(m).read(), "path": m.name} for m in archive if m.name.endswith("png")]  # type: ignore[union-attr]
    parquet.write_table(pyarrow.table({"image": rows}), tmp_path / "photos.parquet")
    (tmp_path / "folder").mkdir()
    for row in rows:
        (tmp_path / "folder" / Path(row["path"]).name).write_bytes(row["bytes"])
    sheets = {}
    for place in (f"photos.{kind}", "folder"):
        output = tmp_path / f"{place}.png"
        document = json.loads(_run("preview", tmp_path / place, "-o", output, "--json"))
        sheets[place] = np.asarray(Image.open(output))
        assert [image["detail"] for image in document["images"]][:2] == [
            "30×20 PNG, RGB, 8 bits",
            "31×20 PNG, RGB, 8 bits",
        ]
    first, second = sheets.values()
    tile = (slice(50, 240), slice(14, 206))
    np.testing.assert_array_equal(first[tile], second[tile])
