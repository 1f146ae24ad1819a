"""Tiles: they cover the image, overlap enough, and blend without a seam."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from export.interface import SizeLimits
from serving.tiling import blend, cut, tiling

LIMITS = SizeLimits.square(4, 16, 64)
RNG = np.random.default_rng(0)
SIZES = [(64, 64), (65, 64), (64, 200), (257, 129), (1, 300), (96, 96), (1000, 70)]


@pytest.mark.parametrize("overlap", [0, 1, 16, 32])
@pytest.mark.parametrize("size", SIZES)
def test_tiles_cover_the_image_with_the_least_number_and_overlap(size: tuple[int, int], overlap: int) -> None:
    tiles = tiling(size, LIMITS, overlap)
    for length, tile, starts in zip(size, tiles.tile, (tiles.rows, tiles.columns), strict=True):
        assert tile == min(length, 64)
        assert starts[0] == 0
        assert starts[-1] + tile == length
        assert all(tile - (b - a) >= overlap for a, b in itertools.pairwise(starts))
        assert len(starts) == 1 or (len(starts) - 1) * tile - (len(starts) - 2) * overlap < length


@pytest.mark.parametrize("scale", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_blend_of_cut_is_the_image(size: tuple[int, int], scale: int) -> None:
    image = RNG.integers(0, 256, (*size, 3), dtype=np.uint8)
    tiles = tiling(size, LIMITS, 16)
    parts = cut(image, tiles)
    assert parts.shape == (tiles.count, *tiles.tile, 3)
    large = parts.repeat(scale, axis=1).repeat(scale, axis=2)
    np.testing.assert_array_equal(blend(large, tiles, scale), image.repeat(scale, axis=0).repeat(scale, axis=1))


def test_blend_goes_linearly_from_one_tile_to_the_next() -> None:
    tiles = tiling((16, 96), LIMITS, 32)
    assert tiles.columns == (0, 32)
    pair = np.stack([np.zeros((16, 64, 1), np.float32), np.ones((16, 64, 1), np.float32)])
    expected = np.concatenate([np.zeros(32), (np.arange(32) + 0.5) / 32, np.ones(32)])
    np.testing.assert_allclose(blend(pair, tiles)[7, :, 0], expected, atol=1e-6)
    assert blend((255 * pair).astype(np.uint8), tiles).max() == 255
