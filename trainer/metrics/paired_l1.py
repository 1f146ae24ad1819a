"""How far translated images are from the truth, against what copying and a fitted colour map achieve."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trainer.config import Section
from trainer.errors import DataError
from trainer.registry import register
from zorse_common.files import read_images

Images = NDArray[np.float64]
_MOST_CONDITION = 1e6
_RIDGE = 1e-3


@register("metric", "paired_l1")
class PairedL1:
    """Mean absolute error on −1..1 where each source image has one true translation."""

    class Config(Section):
        """Folders or zips of images: the nth of `source` was translated and the nth of `truth` is the answer.

        `fit_source` and `fit_truth` are other pairs, on which the affine map is fitted.
        """

        source: str
        truth: str
        fit_source: str
        fit_truth: str

    def __init__(self, config: Config, *, seed: int) -> None:
        """Read the folders.

        Raises:
            DataError: images are missing, unreadable or of unequal shapes.
        """
        self._source, self._truth = _read_pairs(config.source, config.truth)
        self._fit_source, self._fit_truth = _read_pairs(config.fit_source, config.fit_truth)
        if self._fit_source.shape[1:] != self._source.shape[1:]:
            raise DataError(f"paired_l1: the images of {config.fit_source} and {config.source} differ in shape")

    def __call__(self, images: NDArray[np.uint8]) -> dict[str, float]:
        """Score translated images, uint8 [n, h, w, c], in the order of the source's names.

        `l1_identity` is the error of the source itself; `l1_affine` that of the best affine map of colours at
        each pixel's position, fitted by least squares on the other pairs.

        Raises:
            DataError: not as many images as pairs, or of another shape.
        """
        if images.shape != self._truth.shape:
            raise DataError(f"paired_l1: translated images are {images.shape}, but the truth is {self._truth.shape}")
        mapped = affine_by_pixel(self._fit_source, self._fit_truth, self._source)
        return {
            "l1_identity": _l1(self._source, self._truth),
            "l1_affine": _l1(mapped, self._truth),
            "l1_translated": _l1(_scaled(images), self._truth),
        }


def affine_by_pixel(source: Images, truth: Images, given: Images) -> Images:
    """Map `given`, [m, h, w, c], by the affine maps of colours that best take `source` to `truth`, [n, h, w, c].

    Each pixel's position has its own map. Where the colours there do not determine it, a small ridge does.
    """
    known, wanted = _by_pixel(source, constant=True), _by_pixel(truth)
    square = known.transpose(0, 2, 1) @ known
    ridge = _RIDGE * len(source) * np.eye(square.shape[-1])
    square += ridge * (np.linalg.cond(square) > _MOST_CONDITION)[:, None, None]
    maps = np.linalg.solve(square, known.transpose(0, 2, 1) @ wanted)
    made: Images = (_by_pixel(given, constant=True) @ maps).clip(-1, 1)
    return made.transpose(1, 0, 2).reshape(*given.shape[:3], truth.shape[3])


def _by_pixel(images: Images, constant: bool = False) -> Images:
    """[h·w, n, c], or [h·w, n, c + 1] with a last channel of ones."""
    n, h, w, c = images.shape
    pixels = images.reshape(n, h * w, c).transpose(1, 0, 2)
    return np.concatenate([pixels, np.ones((h * w, n, 1))], axis=2) if constant else pixels


def _read_pairs(source: str, truth: str) -> tuple[Images, Images]:
    arrays = []
    for folder in (source, truth):
        images = list(read_images(folder).values())
        if len({image.shape for image in images}) > 1:
            raise DataError(f"paired_l1: the images of {folder} differ in size or channels")
        arrays.append(_scaled(np.stack(images)))
    first, second = arrays
    if first.shape != second.shape:
        raise DataError(f"paired_l1: {source} holds images {first.shape}, but {truth} {second.shape}")
    return first, second


def _scaled(images: NDArray[np.uint8]) -> Images:
    return images / 127.5 - 1


def _l1(first: Images, second: Images) -> float:
    return float(np.abs(first - second).mean())
