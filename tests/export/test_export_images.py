"""Real images for proofs: from folders and zips, at legal sizes."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export.errors import ImageSetError
from export.images import load_images
from export.manifest import SizeLimits

LIMITS = SizeLimits(multiple=4, minimum=8, maximum=64)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "deep").mkdir()
    Image.fromarray(np.full((20, 40, 3), (200, 100, 50), np.uint8)).save(tmp_path / "b.png")
    Image.fromarray(np.full((40, 20), 7, np.uint8)).save(tmp_path / "deep" / "a.png")
    (tmp_path / ".hidden.png").write_text("not an image")
    (tmp_path / "notes.txt").write_text("not an image")
    return tmp_path


def test_images_are_scaled_to_legal_sizes_in_the_order_of_their_names(folder: Path) -> None:
    first, second = load_images(str(folder), 3, LIMITS, 32)
    assert (first.shape, first.dtype) == ((16, 32, 3), np.uint8)
    assert first[0, 0].tolist() == [200, 100, 50]
    assert second.shape == (32, 16, 3)
    assert second[0, 0].tolist() == [7, 7, 7]


def test_a_zip_gives_the_same_images_as_its_folder(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    archive = tmp_path_factory.mktemp("zip") / "images.zip"
    with zipfile.ZipFile(archive, "w") as stream:
        for path in folder.rglob("*.*"):
            stream.write(path, path.relative_to(folder))
    for one, two in zip(load_images(str(folder), 1, LIMITS, 30), load_images(str(archive), 1, LIMITS, 30), strict=True):
        assert one.shape[-1] == 1
        np.testing.assert_array_equal(one, two)


def test_only_the_first_ones_are_read(folder: Path) -> None:
    assert len(load_images(str(folder), 3, LIMITS, 32, count=1)) == 1


@pytest.mark.parametrize(
    ("edge", "legal"), [(1, 8), (8, 8), (9, 12), (32, 32), (63, 64), (64, 64), (65, 64), (1000, 64)]
)
def test_legal_sizes_are_multiples_within_the_limits(edge: int, legal: int) -> None:
    assert LIMITS.legal(edge) == legal


def test_a_limit_that_is_no_multiple_is_never_crossed() -> None:
    limits = SizeLimits(multiple=4, minimum=6, maximum=30)
    assert (limits.legal(1), limits.legal(30)) == (8, 28)


def test_a_folder_that_is_named_like_an_image_is_none(folder: Path) -> None:
    (folder / "a.png").mkdir()
    assert len(load_images(str(folder), 3, LIMITS, 32)) == 2
    archive = folder / "images.zip"
    with zipfile.ZipFile(archive, "w") as stream:
        stream.mkdir("a.png")
        stream.write(folder / "b.png", "b.png")
    assert len(load_images(str(archive), 3, LIMITS, 32)) == 1


# Offsets in a local header of a zip (and, with the second, in the central directory).
FLAGS, METHOD = (6, 8), (8, 10)


def _damaged(archive: Path, offsets: tuple[int, int], value: int) -> None:
    data = bytearray(archive.read_bytes())
    for at in (offsets[0], data.index(b"PK\1\2") + offsets[1]):
        data[at] = value
    archive.write_bytes(data)


@pytest.mark.parametrize(
    ("offsets", "value", "reason"),
    [(FLAGS, 1, "encrypted"), (METHOD, 99, "compression method"), ((40, 16), 255, "")],
    ids=["encrypted", "unknown compression", "damaged"],
)
def test_a_zip_that_cannot_be_read_is_one_clear_line(
    folder: Path, offsets: tuple[int, int], value: int, reason: str
) -> None:
    archive = folder / "images.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as stream:
        stream.write(folder / "b.png", "b.png")
    _damaged(archive, offsets, value)
    with pytest.raises(ImageSetError, match=rf"b\.png cannot be decoded \(.*{reason}.*take it away"):
        load_images(str(archive), 3, LIMITS, 32)


def test_a_zip_without_its_directory_is_one_clear_line(folder: Path) -> None:
    archive = folder / "images.zip"
    with zipfile.ZipFile(archive, "w") as stream:
        stream.write(folder / "b.png", "b.png")
    archive.write_bytes(archive.read_bytes().replace(b"PK\1\2", b"PK\0\0"))
    with pytest.raises(ImageSetError, match=r"images\.zip is a zip file that cannot be read"):
        load_images(str(archive), 3, LIMITS, 32)


def test_what_makes_pillow_stumble_is_named(tmp_path: Path) -> None:
    # Turned by 90°, and a word is its horizontal resolution: Pillow raises a TypeError.
    tags = b"\x01\x1a\0\x02\0\0\0\x06\0\0\0&\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x02" + tags + b"\0\0\0\0hello\0"
    Image.new("RGB", (4, 4)).save(tmp_path / "odd.jpg", exif=exif)
    with pytest.raises(ImageSetError, match=r"odd\.jpg cannot be decoded"):
        load_images(str(tmp_path), 3, LIMITS, 32)


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageSetError, match="neither a folder nor a zip"):
        load_images(str(tmp_path / "nowhere"), 3, LIMITS, 32)
    with pytest.raises(ImageSetError, match="holds no images"):
        load_images(str(tmp_path), 3, LIMITS, 32)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    with pytest.raises(ImageSetError, match=r"broken\.png cannot be decoded"):
        load_images(str(tmp_path), 3, LIMITS, 32)
    with pytest.raises(ImageSetError, match="1, 3 or 4 channels and the network takes 2"):
        load_images(str(tmp_path), 2, LIMITS, 32)
