"""The contact sheet has a fixed grid, and shows each image or why it cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zorse_common.contact_sheet import COLUMNS, TILE, Tile, contact_sheet, tile_of
from zorse_common.files import ImageFiles

RED = np.array([255, 0, 0])


def _red(sheet: np.ndarray) -> tuple[slice, slice]:
    """Return the rows and columns of the bounding box of pure red."""
    rows, columns = np.nonzero((sheet == RED).all(-1))
    return slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)


@pytest.mark.parametrize(
    ("size", "shown"), [((400, 100), (192, 48)), ((32, 32), (192, 192)), ((100, 40), (100, 40)), ((1, 500), (1, 192))]
)
def test_sheet_fits_each_image_into_its_tile(size: tuple[int, int], shown: tuple[int, int]) -> None:
    sheet = contact_sheet("title", [Tile(Image.new("RGB", size, "red"), "a.png")])
    rows, columns = _red(sheet)
    assert (columns.stop - columns.start, rows.stop - rows.start) == shown
    assert (sheet[rows, columns] == RED).all()


def test_sheet_has_the_same_grid_for_any_images() -> None:
    tile = Tile(Image.new("L", (3, 3)), "name", "detail")
    sizes = [contact_sheet("title", [tile] * count).shape for count in (0, 1, COLUMNS, COLUMNS + 1, 2 * COLUMNS)]
    assert sizes[0] == sizes[1] == sizes[2]
    assert sizes[3] == sizes[4]
    assert sizes[3][1] == sizes[0][1]
    assert sizes[3][0] - sizes[0][0] > TILE


def test_sheet_is_a_pure_function_of_its_tiles() -> None:
    tiles = [Tile(Image.new("L", (3, 3), 9), "größe " * 20, "7×5"), Tile(None, "\udcff.png", reason="word " * 99)]
    np.testing.assert_array_equal(contact_sheet("a" * 500, tiles), contact_sheet("a" * 500, tiles))


def test_text_stays_in_its_tile() -> None:
    plain = contact_sheet("", [Tile(Image.new("L", (TILE, TILE)), "")])
    drawn = contact_sheet("", [Tile(Image.new("L", (TILE, TILE)), "W" * 300, "M" * 300)])
    changed = np.nonzero((plain != drawn).any((0, 2)))[0]
    left = np.nonzero((plain == 0).all(2).any(0))[0][0]
    assert left <= changed.min()
    assert TILE - 20 < changed.max() - left <= TILE


def test_tile_of_a_file_has_its_facts_or_the_reason(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "turned.jpg", exif=exif)
    (tmp_path / "broken.png").write_bytes(b"")
    files = ImageFiles(str(tmp_path))
    turned, broken = tile_of(files, "turned.jpg"), tile_of(files, "broken.png")
    assert (turned.caption, turned.detail) == ("turned.jpg", "20×40 JPEG, RGB, 8 bits")
    assert turned.image is not None
    assert turned.image.size == (4 * 20, 4 * 40)
    assert (broken.image, broken.reason) == (None, "the image is empty: give the bytes of an image file")


def test_tile_of_a_large_file_holds_a_small_image(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 900), dtype=np.uint8)).save(tmp_path / "large.png")
    files = ImageFiles(str(tmp_path))
    tile = tile_of(files, "large.png")
    assert tile.image is not None
    assert tile.image.size == (TILE, TILE // 3)
    drawn = contact_sheet("", [Tile(files.open("large.png"), tile.caption, tile.detail)])
    np.testing.assert_array_equal(contact_sheet("", [tile]), drawn)
