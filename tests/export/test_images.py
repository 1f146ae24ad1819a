"""Real images for proofs: from folders and zips, at legal sizes."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from export.errors import ImageSetError
from export.images import ImagePlace, load_images
from export.interface import AxisLimits, SizeLimits, TensorSpec
from zorse_common.files import FilesError

LIMITS = SizeLimits.square(4, 8, 64)


def _port(channels: int = 3, dtype: Any = "uint8", bounds: tuple[float, float] = (0, 255)) -> TensorSpec:
    return TensorSpec("source", dtype, ("batch", "height", "width", channels), "the image", bounds)


RGB, GREY = _port(), _port(1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "deep").mkdir()
    Image.fromarray(np.full((20, 40, 3), (200, 100, 50), np.uint8)).save(tmp_path / "b.png")
    Image.fromarray(np.full((40, 20), 7, np.uint8)).save(tmp_path / "deep" / "a.png")
    (tmp_path / ".hidden.png").write_text("not an image")
    (tmp_path / "notes.txt").write_text("not an image")
    return tmp_path


def test_images_are_scaled_to_legal_sizes_in_the_order_of_their_names(folder: Path) -> None:
    first, second = load_images(ImagePlace(str(folder)), RGB, LIMITS, 32)
    assert (first.shape, first.dtype) == ((16, 32, 3), np.uint8)
    assert first[0, 0].tolist() == [200, 100, 50]
    assert second.shape == (32, 16, 3)
    assert second[0, 0].tolist() == [7, 7, 7]


def test_zip_gives_the_same_images_as_its_folder(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    archive = tmp_path_factory.mktemp("zip") / "images.zip"
    with zipfile.ZipFile(archive, "w") as stream:
        for path in folder.rglob("*.*"):
            stream.write(path, path.relative_to(folder))
    for one, two in zip(
        load_images(ImagePlace(str(folder)), GREY, LIMITS, 30),
        load_images(ImagePlace(str(archive)), GREY, LIMITS, 30),
        strict=True,
    ):
        assert one.shape[-1] == 1
        np.testing.assert_array_equal(one, two)


def test_load_images_reads_no_more_than_it_returns(folder: Path) -> None:
    assert len(load_images(ImagePlace(str(folder)), RGB, LIMITS, 32, count=1)) == 1


@pytest.mark.parametrize(
    ("side", "legal"), [(1, 8), (8, 8), (9, 12), (32, 32), (63, 64), (64, 64), (65, 64), (1000, 64)]
)
def test_legal_sizes_are_multiples_within_the_limits(side: int, legal: int) -> None:
    assert LIMITS.legal(side, 9) == (legal, 12)
    assert LIMITS.legal(9, side) == (12, legal)


def test_limits_that_are_no_multiples_are_kept() -> None:
    limits = SizeLimits.square(4, 6, 30)
    assert (limits.smallest, limits.largest) == ((8, 8), (28, 28))
    assert limits.at_least(16).smallest == (16, 16)
    assert limits.at_least(99).smallest == limits.largest


def test_heights_and_widths_have_their_own_limits(folder: Path) -> None:
    limits = SizeLimits(AxisLimits(16, 16, 16), AxisLimits(4, 8, 64))
    assert [image.shape[:2] for image in load_images(ImagePlace(str(folder)), RGB, limits, 32)] == [(16, 32), (16, 16)]


def test_folder_named_like_an_image_is_ignored(folder: Path) -> None:
    (folder / "a.png").mkdir()
    assert len(load_images(ImagePlace(str(folder)), RGB, LIMITS, 32)) == 2
    archive = folder / "images.zip"
    with zipfile.ZipFile(archive, "w") as stream:
        stream.mkdir("a.png")
        stream.write(folder / "b.png", "b.png")
    assert len(load_images(ImagePlace(str(archive)), RGB, LIMITS, 32)) == 1


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
def test_zip_that_cannot_be_read_is_one_clear_line(
    folder: Path, offsets: tuple[int, int], value: int, reason: str
) -> None:
    archive = folder / "images.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as stream:
        stream.write(folder / "b.png", "b.png")
    _damaged(archive, offsets, value)
    with pytest.raises(ImageSetError, match=rf"b\.png cannot be decoded \(.*{reason}.*remove or repair it"):
        load_images(ImagePlace(str(archive)), RGB, LIMITS, 32)


def test_zip_without_its_directory_is_one_clear_line(folder: Path) -> None:
    archive = folder / "images.zip"
    with zipfile.ZipFile(archive, "w") as stream:
        stream.write(folder / "b.png", "b.png")
    archive.write_bytes(archive.read_bytes().replace(b"PK\1\2", b"PK\0\0"))
    with pytest.raises(FilesError, match=r"images\.zip cannot be opened \(Bad magic number"):
        load_images(ImagePlace(str(archive)), RGB, LIMITS, 32)


def test_metadata_that_pillow_cannot_write_are_ignored(tmp_path: Path) -> None:
    # Turned by 90°, and a word is its horizontal resolution: Pillow raises a TypeError.
    tags = b"\x01\x1a\0\x02\0\0\0\x06\0\0\0&\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x02" + tags + b"\0\0\0\0hello\0"
    Image.new("RGB", (32, 16)).save(tmp_path / "odd.jpg", exif=exif)
    assert [image.shape for image in load_images(ImagePlace(str(tmp_path)), RGB, LIMITS, 32)] == [(32, 16, 3)]


def test_unusable_images_are_named(tmp_path: Path) -> None:
    with pytest.raises(FilesError, match="does not exist"):
        load_images(ImagePlace(str(tmp_path / "nowhere")), RGB, LIMITS, 32)
    with pytest.raises(ImageSetError, match="holds no image files"):
        load_images(ImagePlace(str(tmp_path)), RGB, LIMITS, 32)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    with pytest.raises(ImageSetError, match=r"broken\.png cannot be decoded"):
        load_images(ImagePlace(str(tmp_path)), RGB, LIMITS, 32)


WORDS = _port(2, "uint16", (0, 4095))


def _save(path: Path, array: np.ndarray) -> None:
    np.save(path, array, allow_pickle=False)


def test_arrays_are_read_if_image_files_cannot_hold_the_pixels(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 4096, (18, 70, 2), dtype=np.uint16)
    _save(tmp_path / "b.npy", array)
    _save(tmp_path / "a.npy", np.zeros((8, 8, 2), np.uint16))
    Image.new("RGB", (4, 4)).save(tmp_path / "c.png")
    first, second = load_images(ImagePlace(str(tmp_path)), WORDS, LIMITS, 32)
    assert (first.shape, first.dtype) == ((8, 8, 2), np.uint16)
    np.testing.assert_array_equal(second, array[:16, :64])
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as stream:
        stream.write(tmp_path / "b.npy", "b.npy")
    np.testing.assert_array_equal(load_images(ImagePlace(str(tmp_path / "all.zip")), WORDS, LIMITS, 32)[0], second)


def test_uint8_of_many_channels_is_read_from_arrays(tmp_path: Path) -> None:
    _save(tmp_path / "a.npy", np.full((8, 8, 12), 7, np.uint8))
    (image,) = load_images(ImagePlace(str(tmp_path)), _port(12), LIMITS, 32)
    assert image.shape == (8, 8, 12)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((8, 8, 2), np.uint8), r"is uint8 \[8, 8, 2\] and must be uint16 \[height, width, 2\]"),
        (np.zeros((8, 8, 3), np.uint16), r"is uint16 \[8, 8, 3\] and must be uint16 \[height, width, 2\]"),
        (np.zeros((8, 8), np.uint16), r"is uint16 \[8, 8\] and must be"),
        (np.full((8, 8, 2), 4096, np.uint16), r"has values outside 0\.\.4095: give the right --value-range"),
        (np.zeros((8, 7, 2), np.uint16), r"is 7×8 pixels, too small for the network"),
        (np.zeros((0, 8, 2), np.uint16), r"is 8×0 pixels, too small for the network"),
    ],
)
def test_array_that_is_no_legal_image_is_refused(array: np.ndarray, reason: str, tmp_path: Path) -> None:
    _save(tmp_path / "odd.npy", array)
    with pytest.raises(ImageSetError, match=rf"odd\.npy {reason}"):
        load_images(ImagePlace(str(tmp_path)), WORDS, LIMITS, 32)


def test_array_with_values_that_are_not_finite_is_refused(tmp_path: Path) -> None:
    _save(tmp_path / "odd.npy", np.full((8, 8, 2), np.nan, np.float32))
    with pytest.raises(ImageSetError, match=r"odd\.npy has values outside"):
        load_images(ImagePlace(str(tmp_path)), _port(2, "float32", (-1, 1)), LIMITS, 32)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"not an array", b"\x80\x04N."])
def test_npy_file_that_is_no_array_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "odd.npy").write_bytes(content)
    with pytest.raises(ImageSetError, match=r"odd\.npy cannot be read \(.*numpy\.save"):
        load_images(ImagePlace(str(tmp_path)), WORDS, LIMITS, 32)


def test_arrays_of_objects_are_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "odd.npy", np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(ImageSetError, match=r"odd\.npy cannot be read"):
        load_images(ImagePlace(str(tmp_path)), WORDS, LIMITS, 32)


def test_load_images_names_the_suffixes_that_it_reads(tmp_path: Path) -> None:
    with pytest.raises(ImageSetError, match=r"holds no \.npy files"):
        load_images(ImagePlace(str(tmp_path)), WORDS, LIMITS, 32)
    with pytest.raises(ImageSetError, match="holds no image files"):
        load_images(ImagePlace(str(tmp_path)), RGB, LIMITS, 32)


def test_hidden_arrays_are_left_out_and_endings_are_of_any_case(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.zeros((16, 16, 3), np.float32))
    (tmp_path / "one.npy").rename(tmp_path / "one.NPY")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "._one.npy").write_bytes(b"a fork of macOS")
    assert len(load_images(ImagePlace(str(tmp_path)), _port(3, "float32", (-1, 1)), LIMITS, 32)) == 1


def test_images_of_another_domain_are_reported_or_refused(folder: Path) -> None:
    for name in ("testA/1.png", "trainB/2.png"):
        (folder / name).parent.mkdir()
        Image.new("RGB", (16, 16), 9).save(folder / name)
    facts: list[str] = []
    assert len(load_images(ImagePlace(str(folder), "A"), RGB, LIMITS, 32, report=facts.append)) == 1
    assert "3 of another domain or split (b.png, deep/a.png, trainB/2.png)" in facts[-1]
    (folder / "testA" / "1.png").unlink()
    with pytest.raises(ImageSetError, match="has images of another domain and none in testA, A, trainA: give images"):
        load_images(ImagePlace(str(folder), "A"), RGB, LIMITS, 32)
