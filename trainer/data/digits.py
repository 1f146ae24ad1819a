"""Handwritten digits that travel with zorse: 5,000 images of MNIST (LeCun et al. 1998)."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from pydantic import Field

from trainer.config import Section
from trainer.data.base import Image
from trainer.data.sampler import position_to_index
from trainer.registry import register
from zorse_common.random import counter_rng

CLASSES = 10
_FILE = Path(__file__).parent / "bundled" / "mnist_5k.npz"
_SPLIT_SEED = 0  # one split for every run, or the held-out half would leak into training
_PADDED = 32


@register("data", "digits")
class Digits:
    """White digits on black, never mirrored: half of each class for training, half held out."""

    class Config(Section):
        """At `size` 32 the 28 x 28 digits stand in a black frame; other sizes are resized from that."""

        size: int = Field(default=32, ge=8, le=256)
        channels: Literal[1] = 1

    domains = ("image",)

    def __init__(self, config: Config, *, seed: int) -> None:
        self.size, self.channels = config.size, config.channels
        self._seed = seed
        self.digest = hashlib.sha256(_FILE.read_bytes()).hexdigest()

    @property
    def found(self) -> list[str]:
        """What the bundled file holds."""
        return [f"training: {self.count('image')} bundled digits, and as many held out"]

    @property
    def skipped(self) -> list[str]:
        """The bundled file is read whole."""
        return []

    def count(self, domain: str) -> int:
        """How many digits training has."""
        return len(_half("train")[0])

    def image(self, domain: str, number: int) -> Image:
        """The digit at position `number` of the run: uint8 [size, size, 1]."""
        images, _ = _half("train")
        return self._resized(images[position_to_index(self._seed, "order/image", number, len(images))])

    def held_out(self, domain: str, count: int) -> list[Image]:
        """The first `count` held-out digits, of all classes in turn."""
        return [self._resized(image) for image in _half("held_out")[0][:count]]

    def labelled(self, half: Literal["train", "held_out"]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """One half whole: images uint8 [n, size, size, 1] and labels uint8 [n]."""
        images, labels = _half(half)
        return np.stack([self._resized(image) for image in images]), labels

    def _resized(self, image: Image) -> Image:
        if self.size == _PADDED:
            return image
        resized = Pillow.fromarray(image[..., 0]).resize((self.size, self.size), Pillow.Resampling.BICUBIC)
        return np.asarray(resized, dtype=np.uint8)[..., None]


@cache
def _half(name: Literal["train", "held_out"]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images uint8 [2500, 32, 32, 1] and labels uint8 [2500]; every ten in a row hold each class once."""
    with np.load(_FILE) as file:
        images, labels = file["images"], file["labels"]
    margin = (_PADDED - images.shape[1]) // 2
    images = np.pad(images, ((0, 0), (margin, margin), (margin, margin)))[..., None]
    images.flags.writeable = False
    # The file is ordered by class: each class is shuffled and halved by itself.
    halves = []
    for digit in range(CLASSES):
        shuffled = counter_rng(_SPLIT_SEED, "split/digits", digit).permutation(np.flatnonzero(labels == digit))
        middle = len(shuffled) // 2
        halves.append(shuffled[:middle] if name == "train" else shuffled[middle:])
    chosen = np.stack(halves, axis=1).flatten()
    return images[chosen], labels[chosen]
