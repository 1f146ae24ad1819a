"""Drawn silhouettes, plain (A) and striped (B): unpaired translation whose true answer is known."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from trainer.data.base import DataConfig, DataSpec, Example, Image, ImageSpec
from trainer.data.sampler import sample_index
from trainer.registry import register
from zorse_common.random import counter_rng

_SIZE = 32
_SCENES_SEED = 0  # fixed: the scenes are the same in every run, whose seed only orders them
_COVERAGE = (0.35, 0.5)
"""The least and largest share of the pixels that the animals cover."""
_STRIPE = np.array([26, 22, 30], dtype=np.uint8)
_Y, _X = np.mgrid[:_SIZE, :_SIZE].astype(np.float32) + np.float32(0.5)
# Diagonal stripes two pixels wide at fixed image coordinates. The colour below a stripe is visible beside it.
_BANDS = (np.add.outer(np.arange(_SIZE), np.arange(_SIZE)) % 4) < 2

_DOMAINS = ("A", "B")


@register("data", "stripes")
class Stripes:
    """Four-legged silhouettes on varied backgrounds, 32 x 32: A is plain, B is striped.

    The true translation from A to B paints the body's pixels dark inside fixed bands. The one from B to A paints them
    in the body's single colour. So each image has exactly one true translation. No scene is in both domains.
    """

    class Config(DataConfig):
        """`images` is the number of different training scenes in each domain."""

        size: Literal[32] = 32
        channels: Literal[3] = 3
        images: int = Field(default=2000, gt=0, le=1_000_000)

        def spec(self) -> DataSpec:
            """Return two unpaired domains, "A" and "B"."""
            return DataSpec({domain: ImageSpec(self.size, self.channels) for domain in _DOMAINS})

    def __init__(self, config: Config, *, seed: int) -> None:
        self.spec = config.spec()
        self._images, self._seed = config.images, seed
        self.digest = hashlib.sha256(f"stripes {config.images}".encode()).hexdigest()

    @property
    def facts(self) -> list[str]:
        """One line: how many scenes are drawn."""
        return [f"training: {self._images} drawn scenes of each domain"]

    @property
    def skipped(self) -> list[str]:
        """Always empty: no file is read."""
        return []

    def count(self, domain: str) -> int:
        """Return the number of training scenes, the same in both domains."""
        return self._images

    def example(self, number: int) -> Example:
        """Return training example `number`: a plain scene A and another, striped scene B, uint8 [32, 32, 3]."""
        images = {}
        for domain in _DOMAINS:
            index = sample_index(self._seed, f"order/{domain}", number, self._images)
            images[domain] = _scene(domain, index)[domain == "B"]
        return Example(images)

    def held_out(self, domain: str, count: int) -> list[Image]:
        """Return the first `count` held-out images of `domain`; image n of A and image n of B show one scene."""
        return self.pairs(count)[domain == "B"]

    def pairs(self, count: int) -> tuple[list[Image], list[Image]]:
        """Return `count` held-out scenes, plain and striped. No training image shows one of them."""
        scenes = [_scene("pairs", index) for index in range(count)]
        return [plain for plain, _ in scenes], [striped for _, striped in scenes]


@lru_cache(maxsize=16384)
def _scene(kind: str, index: int) -> tuple[Image, Image]:
    """Return scene `index` of the set `kind` ("A", "B" or "pairs"), plain and striped: uint8 [32, 32, 3] each."""
    draw = counter_rng(_SCENES_SEED, f"scene/{kind}", index)
    body = _body(draw)
    plain = _background(draw)
    plain[body] = _coat(draw)
    striped = plain.copy()
    striped[body & _BANDS] = _STRIPE
    plain.flags.writeable = striped.flags.writeable = False
    return plain, striped


def _body(draw: np.random.Generator) -> NDArray[np.bool_]:
    """Draw one or two animals until their share of the pixels is in `_COVERAGE`. Return these pixels: bool [32, 32].

    Their places are random, also beyond the border, so that a pixel's position says little about its content.
    """
    while True:
        animals = [_animal(draw) for _ in range(draw.integers(1, 3))]
        mask = _distance(np.concatenate(animals)) < 0
        if _COVERAGE[0] <= mask.mean() <= _COVERAGE[1]:
            return mask


def _animal(draw: np.random.Generator) -> NDArray[np.float32]:
    """Draw an animal as thick lines: float32 [lines, 5] of (x0, y0, x1, y1, radius) in pixels, y downwards."""
    half, girth, leg = draw.uniform(6, 8), draw.uniform(4.6, 6), draw.uniform(6, 9)
    thickness, tilt, lean = draw.uniform(1.3, 1.9), draw.uniform(-1, 1), draw.uniform(-2, 2)
    limbs = [(-half, tilt, half, -tilt, girth)]  # the trunk
    for hip, swing in ((-half - 1, -1), (-half + 2, 1), (half - 2, -1), (half + 1, 1)):
        step = swing * draw.uniform(0, 2) + lean / 2
        limbs += [(hip, girth / 2, hip + step, girth + leg, thickness)]  # a leg
    rise, reach = draw.uniform(-2, 8), draw.uniform(3.5, 5)
    neck = (half + reach, -rise - girth / 2)
    limbs += [(half, -girth / 3, *neck, draw.uniform(2, 2.8))]  # the neck, then head, ear and tail
    limbs += [(*neck, neck[0] + draw.uniform(2.5, 4), neck[1] + draw.uniform(1, 3), draw.uniform(1.7, 2.3))]
    limbs += [(neck[0] - 0.5, neck[1], neck[0] - 1, neck[1] - draw.uniform(3, 4), 0.8)]
    drop = draw.uniform(2, 8)
    limbs += [(-half - girth / 2, -girth / 2, -half - girth - 1, drop - girth / 2, 0.9)]
    lines = np.array(limbs, dtype=np.float32)
    lines[:, [0, 2]] *= draw.choice([-1, 1])
    lines *= draw.uniform(0.9, 1.4)
    lines[:, [0, 2]] += draw.uniform(0, _SIZE)
    lines[:, [1, 3]] += draw.uniform(0, _SIZE)
    return lines


def _distance(lines: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the distance of each pixel's centre from the nearest thick line, in pixels, negative inside: [32, 32]."""
    x0, y0, x1, y1, radius = (column[:, None, None] for column in lines.T)
    along_x, along_y = x1 - x0, y1 - y0
    share = ((_X - x0) * along_x + (_Y - y0) * along_y) / (along_x**2 + along_y**2)
    share = share.clip(0, 1)
    outside: NDArray[np.float32] = np.hypot(_X - x0 - share * along_x, _Y - y0 - share * along_y) - radius
    nearest: NDArray[np.float32] = outside.min(0)
    return nearest


def _coat(draw: np.random.Generator) -> NDArray[np.uint8]:
    """Draw a colour close to grey: uint8 [3].

    Backgrounds are saturated and of any hue, so that no linear function of the colour separates body and background.
    """
    return (draw.uniform(85, 235) + draw.uniform(-14, 14, size=3)).astype(np.uint8)


def _background(draw: np.random.Generator) -> Image:
    """Draw a sky above a ground, each of one saturated colour: uint8 [32, 32, 3]."""
    image = np.empty((_SIZE, _SIZE, 3), dtype=np.uint8)
    image[:] = _saturated(draw)
    horizon = _SIZE * draw.uniform(0.35, 0.85) + draw.uniform(-0.15, 0.15) * (_X - _SIZE / 2)
    image[horizon < _Y] = _saturated(draw)
    return image


def _saturated(draw: np.random.Generator) -> NDArray[np.uint8]:
    """Draw a colour of any hue, dark or light, whose largest and smallest channel differ by 90 or more: uint8 [3]."""
    weakest = draw.uniform(0, 130)
    strongest = weakest + draw.uniform(90, 125)
    return draw.permutation([weakest, draw.uniform(weakest, strongest), strongest]).astype(np.uint8)
