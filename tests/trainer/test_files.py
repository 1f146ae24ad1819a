"""Folders and zips of image files, good and damaged."""

from __future__ import annotations

import io
import re
import struct
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainer import registry
from trainer.errors import DataError
from trainer.registry import DataComponent
from zorse_common.files import FilesError, ImageFiles, read_images, write_image

NO_IMAGE = "the image is not a PNG, JPEG, WEBP, BMP, GIF, TIFF, PPM, TGA file: convert it to one of these"
TRUNCATED = "the image cannot be read (image file is truncated): make or copy the file again"
EMPTY = "the image is empty: give the bytes of an image file"


def _write(path: Path, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(len(path.name))
    Image.fromarray(draw.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).convert(mode).save(path)


def _png(pixels: object = ((0,),), mode: str = "L", **keys: object) -> bytes:
    """Return a PNG file of the pixels: rows of grey levels, or of RGB or RGBA tuples."""
    image = Image.fromarray(np.array(pixels, dtype=np.uint16 if mode == "I;16" else np.uint8))
    stream = io.BytesIO()
    image.convert(mode).save(stream, "PNG", **keys)
    return stream.getvalue()


def _folder(root: Path, **keys: object) -> DataComponent:
    return registry.resolve("data", {"type": "folder", "root": str(root), "size": 16, **keys})


def _unpaired(root: Path | str, **keys: object) -> DataComponent:
    return registry.resolve("data", {"type": "unpaired", "root": str(root), "size": 16, **keys})


def test_images_of_any_size_and_mode_get_one_shape(tmp_path: Path) -> None:
    for name, size, mode in (("a.png", (40, 30), "RGB"), ("b.png", (8, 90), "L"), ("c.jpg", (17, 17), "CMYK")):
        _write(tmp_path / name, size, mode)
    dataset = registry.build(_folder(tmp_path), seed=0)
    images = [dataset.example(number).images["image"] for number in range(9)]
    assert {(image.shape, image.dtype.name) for image in images} == {((16, 16, 3), "uint8")}
    assert all(np.array_equal(image, dataset.example(number).images["image"]) for number, image in enumerate(images))
    grey = registry.build(_folder(tmp_path, channels=1), seed=0)
    assert grey.example(0).images["image"].shape == (16, 16, 1)


def test_pixels_of_any_mode_become_grey_or_colour_of_eight_bits(tmp_path: Path) -> None:
    red, blue = (255, 0, 0), (0, 0, 255)
    clear, half, solid = (9, 9, 9, 0), (200, 100, 0, 51), (200, 100, 0, 255)
    files = {
        "16-bit.png": _png([[0, 255, 256, 65535]], "I;16"),
        "alpha.png": _png([[clear, half, solid]], "RGBA"),
        "bits.png": _png([[0, 255]], "1"),
        "grey-alpha.png": _png([[(7, 7, 7, 0), (8, 8, 8, 255)]], "LA"),
        "palette.png": _png([[red, blue]], "P"),
        "transparent-colour.png": _png([[red, blue]], "RGB", transparency=red),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    white = [255, 255, 255]
    assert {name: image.tolist() for name, image in read_images(str(tmp_path)).items()} == {
        "16-bit.png": [[[0], [1], [1], [255]]],
        "alpha.png": [[white, [244, 224, 204], [200, 100, 0]]],
        "bits.png": [[[0], [255]]],
        "grey-alpha.png": [[[255], [8]]],
        "palette.png": [[list(red), list(blue)]],
        "transparent-colour.png": [[white, list(blue)]],
    }


def test_palette_images_are_resized_like_rgb_images(tmp_path: Path) -> None:
    checks = [[((x + y) % 2 * 255, 51, 102) for x in range(9)] for y in range(9)]
    datasets = []
    for mode in ("RGB", "P"):
        (tmp_path / mode).mkdir()
        (tmp_path / mode / "image.png").write_bytes(_png(checks, mode))
        datasets.append(registry.build(_folder(tmp_path / mode), seed=0))
    assert np.array_equal(*(dataset.example(0).images["image"] for dataset in datasets))


def test_zip_and_folder_give_equal_examples_by_path_and_uri(tmp_path: Path) -> None:
    names = [f"set/{domain}/{number}.png" for domain in ("trainA", "trainB", "testA", "testB") for number in range(3)]
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name in names:
            _write(tmp_path / name)
            archive.write(tmp_path / name, name)
    places = [str(tmp_path / "set"), str(tmp_path / "set.zip")]
    datasets = [registry.build(_unpaired(root), seed=5) for root in (*places, *(f"file://{place}" for place in places))]
    for domain in "AB":
        assert [dataset.count(domain) for dataset in datasets] == [3, 3, 3, 3]
        assert len(datasets[0].held_out(domain, 8)) == 3
        for number in range(6):
            first, *others = (dataset.example(number).images[domain] for dataset in datasets)
            assert all(np.array_equal(first, other) for other in others)


def test_hidden_files_and_those_of_macos_are_left_out(tmp_path: Path) -> None:
    shown = ["trainA/1.png", "trainA/deep/2.PNG"]
    left_out = ["trainA/._1.png", "__MACOSX/3.png", "set/__MACOSX/trainA/4.png", ".cache/5.png"]
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("trainA/folder.png/", "")
        for name in (*shown, *left_out):
            (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "set" / name).write_bytes(_png())
            archive.writestr(name, _png())
    assert ImageFiles(str(tmp_path / "set")).names == ImageFiles(str(tmp_path / "set.zip")).names == shown


def test_unreadable_images_are_listed_and_skipped_up_to_the_limit(tmp_path: Path) -> None:
    for number in range(4):
        _write(tmp_path / f"good{number}.png")
    (tmp_path / "truncated.png").write_bytes((tmp_path / "good0.png").read_bytes()[:60])
    (tmp_path / "text.jpg").write_text("not an image")
    dataset = registry.build(_folder(tmp_path, max_unreadable=2), seed=0)
    assert len([dataset.example(number).images["image"] for number in range(12)]) == 12
    assert set(dataset.skipped) == {
        f"skipped truncated.png: {TRUNCATED}",
        f"skipped text.jpg: {NO_IMAGE}",
    }
    strict = registry.build(_folder(tmp_path, max_unreadable=1), seed=0)
    with pytest.raises(DataError, match=r"2 images cannot be read \(.*\.(png|jpg).*data.max_unreadable \(1\)"):
        [strict.example(number).images["image"] for number in range(12)]


def test_damaged_files_of_every_kind_are_unreadable_with_a_reason(tmp_path: Path) -> None:
    files = {
        "good.png": _png(),
        "empty.png": b"",
        "exif.jpg": _jpeg_with_broken_exif(),
        "postscript.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n",
        "truncated.png": _png(np.random.default_rng(0).integers(0, 256, (40, 40)))[:700],
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    Image.new("1", (12_000, 12_000)).save(tmp_path / "bomb.png")
    Image.new("F", (4, 4)).save(tmp_path / "float.tif")
    images = ImageFiles(str(tmp_path))
    assert [name for name in images.names if images.open(name) is not None] == ["exif.jpg", "good.png"]
    assert images.unreadable == {
        "bomb.png": "the image has 12000×12000 pixels and the limit is 134217728: scale it down",
        "empty.png": EMPTY,
        "float.tif": "the image has floating-point values, whose black and white the file does not say: state its "
        "value range",
        "postscript.png": NO_IMAGE,
        "truncated.png": TRUNCATED,
    }
    with pytest.raises(FilesError, match=r"bomb.png cannot be read \(the image has 12000×12000 pixels"):
        read_images(str(tmp_path))


def test_damaged_zip_members_of_every_kind_are_unreadable_with_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("checksum.png", "deflate.png", "encrypted.png", "good.png", "method.png"):
            archive.writestr(name, _png())
        member = {info.filename: info.header_offset for info in archive.infolist()}
    content = bytearray(path.read_bytes())
    # A member's data follow its name and 30 bytes; its entry in the list begins 46 bytes before its name.
    entry = {name: content.rindex(name.encode()) - 46 for name in member}
    content[entry["checksum.png"] + 16] ^= 1
    content[member["deflate.png"] + 30 + len("deflate.png")] = 7
    content[entry["encrypted.png"] + 8] |= 1
    content[entry["method.png"] + 10] = 99
    path.write_bytes(content)
    images = ImageFiles(str(path))
    assert [name for name in images.names if images.open(name) is not None] == ["good.png"]
    assert images.unreadable == {
        "checksum.png": "Bad CRC-32 for file 'checksum.png'",
        "deflate.png": "Error -3 while decompressing data: invalid block type",
        "encrypted.png": "File 'encrypted.png' is encrypted, password required for extraction",
        "method.png": "That compression method is not supported",
    }
    path.write_bytes(content.replace(b"PK\x01\x02", b"PKPK"))
    with pytest.raises(FilesError, match=r"set.zip cannot be opened \(Bad magic number"):
        ImageFiles(str(path))


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("hasty_threads")
def test_skipped_only_grows_while_threads_add_files(tmp_path: Path) -> None:
    for number in range(1000):
        (tmp_path / f"{number:03d}.png").touch()
    images = ImageFiles(str(tmp_path))
    snapshots: list[list[str]] = [[]]
    with ThreadPoolExecutor(2) as threads:
        opened = [threads.submit(images.open, name) for name in images.names]
        while not opened[-1].done():
            snapshots.append(images.skipped)
            assert snapshots[-1][: len(snapshots[-2])] == snapshots[-2]
    assert sorted(images.skipped) == [f"skipped {number:03d}.png: {EMPTY}" for number in range(1000)]


def test_skipped_files_of_all_domains_are_in_the_order_of_the_attempts(tmp_path: Path) -> None:
    for folder in ("trainA", "trainB", "testA"):
        _write(tmp_path / folder / "good.png")
        (tmp_path / folder / "bad.png").touch()
    dataset = registry.build(_unpaired(tmp_path), seed=0)
    for number in range(2):
        assert {image.shape for image in dataset.example(number).images.values()} == {(16, 16, 3)}
    assert len(dataset.held_out("A", 8)) == 1
    assert dataset.skipped == [f"skipped {folder}/bad.png: {EMPTY}" for folder in ("trainA", "trainB", "testA")]


def test_dataset_without_readable_images_is_refused(tmp_path: Path) -> None:
    for name in ("trainA/1.png", "trainA/2.png", "trainB/3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    dataset = registry.build(_unpaired(tmp_path), seed=0)
    message = f"{tmp_path}: none of the 2 images can be read (trainA/1.png: {EMPTY})"
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        dataset.held_out("A", 8)
    with pytest.raises(DataError, match="none of the 2 images can be read"):
        dataset.example(0).images["A"]


def test_missing_and_empty_roots_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(FilesError, match="does not exist"):
        registry.build(_folder(tmp_path / "nowhere"), seed=0)
    with pytest.raises(DataError, match="holds no images"):
        registry.build(_folder(tmp_path), seed=0)
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(FilesError, match="neither a folder nor a zip"):
        registry.build(_folder(tmp_path / "file.txt"), seed=0)
    with pytest.raises(DataError, match="no images in trainA/"):
        registry.build(_unpaired(tmp_path), seed=0)


def test_written_images_are_read_back_unchanged(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    images = {f"to/{channels}.png": draw.integers(0, 256, (5, 4, channels), dtype=np.uint8) for channels in (1, 3)}
    for name, image in images.items():
        write_image(tmp_path / name, image)
    read = read_images(str(tmp_path))
    assert {name: image.tolist() for name, image in read.items()} == {
        name: image.tolist() for name, image in images.items()
    }
    with pytest.raises(FilesError, match=r"0.png cannot be written \(Not a directory\)"):
        write_image(tmp_path / "to" / "1.png" / "deep" / "0.png", images["to/1.png"])


def _jpeg_with_broken_exif() -> bytes:
    """Return a JPEG whose EXIF data have orientation 6 and, in a field for text, a fraction."""
    maker = struct.pack("<HHII", 0x010F, 5, 1, 38)
    orientation = struct.pack("<HHII", 0x0112, 3, 1, 6)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + maker + orientation + struct.pack("<III", 0, 1, 2)
    stream = io.BytesIO()
    Image.new("L", (4, 4)).save(stream, "JPEG", exif=exif)
    return stream.getvalue()
