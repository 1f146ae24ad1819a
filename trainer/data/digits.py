"""Handwritten digits that are bundled with zorse: 5,000 images of MNIST (LeCun et al. 1998)."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from pydantic import Field

from trainer.data.base import DataConfig, DataSpec, Example, Image, ImageSpec
from trainer.data.sampler import sample_index
from trainer.registry import register
from zorse_common.random import counter_rng

CLASSES = 10
_FILE = Path(__file__).parent / "bundled" / "mnist_5k.npz"
_SPLIT_SEED = 0  # fixed, or a run with another seed would train on images that this one holds out
_PADDED_SIZE = 32


@register("data", "digits")
class Digits:
    """White digits on black with their labels, never mirrored: half of each class for training, half held out."""

    class Config(DataConfig):
        """The 28 x 28 digits are padded with black to 32 x 32, and then resized to `size` if that is another."""

        size: int = Field(default=32, ge=8, le=256)
        channels: Literal[1] = 1

        def spec(self) -> DataSpec:
            """Return one domain, "image", and ten classes."""
            return DataSpec({"image": ImageSpec(self.size, self.channels)}, classes=CLASSES)

    def __init__(self, config: Config, *, seed: int) -> None:
        self.spec = config.spec()
        self._size, self._seed = config.size, seed
        self.digest = hashlib.sha256(_FILE.read_bytes()).hexdigest()

    @property
    def facts(self) -> list[str]:
        """One line: how many digits the bundled file has."""
        return [f"training: {self.count('image')} bundled digits, and as many held out"]

    @property
    def skipped(self) -> list[str]:
        """Always empty: the bundled file is read as a whole."""
        return []

    def count(self, domain: str) -> int:
        """Return the number of training digits."""
        return len(_half("train")[0])

    def example(self, number: int) -> Example:
        """Return training example `number`: a digit, uint8 [size, size, 1], and its label, 0 to 9."""
        images, labels = _half("train")
        index = sample_index(self._seed, "order/image", number, len(images))
        return Example({"image": self._resized(images[index])}, int(labels[index]))

    def held_out(self, domain: str, count: int) -> list[Image]:
        """Return the first `count` held-out digits; every ten in a row have each class once."""
        return [self._resized(image) for image in _half("held_out")[0][:count]]

    def labelled(self, half: Literal["train", "held_out"]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return all digits of one half: images uint8 [2500, size, size, 1] and labels uint8 [2500]."""
        images, labels = _half(half)
        return np.stack([self._resized(image) for image in images]), labels

    def _resized(self, image: Image) -> Image:
        if self._size == _PADDED_SIZE:
            return image
        resized = Pillow.fromarray(image[..., 0]).resize((self._size, self._size), Pillow.Resampling.BICUBIC)
        return np.asarray(resized, dtype=np.uint8)[..., None]


@cache
def _half(name: Literal["train", "held_out"]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return images uint8 [2500, 32, 32, 1] and labels uint8 [2500]; every ten in a row have each class once."""
    with np.load(_FILE) as file:
        images, labels = file["images"], file["labels"]
    margin = (_PADDED_SIZE - images.shape[1]) // 2
    images = np.pad(images, ((0, 0), (margin, margin), (margin, margin)))[..., None]
    images.flags.writeable = False
    # The file is ordered by class. Each class is shuffled and halved separately.
    halves = []
    for digit in range(CLASSES):
        shuffled = counter_rng(_SPLIT_SEED, "split/digits", digit).permutation(np.flatnonzero(labels == digit))
        middle = len(shuffled) // 2
        halves.append(shuffled[:middle] if name == "train" else shuffled[middle:])
    chosen = np.stack(halves, axis=1).flatten()
    return images[chosen], labels[chosen]
