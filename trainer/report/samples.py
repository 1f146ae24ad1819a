"""The report's section of sample grids, with a slider over the run."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

from PIL import Image as Pillow

from trainer.history import RunHistory

SAMPLES = 40
"""The page shows at most this many grids."""
SAMPLE_BYTES = 12 * 2**20
"""Bytes of all grids together, at most, before base64 adds a third."""
SMALL = 400
"""A grid less wide than this, in pixels, is shown enlarged."""


def samples_section(run: RunHistory) -> str:
    """Return the section as HTML; it is empty if there is no grid that can be read."""
    shown = evenly(run.samples, SAMPLES)
    grids = {images: grid for images in shown if (grid := _attributes(run.sample(images), SAMPLE_BYTES // len(shown)))}
    if not grids:
        return ""
    *earlier, last = grids
    pictures = "\n".join(
        f'<img {"hidden " if images != last else ""}alt="Samples after {images:,} images" '
        f'data-caption="{images:,} images" {grid}>'
        for images, grid in grids.items()
    )
    slider = (
        '<label for="when">Drag, or use the arrow keys</label>'
        f'<input type="range" id="when" min="0" max="{len(earlier)}" value="{len(earlier)}">'
    )
    return (
        '<section id="samples"><h2>Samples</h2>'
        f'<div class="slider"><output id="caption" for="when">{last:,} images</output>{slider if earlier else ""}</div>'
        f"{pictures}</section>"
    )


def evenly(items: Sequence[int], most: int) -> list[int]:
    """Return at most `most` of `items`, evenly spaced, with the first and the last."""
    if len(items) <= most:
        return list(items)
    return [items[round(index * (len(items) - 1) / (most - 1))] for index in range(most)]


def _attributes(png: bytes, most: int) -> str:
    """Return the attributes of an `img` element that holds a grid; nothing if the file is damaged.

    A file of more than `most` bytes is embedded as a JPEG, halved in size until it has no more than that.
    """
    kind, content = "png", png
    try:
        grid = Pillow.open(io.BytesIO(png))
        width, height = grid.size
        if len(png) > most:
            kind, small = "jpeg", grid.convert("RGB")
            while len(content := _jpeg(small)) > most:
                small = small.reduce(2)
    except (OSError, Pillow.DecompressionBombError):
        return ""
    pixels = 'class="pixels" ' if width < SMALL else ""
    source = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return f'{pixels}width="{width}" height="{height}" src="{source}"'


def _jpeg(image: Pillow.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=88)
    return stream.getvalue()
