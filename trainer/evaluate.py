"""Scores a folder of images, and writes a dataset's held-out images as files to translate and to compare with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from trainer import registry
from trainer.errors import DataError
from trainer.metrics.base import Images, Metric
from trainer.registry import MetricComponent
from trainer.run_config import RunConfig
from zorse_common.files import ImageFiles, write_image
from zorse_common.images import Pixels

_MOST_IMAGES, _MOST_BYTES = 256, 2**26
"""The most images, and the most bytes of images, in memory at once."""


def evaluate(images: str, metric: MetricComponent, seed: int = 0) -> dict[str, float]:
    """Return the figures of `metric` for the images of a folder or zip, in the order of their names.

    The images are read in batches: memory does not grow with their number.

    Raises:
        trainer.errors.TrainerError: the metric is unknown, or the images differ in size or are not for this metric.
        zorse_common.files.FilesError: there are no images, or one cannot be read.
    """
    files = ImageFiles(images)
    if not files.names:
        raise DataError(f"{images} holds no images")
    scorer: Metric = registry.build(metric, seed=seed)
    for batch in _batches(files):
        scorer.update(batch)
    return scorer.compute()


def _batches(files: ImageFiles) -> Iterator[Images]:
    """Yield the images in the order of their names, uint8 [n, h, w, c].

    Raises:
        DataError: two images differ in shape.
    """
    batch: list[Pixels] = []
    shape: tuple[int, ...] | None = None
    for name in files.names:
        image = files.pixels(name)
        shape = shape or image.shape
        if image.shape != shape:
            raise DataError(f"{files.root}: images differ in size or channels; a metric needs them equal")
        batch.append(image)
        if len(batch) == _MOST_IMAGES or len(batch) * image.nbytes >= _MOST_BYTES:
            yield np.stack(batch)
            batch = []
    if batch:
        yield np.stack(batch)


def write_held_out(config: RunConfig, folder: Path, count: int) -> tuple[list[Path], list[str]]:
    """Write up to `count` held-out images of each domain as `<folder>/<domain>/0000.png`.

    Returns the files, and one line for each image that could not be read. If the dataset is paired, image n of one
    domain is the true translation of image n of the other.

    Raises:
        trainer.errors.TrainerError: the dataset cannot be opened.
    """
    dataset = registry.build(config.data, seed=config.run.seed)
    written = []
    for domain in dataset.spec.domains:
        for index, image in enumerate(dataset.held_out(domain, count)):
            path = folder / domain / f"{index:04d}.png"
            write_image(path, image)
            written.append(path)
    return written, dataset.skipped
