"""The verb `translate`: images of one domain become images of the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, PrivateAttr

from export.feeds import Feeds
from export.interface import IMAGE, Interface
from serving.answers import Fact, Pictures
from serving.errors import BadRequestError, TooLargeError
from serving.feeds import source_feeds, source_size
from serving.tiling import Tiling, blend, cut, tiling
from serving.verb import VERBS, ImagesRequest, Outputs, SourceWork, Verb

DEFAULT_OVERLAP = 32
"""How many pixels neighbouring tiles share at least, if the request does not say."""

_MOST_PIXELS = 2**26
"""The most pixels of an image that is blended of tiles."""


class TranslateRequest(ImagesRequest):
    """Translate image files: the raw body, the files of a form, or base64 in JSON (`image` or `images`).

    An answer has the image's size, or that times the model's scale; several are a ZIP, or with `layout` a grid. With
    `tile` an image that is larger than the model takes is translated in tiles that overlap by at least `overlap`
    pixels, and blended. With `size`, a number or "<height>x<width>", images are resized first, as for training.
    `black` and `white` are the values of these in files of more than 8 bits.
    """

    tile: bool = False
    overlap: int | None = Field(default=None, ge=0)
    format: Literal["png", "jpeg", "webp", "npy"] = "png"

    _tilings: list[Tiling | None] | None = PrivateAttr(default=None)

    @property
    def is_tiled(self) -> bool:
        """Whether large images are translated in tiles; `overlap` alone says so too."""
        return self.tile or self.overlap is not None

    def source_work(self, interface: Interface, sizes: Sequence[tuple[int, int]]) -> SourceWork:
        """Return what the model has to do for image files of `sizes`; of a tiled image each tile counts.

        Raises:
            ImageSizeError: an image is larger than the model takes, and is not tiled.
            BadRequestError, TooLargeError: as `tiling_of`.
        """
        if not self.is_tiled:
            return super().source_work(interface, sizes)
        both_ways = ([self.tiling_of(interface, size) for size in (size, size[::-1])] for size in sizes)
        all_tiles = [max(ways, key=lambda tiles: tiles.count) for ways in both_ways]
        pixels = sum(tiles.count * tiles.tile[0] * tiles.tile[1] for tiles in all_tiles)
        return SourceWork(sum(tiles.count for tiles in all_tiles), pixels)

    def tilings(self, interface: Interface) -> list[Tiling | None]:
        """Return the tiles of each image, or None for one that is translated whole."""
        if self._tilings is None:
            sizes = [(image.shape[0], image.shape[1]) for image in self.images]
            all_tiles = [self.tiling_of(interface, size) if self.is_tiled else None for size in sizes]
            self._tilings = [tiles if tiles and tiles.count > 1 else None for tiles in all_tiles]
        return self._tilings

    def tiling_of(self, interface: Interface, size: tuple[int, int]) -> Tiling:
        """Return the tiles of an image of `size` (height, width).

        Raises:
            BadRequestError: the overlap is larger than half a tile.
            TooLargeError: the translated image would have more pixels than `_MOST_PIXELS`.
        """
        limits, overlap = source_size(interface), _overlap(self)
        most = min(limits.largest) // 2
        if overlap > most:
            raise BadRequestError(f"overlap is {overlap} and may be at most half a tile, {most} pixels")
        pixels = size[0] * size[1] * interface.scale**2
        if pixels > _MOST_PIXELS:
            raise TooLargeError(
                f"the translated image would have {pixels} pixels and may have {_MOST_PIXELS}: scale it down"
            )
        return tiling(size, limits, overlap)


def plan(interface: Interface, request: TranslateRequest) -> list[Feeds]:
    """Return each image as a batch of one, or the tiles of an image as a batch."""
    all_tiles = request.tilings(interface)
    return [
        source_feeds(interface, image[None] if tiles is None else cut(image, tiles))
        for image, tiles in zip(request.images, all_tiles, strict=True)
    ]


def render(interface: Interface, outputs: Outputs, request: TranslateRequest) -> Pictures:
    """Return the translated images; tiles are blended."""
    all_tiles = request.tilings(interface)
    images = [
        output[IMAGE][0] if tiles is None else blend(output[IMAGE], tiles, interface.scale)
        for output, tiles in zip(outputs, all_tiles, strict=True)
    ]
    facts: dict[str, Fact] = {}
    if any(all_tiles):
        facts = {"tiles": [tiles.count if tiles else 1 for tiles in all_tiles], "overlap": _overlap(request)}
    return Pictures(images, [f"{number:06d}" for number in range(len(images))], facts, layout="zip")


def _overlap(request: TranslateRequest) -> int:
    return DEFAULT_OVERLAP if request.overlap is None else request.overlap


VERBS.register("translate", Verb(TranslateRequest, plan, render))
