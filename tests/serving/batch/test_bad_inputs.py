"""Inputs that cannot be translated become rows with a reason, whatever is wrong with them."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from serving.artifacts import load
from serving.local_model import LocalModel
from tests.serving.batch.jobs import images_of, invoke, make_all, plan_of
from zorse_common.image_writer import encode

GOOD = 60
HORSES = Path(__file__).parents[4] / "shared" / "data" / "horse2zebra.zip"
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)


def _png_of_size(width: int, height: int) -> bytes:
    """Return a PNG whose header states a size that its data does not have."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + encode(PIXELS)[33:]


def _archive() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.png", encode(PIXELS))
    return stream.getvalue()


def _float_tiff() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.ones((20, 20), np.float32)).save(stream, "TIFF")
    return stream.getvalue()


PNG, JPEG = encode(PIXELS), encode(PIXELS, "jpeg")
BROKEN = {
    "empty.jpg": (b"", "empty"),
    "text.jpg": (b"not an image, although it is called one", "is not a PNG"),
    "page.png": (b"<!doctype html><title>404</title>", "is not a PNG"),
    "drawing.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not a PNG"),
    "document.jpg": (b"%PDF-1.7\n" + bytes(200), "is not a PNG"),
    "archive.png": (_archive(), "is not a PNG"),
    "half.png": (PNG[: len(PNG) // 2], "cannot be read"),
    "half.jpg": (JPEG[: len(JPEG) // 2], "cannot be read"),
    "flipped.png": (PNG[:60] + bytes([PNG[60] ^ 255]) + PNG[61:], "cannot be read"),
    "huge.png": (_png_of_size(60_000, 60_000), "pixels"),
    "large.png": (encode(np.zeros((640, 640, 3), np.uint8)), "larger than"),
    "real.tif": (_float_tiff(), "floating-point"),
}


def test_twelve_kinds_of_broken_files_are_rows_beside_sixty_images(repository: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(GOOD):
        (photos / f"photo{number:02d}.png").write_bytes(encode(np.roll(PIXELS, number, axis=0)))
    for name, (content, _) in BROKEN.items():
        (photos / name).write_bytes(content)
    plan = plan_of(load(repository / "invert").manifest, format="images", shard_size=9)
    outcomes = make_all(repository / "invert", plan, tmp_path / "out", str(photos))
    assert len(images_of(tmp_path / "out/shards")) == GOOD
    rows = {error.name: error.reason for outcome in outcomes for error in outcome.record.errors}
    assert rows.keys() == BROKEN.keys()
    assert {name: reason for name, reason in rows.items() if BROKEN[name][1] not in reason} == {}
    assert not any("\n" in reason or str(tmp_path) in reason for reason in rows.values())


def test_image_with_a_long_name_has_a_short_one_in_its_folder(repository: Path, tmp_path: Path) -> None:
    names = [f"{'a' * 300}.png", "b.png"]
    rows = [{"bytes": PNG, "path": name} for name in names]
    parquet.write_table(pyarrow.table({"image": rows}), tmp_path / "photos.parquet")
    plan = plan_of(load(repository / "invert").manifest, format="images", shard_size=9)
    make_all(repository / "invert", plan, tmp_path / "out", str(tmp_path / "photos.parquet"))
    assert list(images_of(tmp_path / "out/shards/000000")) == [f"{'a' * 240}.png", "b.png"]
    table = (tmp_path / "out/shards/000000/metadata.jsonl").read_text().splitlines()
    assert [json.loads(row)["source"] for row in table] == names


def _deep_png() -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(1).integers(0, 2**16, (40, 48), dtype=np.uint16)
    Image.fromarray(noise).save(stream, "PNG")
    return stream.getvalue()


def _animation() -> bytes:
    stream = io.BytesIO()
    frames = [Image.fromarray(np.roll(PIXELS, number, axis=0)) for number in range(3)]
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    return stream.getvalue()


def _break(photos: Path, jpeg: bytes) -> dict[str, str]:
    """Put twelve broken files of different kinds into a folder; return a part of the reason for each."""
    deep, moving = _deep_png(), _animation()
    contents = {
        "half.jpg": (jpeg[: len(jpeg) // 2], "cannot be read"),
        "empty.jpg": (b"", "empty"),
        "text.jpg": BROKEN["text.jpg"],
        "archive.jpeg": BROKEN["archive.png"],
        "huge.png": BROKEN["huge.png"],
        "large.png": BROKEN["large.png"],
        "flipped.png": BROKEN["flipped.png"],
        "deep.png": (deep[: len(deep) // 2], "cannot be read"),
        "moving.gif": (moving[:200], "cannot be read"),
        "real.tif": BROKEN["real.tif"],
    }
    for name, (content, _) in contents.items():
        (photos / name).write_bytes(content)
    (photos / "loop.png").symlink_to(photos / "loop.png")
    os.mkfifo(photos / "pipe.jpg")
    reasons = {name: reason for name, (_, reason) in contents.items()}
    return reasons | {"loop.png": "a link to a missing file", "pipe.jpg": "neither a file nor a folder"}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(not HORSES.exists(), reason="needs the photographs of horse2zebra")
def test_command_gives_sixty_images_and_twelve_rows(repository: Path, tmp_path: Path) -> None:
    photos, out, model = tmp_path / "photos", tmp_path / "out", repository / "invert"
    with zipfile.ZipFile(HORSES) as archive:
        horses = {
            Path(name).stem: archive.read(name) for name in archive.namelist() if "testA/" in name and "." in name
        }
    assert len(horses) == GOOD
    (photos / "album.png").mkdir(parents=True)  # a folder that is called as an image
    for number, (name, content) in enumerate(horses.items()):
        folder = photos / "album.png" if number == 0 else photos
        (folder / f"{name}.{'jpg' if number % 2 else 'png'}").write_bytes(content)  # names do not say what a file is
    reasons = _break(photos, next(iter(horses.values())))
    assert len(reasons) == 12

    command = ["translate", model, "--input", photos, "--output", out, "--format", "images", "--device", "cpu"]
    result = invoke(*command)
    assert (result.exit_code, "12 inputs were bad" in result.stderr) == (1, True), result.output
    assert invoke(*command, "--max-errors", 11).exit_code == 1
    assert invoke(*command, "--max-errors", 12).exit_code == 0

    rows = {row["name"]: row["reason"] for row in map(json.loads, (out / "errors.jsonl").read_text().splitlines())}
    assert rows.keys() == reasons.keys()
    assert {name: reason for name, reason in rows.items() if reasons[name] not in reason} == {}
    single = LocalModel.load(model)
    results = {Path(name).stem: content for name, content in images_of(out / "shards").items()}
    assert results.keys() == horses.keys()
    assert [n for n, content in results.items() if content != single.fetch("translate", horses[n]).content] == []
