"""Draws a contact sheet: small images in a fixed grid with two lines of text below each."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from zorse_common.errors import printable
from zorse_common.files import UNREADABLE, ImageFiles
from zorse_common.image_details import is_turned
from zorse_common.images import ImageError, Pixels, read_header

COLUMNS = 6
TILE = 192
"""The pixels of a tile's side. Larger images are reduced to it, smaller ones enlarged by a whole factor."""
_GAP = 14
_LINE = 18
"""The height of a line of text in pixels."""
_FONT_SIZE = 13
_TITLE = 2 * _LINE
_INK, _PALE_INK, _PAPER, _FRAME = (25, 25, 25), (105, 105, 105), (255, 255, 255), (225, 225, 225)
_REFUSED, _REFUSED_INK = (252, 232, 230), (150, 30, 25)
"""The colours of the tile of an image that cannot be read, and of its text."""


@dataclass(frozen=True)
class Tile:
    """One image and the two lines below it. Image None stands for one that cannot be read; `reason` says why.

    Letters are drawn without accents, and characters that Pillow's own font lacks as "?".
    """

    image: Pillow.Image | None
    caption: str
    detail: str = ""
    reason: str = ""


def tile_of(files: ImageFiles, name: str) -> Tile:
    """Return the tile of an image file: its name, and its size, format, mode and depth.

    The tile holds the image as it is drawn, and not in its full size.

    Raises:
        FetchError: an object store failed.
    """
    image = files.open(name, least_side=TILE)
    try:
        content = files.read(name)
        header, turned = read_header(content), is_turned(content)
    except (ImageError, *UNREADABLE):
        return Tile(None, printable(name), reason=files.unreadable.get(name, ""))
    width, height = (header.height, header.width) if turned else (header.width, header.height)
    detail = f"{width}×{height} {header.format}, {header.mode}, {header.bits} bits"
    return Tile(image and fitted(image), printable(name), detail, files.unreadable.get(name, ""))


def contact_sheet(title: str, tiles: Sequence[Tile]) -> Pixels:
    """Return the sheet, uint8 [height, width, 3]. Its width depends on nothing, its height on the number of tiles."""
    rows = max(1, -(-len(tiles) // COLUMNS))
    pitch_x, pitch_y = TILE + _GAP, TILE + 2 * _LINE + _GAP
    sheet = Pillow.new("RGB", (_GAP + COLUMNS * pitch_x, _GAP + _TITLE + rows * pitch_y), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT_SIZE)
    draw.text((_GAP, _GAP), _shortened(title, font, sheet.width - 2 * _GAP), _INK, font)
    for index, tile in enumerate(tiles):
        left = _GAP + index % COLUMNS * pitch_x
        top = _GAP + _TITLE + index // COLUMNS * pitch_y
        _draw_tile(sheet, draw, (left, top), tile)
        draw.text((left, top + TILE + 3), _shortened(tile.caption, font, TILE), _INK, font)
        draw.text((left, top + TILE + 3 + _LINE), _shortened(tile.detail, font, TILE), _PALE_INK, font)
    return np.array(sheet, dtype=np.uint8)


def _draw_tile(sheet: Pillow.Image, draw: ImageDraw.ImageDraw, corner: tuple[int, int], tile: Tile) -> None:
    left, top = corner
    if tile.image is None:
        font = ImageFont.load_default(_FONT_SIZE)
        draw.rectangle((left, top, left + TILE - 1, top + TILE - 1), _REFUSED)
        lines = _wrapped(tile.reason, font, TILE - 16)[: (TILE - 16) // _LINE]
        draw.multiline_text((left + 8, top + 8), "\n".join(lines), _REFUSED_INK, font, spacing=_LINE - _FONT_SIZE)
        return
    small = fitted(tile.image)
    draw.rectangle((left, top, left + TILE - 1, top + TILE - 1), _FRAME)
    sheet.paste(small.convert("RGB"), (left + (TILE - small.width) // 2, top + (TILE - small.height) // 2))


def fitted(image: Pillow.Image) -> Pillow.Image:
    """Return the image with its longer side at most `TILE`, and enlarged by a whole factor if it is smaller."""
    longer = max(image.size)
    if longer > TILE:
        width, height = (max(1, round(side * TILE / longer)) for side in image.size)
        return image.resize((width, height), Pillow.Resampling.BICUBIC)
    factor = TILE // longer
    return image.resize((image.width * factor, image.height * factor), Pillow.Resampling.NEAREST)


Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def _shortened(text: str, font: Font, width: int) -> str:
    """Return the text as it can be drawn, with "…" for its middle if it is wider than `width` pixels."""
    text = _drawable(text)
    kept = len(text)
    shortened = text
    while font.getlength(shortened) > width and kept > 0:
        kept -= 1
        head = kept // 3  # the end of a path says more than its start
        shortened = f"{text[:head]}…{text[len(text) - (kept - head) :]}"
    return shortened


def _wrapped(text: str, font: Font, width: int) -> list[str]:
    """Return the words of the text in lines of at most `width` pixels; longer words are shortened."""
    lines = [""]
    for word in _drawable(text).split():
        joined = f"{lines[-1]} {word}".strip()
        if font.getlength(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(_shortened(word, font, width))
    return [line for line in lines if line]


def _drawable(text: str) -> str:
    """Return the text in ASCII, which is what Pillow's own font has."""
    letters = unicodedata.normalize("NFKD", text.replace("×", "x"))
    return "".join(letter if letter.isascii() else "?" for letter in letters if not unicodedata.combining(letter))
