"""The error of translated images whose true translations are known, beside that of a copy and of a colour map."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trainer.config import Section
from trainer.errors import DataError
from trainer.metrics.base import Images, Integers
from trainer.registry import register
from zorse_common.files import ImageFiles
from zorse_common.images import Pixels

Floats = NDArray[np.float64]
_GREY_LEVELS = 127.5  # to a unit of -1..1
_MOST_CONDITION = 1e6
_RIDGE = 1e-3
_NOT_SCORED = -1


@register("metric", "paired_l1")
class PairedL1:
    """The mean absolute error on -1..1 where each source image has one true translation.

    An update scores image n against the nth file of `truth`. The state holds one number for each file, so that workers
    with different numbers can share the images in any order.
    """

    class Config(Section):
        """Folders or zips of images: the nth of `source` was translated, and the nth of `truth` is its translation.

        `fit_source` and `fit_truth` are other pairs, on which the affine map of colours is fitted.
        """

        source: str
        truth: str
        fit_source: str
        fit_truth: str

    def __init__(self, config: Config, *, seed: int) -> None:
        """List the folders, and read the first image of each.

        Raises:
            DataError: the folders do not hold equally many images, or images of different shapes.
            zorse_common.files.FilesError: a folder is missing or has no images, or an image cannot be read.
        """
        self._pairs = Pairs(config.source, config.truth)
        self._fitted = Pairs(config.fit_source, config.fit_truth)
        if self._fitted.shape != self._pairs.shape:
            raise DataError(f"paired_l1: the images of {config.fit_source} and {config.source} differ in shape")
        # The sum of |translated - truth| over the pixels and channels of each image, in grey levels.
        self._errors = np.full(len(self._pairs), _NOT_SCORED, dtype=np.int64)
        self._next = 0

    def update(self, images: Images, labels: Integers | None = None, numbers: Integers | None = None) -> None:
        """Score translated images, uint8 [n, h, w, c], against the files of `truth` at the positions `numbers`.

        Raises:
            DataError: an image has another shape than the truth, has no truth, or was scored before.
            zorse_common.files.FilesError: a file cannot be read.
        """
        if numbers is None:
            numbers = np.arange(self._next, self._next + len(images), dtype=np.int64)
        for number, image in zip(numbers.tolist(), images, strict=True):
            if not 0 <= number < len(self._pairs):
                raise DataError(f"paired_l1: image {number} has no truth: {self._pairs.describe()}")
            if self._errors[number] != _NOT_SCORED:
                raise DataError(_scored_twice(number))
            truth = self._pairs.truth(number)
            if image.shape != truth.shape:
                raise DataError(f"paired_l1: translated image {number} is {image.shape}, its truth {truth.shape}")
            self._errors[number] = np.abs(image.astype(np.int64) - truth).sum()
            self._next = number + 1

    def state(self) -> NDArray[np.int64]:
        """Return the error of each image in grey levels, or -1 where it is not scored: int64 [images of `truth`]."""
        return self._errors.copy()

    def merge(self, state: NDArray[np.int64]) -> None:
        """Add the errors of images that another worker scored.

        Raises:
            DataError: both scored the same image.
        """
        scored = state != _NOT_SCORED
        twice = np.flatnonzero(scored & (self._errors != _NOT_SCORED))
        if len(twice):
            raise DataError(_scored_twice(int(twice[0])))
        self._errors[scored] = state[scored]

    def compute(self) -> dict[str, float]:
        """Return the three errors, each a mean over all pairs.

        `l1_translated` is the error of the translated images and `l1_identity` that of the source images. `l1_affine`
        is that of the source images under the best affine map of colours, which is fitted to the other pairs by
        least squares at each pixel position.

        Raises:
            DataError: some pairs were not scored, or an image of a folder has another shape than the first one.
            zorse_common.files.FilesError: a file cannot be read.
        """
        missing = np.flatnonzero(self._errors == _NOT_SCORED)
        if len(missing):
            raise DataError(
                f"paired_l1: {len(self._errors) - len(missing)} translated images, but {self._pairs.describe()}: "
                f"image {missing[0]} is the first that is missing"
            )
        fit = AffineFit(self._pairs.shape)
        for number in range(len(self._fitted)):
            fit.add(*map(_scaled, self._fitted.pair(number)))
        maps = fit.maps()
        identity, affine = 0.0, 0.0
        for number in range(len(self._pairs)):
            source, truth = map(_scaled, self._pairs.pair(number))
            identity += float(np.abs(source - truth).mean())
            affine += float(np.abs(apply_maps(maps, source) - truth).mean())
        values = len(self._pairs) * np.prod(self._pairs.shape)
        return {
            "l1_identity": identity / len(self._pairs),
            "l1_affine": affine / len(self._pairs),
            "l1_translated": float(self._errors.sum() / _GREY_LEVELS / values),
        }


class Pairs:
    """Two folders or zips whose nth images, in the order of their names, belong together and have one shape."""

    def __init__(self, source: str, truth: str) -> None:
        """List both. Raises as `PairedL1`."""
        self._source, self._truth = ImageFiles(source), ImageFiles(truth)
        counts, shapes = [], []
        for files in (self._source, self._truth):
            if not files.names:
                raise DataError(f"paired_l1: {files.root} holds no images")
            counts.append(len(files.names))
            shapes.append(files.pixels(files.names[0]).shape)
        if counts[0] != counts[1] or shapes[0] != shapes[1]:
            raise DataError(
                f"paired_l1: {source} holds {counts[0]} images {shapes[0]}, but {truth} {counts[1]} images {shapes[1]}"
            )
        self.shape = shapes[0]

    def __len__(self) -> int:
        return len(self._truth.names)

    def describe(self) -> str:
        """Say how many images there are."""
        return f"{self._truth.root} holds {len(self)} images"

    def truth(self, number: int) -> Pixels:
        """Read image `number` of the truth. Raises as `pair`."""
        return self._read(self._truth, number)

    def pair(self, number: int) -> tuple[Pixels, Pixels]:
        """Read image `number` of both.

        Raises:
            DataError: an image has another shape than the first one.
            zorse_common.files.FilesError: an image cannot be read.
        """
        return self._read(self._source, number), self._read(self._truth, number)

    def _read(self, files: ImageFiles, number: int) -> Pixels:
        image = files.pixels(files.names[number])
        if image.shape != self.shape:
            raise DataError(f"paired_l1: the images of {files.root} differ in size or channels")
        return image


class AffineFit:
    """Least squares for the affine maps of colours, one map for each pixel position, over images added one by one."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        """Start with no pairs of images of `shape` (h, w, c)."""
        height, width, channels = shape
        self._count = 0
        self._gram = np.zeros((height * width, channels + 1, channels + 1))  # Σ x xᵀ at each position
        self._cross = np.zeros((height * width, channels + 1, channels))  # Σ x yᵀ

    def add(self, source: Floats, truth: Floats) -> None:
        """Add a pair of images, [h, w, c] each."""
        x, y = _with_ones(source), truth.reshape(-1, truth.shape[2])
        self._gram += x[:, :, None] * x[:, None, :]
        self._cross += x[:, :, None] * y[:, None, :]
        self._count += 1

    def maps(self) -> Floats:
        """Return the maps M, [h·w, c + 1, c], with the least Σ |Mᵀ x - y|², where x is a source colour and a one.

        Where the colours at a position do not determine the map, a small ridge does.
        """
        ridge = _RIDGE * self._count * np.eye(self._gram.shape[-1])
        unclear = np.linalg.cond(self._gram) > _MOST_CONDITION
        solved: Floats = np.linalg.solve(self._gram + ridge * unclear[:, None, None], self._cross)
        return solved


def apply_maps(maps: Floats, source: Floats) -> Floats:
    """Map the colours of an image, [h, w, c], by the maps of its positions, and cut the result to -1..1."""
    mapped = (_with_ones(source)[:, None, :] @ maps)[:, 0, :]
    image: Floats = mapped.clip(-1, 1).reshape(source.shape)
    return image


def _with_ones(image: Floats) -> Floats:
    """Return the colours of an image as [h·w, c + 1], with a last channel of ones."""
    colours = image.reshape(-1, image.shape[2])
    return np.concatenate([colours, np.ones((len(colours), 1))], axis=1)


def _scaled(image: Pixels) -> Floats:
    return image / _GREY_LEVELS - 1


def _scored_twice(number: int) -> str:
    return f"paired_l1: image {number} was scored twice: give each worker the numbers of its own images"
