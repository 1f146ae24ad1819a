"""The report on a set of image files is what the files are."""

from __future__ import annotations

import io
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.common.image_files import bad, good
from zorse_common.data_report import SHARES, DataReport, Quantiles, examine
from zorse_common.files import ImageFiles
from zorse_common.image_details import grey_values, is_turned
from zorse_common.images import decode_image, read_header


def _png(size: tuple[int, int], level: int = 0, mode: str = "L") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size, level).save(stream, "PNG")
    return stream.getvalue()


def _write(root: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def _report(root: Path, *, decode: bool = False) -> DataReport:
    return examine(ImageFiles(str(root)), decode=decode)


FILES = st.dictionaries(
    st.tuples(st.sampled_from(["", "a/", "b/c/"]), st.integers(0, 9)),
    st.one_of(
        st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(0, 3)),
        st.sampled_from(["broken", "text", "hidden"]),
    ),
    max_size=12,
)


@given(files=FILES, decode=st.booleans())
def test_report_counts_every_file_once(files: dict[tuple[str, int], object], decode: bool) -> None:
    contents: dict[str, bytes] = {}
    pictures: dict[str, tuple[int, int]] = {}
    reasons: dict[str, str] = {}
    for (folder, number), kind in files.items():
        if isinstance(kind, tuple):
            contents[f"{folder}{number}.png"] = _png(kind[:2], kind[2])
            pictures[f"{folder}{number}.png"] = kind[:2]
        elif kind == "broken":
            contents[f"{folder}{number}.jpg"] = b"not a picture"
        else:
            name = f"{folder}{number}.txt" if kind == "text" else f"{folder}.{number}.png"
            contents[name] = b"text"
            reasons[name] = "no image" if kind == "text" else "hidden"
    with tempfile.TemporaryDirectory() as root:
        _write(Path(root), contents)
        report = _report(Path(root), decode=decode)
    assert report.images == len(contents) - len(reasons) == len(pictures) + len(report.unreadable)
    assert report.left_out == reasons
    assert all(name.endswith(".jpg") for name in report.unreadable)
    assert report.widths == Counter(width for width, _ in pictures.values())
    assert report.heights == Counter(height for _, height in pictures.values())
    assert report.formats.total() == report.modes.total() == report.bits.total() == len(pictures)
    folders = Counter(str(Path(name).parent) for name in contents if name not in reasons)
    assert {folder: count for folder, (count, _) in report.folders.items()} == folders
    same: dict[bytes, list[str]] = {}
    for name in sorted(contents.keys() - reasons.keys()):
        same.setdefault(contents[name], []).append(name)
    assert sorted(report.duplicates) == sorted(names for names in same.values() if len(names) > 1)


@given(values=st.lists(st.integers(0, 50), min_size=1))
def test_quantiles_are_the_values_at_their_ranks(values: list[int]) -> None:
    quantiles = Quantiles.of(Counter(values))
    assert quantiles is not None
    ordered = sorted(values)
    assert quantiles.values == tuple(ordered[round(share * (len(values) - 1))] for share in SHARES.values())


def test_quantiles_of_nothing_are_none() -> None:
    assert Quantiles.of(Counter()) is None


def test_report_with_decoding_agrees_with_the_decoder_on_every_file(tmp_path: Path) -> None:
    _write(tmp_path, good() | bad())
    files = ImageFiles(str(tmp_path))
    refused = {name for name in files.names if files.open(name) is None}
    assert examine(files, decode=True).unreadable.keys() == refused
    assert _report(tmp_path).unreadable.keys() == refused - {"torn.png"}


@pytest.mark.parametrize("name", [*good(), "float.tif"])
def test_header_and_turn_give_the_size_of_the_decoded_image(name: str) -> None:
    content = (good() | bad())[name]
    stream = io.BytesIO()
    with Image.open(io.BytesIO(content)) as image:
        image.crop((0, 0, 32, 20)).save(stream, image.format, exif=image.info.get("exif", b""))
    cropped = stream.getvalue()
    header = read_header(cropped)
    size = (header.height, header.width) if is_turned(cropped) else (header.width, header.height)
    assert decode_image(cropped, value_range=(0, 1)).size == size


@pytest.mark.parametrize("orientation", [1, 6, 8, 3])
@pytest.mark.parametrize("kind", ["TIFF", "JPEG", "PNG", "WEBP"])
def test_turned_images_are_known_from_their_headers(kind: str, orientation: int) -> None:
    exif, stream = Image.Exif(), io.BytesIO()
    exif[0x112] = orientation
    Image.new("RGB", (30, 20)).save(stream, kind, exif=exif)
    content = stream.getvalue()
    header = read_header(content)
    size = (header.height, header.width) if is_turned(content) else (header.width, header.height)
    assert size == decode_image(content).size == ((20, 30) if orientation in (6, 8) else (30, 20))


@pytest.mark.parametrize(
    ("name", "limits", "stated"),
    [
        ("grey_16.png", (0, 65535), (0, 65535)),
        ("grey_16.pgm", (0, 65535), (0, 65535)),
        ("grey_12_stated.tif", (0, 4095), (0, 4095)),
        ("grey_32.tif", (0, 2**31 - 1), (0, 2**31 - 1)),
        ("float.tif", (0, 1), (None, None)),
    ],
)
def test_grey_values_are_in_the_numbers_of_the_file(
    name: str, limits: tuple[float, float], stated: tuple[float | None, float | None]
) -> None:
    values = grey_values((good() | bad())[name])
    assert values is not None
    assert ((values.least, values.most), (values.black, values.white)) == (limits, stated)


def test_grey_values_of_a_pgm_are_scaled_to_its_maximum() -> None:
    samples = np.array([[0, 100, 900, 1000]], dtype=">u2")
    values = grey_values(b"P5 4 1 1023\n" + samples.tobytes())
    assert values is not None
    assert (values.least, values.white) == (0, 1023)
    assert abs(values.most - 1000) < 0.02


def test_grey_values_of_8_bit_and_coloured_files_are_none() -> None:
    assert grey_values(_png((2, 2))) is None
    assert grey_values(_png((2, 2), mode="RGB")) is None


def test_header_beyond_the_first_bytes_is_found(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (7, 5)).save(stream, "JPEG", icc_profile=bytes(200_000))
    (tmp_path / "profile.jpg").write_bytes(stream.getvalue())
    tiff = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    Image.fromarray(tiff).save(tmp_path / "directory_at_the_end.tif", compression="raw")
    report = _report(tmp_path)
    assert report.formats == {"JPEG": 1, "TIFF": 1}
    assert report.widths == {7: 1, 300: 1}


def test_progress_is_reported_for_each_file(tmp_path: Path) -> None:
    _write(tmp_path, {f"{number}.png": _png((2, 2), number) for number in range(40)})
    calls: list[None] = []
    examine(ImageFiles(str(tmp_path)), progress=lambda: calls.append(None))
    assert len(calls) == 40
