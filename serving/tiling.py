"""Cuts an image that is larger than a translator takes into overlapping tiles, and blends the translated tiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.interface import SizeLimits


@dataclass(frozen=True)
class Tiling:
    """The tiles of an image of `size` (height, width): all have the same height and width.

    `rows` and `columns` are the first pixels of the tiles on either axis, in rising order; every row of tiles has the
    same columns.
    """

    size: tuple[int, int]
    tile: tuple[int, int]
    rows: tuple[int, ...]
    columns: tuple[int, ...]

    @property
    def count(self) -> int:
        """The number of tiles."""
        return len(self.rows) * len(self.columns)


def tiling(size: tuple[int, int], limits: SizeLimits, overlap: int) -> Tiling:
    """Return the fewest tiles, none larger than `limits`, that cover an image and overlap by at least `overlap` pixels.

    Tiles are spread evenly. On an axis that fits in one tile, there is one tile of the image's length. `overlap` is at
    most half of the largest length of a tile.
    """
    height, width = size
    tile_height, tile_width = min(height, limits.largest[0]), min(width, limits.largest[1])
    rows, columns = _starts(height, tile_height, overlap), _starts(width, tile_width, overlap)
    return Tiling(size, (tile_height, tile_width), rows, columns)


def cut(image: NDArray[Any], tiles: Tiling) -> NDArray[Any]:
    """Return the tiles of `image` [h, w, c], row by row: [n, tile height, tile width, c]."""
    height, width = tiles.tile
    return np.stack([image[y : y + height, x : x + width] for y in tiles.rows for x in tiles.columns])


def blend(translated: NDArray[Any], tiles: Tiling, scale: int = 1) -> NDArray[Any]:
    """Join translated tiles [n, scale · tile height, scale · tile width, c] to one image.

    Where tiles overlap, the weight of each falls linearly to its own border: the transition has no step. Sums are kept
    for the height of one row of tiles at a time.
    """
    height, width = tiles.size[0] * scale, tiles.size[1] * scale
    row_weights = _weights(tiles.rows, tiles.tile[0], tiles.size[0], scale)
    column_weights = _weights(tiles.columns, tiles.tile[1], tiles.size[1], scale)
    image = np.empty((height, width, translated.shape[-1]), dtype=translated.dtype)
    sums = np.zeros((tiles.tile[0] * scale, width, translated.shape[-1]), dtype=np.float32)
    remaining = iter(translated)
    top = 0
    for y, weights in zip(tiles.rows, row_weights, strict=True):
        done = y * scale - top
        image[top : top + done] = _rounded(sums[:done], image.dtype)
        sums = np.concatenate([sums[done:], np.zeros_like(sums[:done])])
        top += done
        for x, own in zip(tiles.columns, column_weights, strict=True):
            tile = next(remaining)
            sums[:, x * scale : x * scale + tile.shape[1]] += weights[:, None, None] * own[:, None] * tile
    image[top:] = _rounded(sums, image.dtype)
    return image


def _rounded(sums: NDArray[np.float32], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return sums as values of `dtype`. Weights sum to 1 but for rounding, so that no value leaves its range."""
    return (sums if dtype.kind == "f" else np.rint(sums)).astype(dtype)


def _starts(length: int, tile: int, overlap: int) -> tuple[int, ...]:
    if length <= tile:
        return (0,)
    count = math.ceil((length - overlap) / (tile - overlap))
    return tuple(round(number * (length - tile) / (count - 1)) for number in range(count))


def _weights(starts: Sequence[int], tile: int, length: int, scale: int) -> list[NDArray[np.float32]]:
    """Return the weight of each tile at its pixels along one axis: float32 [scale · tile], summing to 1 at each pixel.

    A tile's own weight is the distance from its nearest border to another tile.
    """
    positions = np.arange(tile * scale) + 0.5
    total = np.zeros(length * scale)
    own = []
    for start in starts:
        before = positions if start > 0 else np.full(tile * scale, np.inf)
        after = tile * scale - positions if start + tile < length else np.full(tile * scale, np.inf)
        weight = np.minimum(np.minimum(before, after), tile * scale)
        own.append(weight)
        total[start * scale : (start + tile) * scale] += weight
    return [
        (weight / total[start * scale : (start + tile) * scale]).astype(np.float32)
        for start, weight in zip(starts, own, strict=True)
    ]
