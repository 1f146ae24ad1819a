"""Made silhouettes, plain (A) and striped (B): unpaired translation with a known true answer."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from trainer.config import Section
from trainer.data.base import Image
from trainer.data.sampler import position_to_index
from trainer.registry import register
from zorse_common.random import counter_rng

_SIZE = 32
_SCENES_SEED = 0  # the images are one data set: a run's seed only orders them
_COVERAGE = (0.35, 0.5)
_STRIPE = np.array([26, 22, 30], dtype=np.uint8)
_Y, _X = np.mgrid[:_SIZE, :_SIZE].astype(np.float32) + np.float32(0.5)
# Diagonal stripes two pixels wide, at fixed image coordinates: what is under a stripe shows beside it.
_BANDS = (np.add.outer(np.arange(_SIZE), np.arange(_SIZE)) % 4) < 2

_ORDERS = {"A": "order/A", "B": "order/B"}


@register("data", "stripes")
class Stripes:
    """Four-legged silhouettes on varied backgrounds, 32 x 32: A is plain, B is striped.

    The rule from A to B is to paint the body's pixels dark inside fixed bands, and from B to A to give them
    back the body's single colour: so each image has exactly one true answer. No scene of A is in B.
    """

    class Config(Section):
        """`images` is the number of different training scenes in each domain."""

        size: Literal[32] = 32
        channels: Literal[3] = 3
        images: int = Field(default=2000, gt=0, le=1_000_000)

    domains = ("A", "B")

    def __init__(self, config: Config, *, seed: int) -> None:
        self.size, self.channels = config.size, config.channels
        self._images, self._seed = config.images, seed
        self.digest = hashlib.sha256(f"stripes {config.images}".encode()).hexdigest()

    @property
    def found(self) -> list[str]:
        """What is made."""
        return [f"training: {self._images} made scenes of each domain"]

    @property
    def skipped(self) -> list[str]:
        """Nothing is read, so nothing is skipped."""
        return []

    def count(self, domain: str) -> int:
        """How many training scenes there are in either domain."""
        return self._images

    def image(self, domain: str, number: int) -> Image:
        """The training image of `domain` at position `number` of the run: uint8 [32, 32, 3]."""
        index = position_to_index(self._seed, _ORDERS[domain], number, self._images)
        return _scene(domain, index)[domain == "B"]

    def held_out(self, domain: str, count: int) -> list[Image]:
        """The first `count` held-out images of `domain`; those of A and B at one index are a pair."""
        return self.pairs(count)[domain == "B"]

    def pairs(self, count: int) -> tuple[list[Image], list[Image]]:
        """`count` held-out scenes, plain and striped, for evaluation alone."""
        scenes = [_scene("pairs", index) for index in range(count)]
        return [plain for plain, _ in scenes], [striped for _, striped in scenes]


@lru_cache(maxsize=16384)
def _scene(kind: str, index: int) -> tuple[Image, Image]:
    """Scene `index` of `kind`, plain and striped."""
    draw = counter_rng(_SCENES_SEED, f"scene/{kind}", index)
    body = _body(draw)
    plain = _background(draw)
    plain[body] = _coat(draw)
    striped = plain.copy()
    striped[body & _BANDS] = _STRIPE
    plain.flags.writeable = striped.flags.writeable = False
    return plain, striped


def _body(draw: np.random.Generator) -> NDArray[np.bool_]:
    """The pixels of one or two animals, bool [32, 32]: drawn until they cover what they should.

    They stand anywhere, also cut off by the border, so that a pixel's position says little about what it shows.
    """
    while True:
        animals = [_animal(draw) for _ in range(draw.integers(1, 3))]
        mask = _distance(np.concatenate(animals)) < 0
        if _COVERAGE[0] <= mask.mean() <= _COVERAGE[1]:
            return mask


def _animal(draw: np.random.Generator) -> NDArray[np.float32]:
    """Limbs as thick lines, float32 [limbs, 5] of (x0, y0, x1, y1, radius) in pixels, y downwards."""
    half, girth, leg = draw.uniform(6, 8), draw.uniform(4.6, 6), draw.uniform(6, 9)
    thickness, tilt, lean = draw.uniform(1.3, 1.9), draw.uniform(-1, 1), draw.uniform(-2, 2)
    limbs = [(-half, tilt, half, -tilt, girth)]
    for hip, swing in ((-half - 1, -1), (-half + 2, 1), (half - 2, -1), (half + 1, 1)):
        step = swing * draw.uniform(0, 2) + lean / 2
        limbs += [(hip, girth / 2, hip + step, girth + leg, thickness)]
    rise, reach = draw.uniform(-2, 8), draw.uniform(3.5, 5)
    neck = (half + reach, -rise - girth / 2)
    limbs += [(half, -girth / 3, *neck, draw.uniform(2, 2.8))]
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
    """How far each pixel's centre is outside the nearest thick line, in pixels: float32 [32, 32]."""
    x0, y0, x1, y1, radius = (column[:, None, None] for column in lines.T)
    along_x, along_y = x1 - x0, y1 - y0
    share = ((_X - x0) * along_x + (_Y - y0) * along_y) / (along_x**2 + along_y**2)
    share = share.clip(0, 1)
    outside: NDArray[np.float32] = np.hypot(_X - x0 - share * along_x, _Y - y0 - share * along_y) - radius
    nearest: NDArray[np.float32] = outside.min(0)
    return nearest


def _coat(draw: np.random.Generator) -> NDArray[np.uint8]:
    """A colour close to grey. Backgrounds are saturated in every hue, so that no linear rule tells them apart."""
    return (draw.uniform(85, 235) + draw.uniform(-14, 14, size=3)).astype(np.uint8)


def _background(draw: np.random.Generator) -> Image:
    """A sky above a ground, each of one saturated colour: uint8 [32, 32, 3]."""
    image = np.empty((_SIZE, _SIZE, 3), dtype=np.uint8)
    image[:] = _saturated(draw)
    horizon = _SIZE * draw.uniform(0.35, 0.85) + draw.uniform(-0.15, 0.15) * (_X - _SIZE / 2)
    image[horizon < _Y] = _saturated(draw)
    return image


def _saturated(draw: np.random.Generator) -> NDArray[np.uint8]:
    """A colour of any hue, dark or light, whose strongest and weakest channel lie at least 90 apart."""
    weakest = draw.uniform(0, 130)
    strongest = weakest + draw.uniform(90, 125)
    return draw.permutation([weakest, draw.uniform(weakest, strongest), strongest]).astype(np.uint8)
