"""Inputs that cannot be translated become rows with a reason, whatever is wrong with them."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from serving.artifacts import load
from tests.serving.batch.jobs import images_of, make_all, plan_of
from zorse_common.image_writer import encode

GOOD = 60
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
    plan = plan_of(load(repository / "invert").manifest, format="images", shard_length=9)
    outcomes = make_all(repository / "invert", plan, tmp_path / "out", str(photos))
    assert len(images_of(tmp_path / "out/shards")) == GOOD
    rows = {error.name: error.reason for outcome in outcomes for error in outcome.record.errors}
    assert rows.keys() == BROKEN.keys()
    assert {name: reason for name, reason in rows.items() if BROKEN[name][1] not in reason} == {}
    assert not any("\n" in reason or str(tmp_path) in reason for reason in rows.values())
