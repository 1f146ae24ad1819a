"""Scores a folder of images, and writes a source's held-out images as files to translate and compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from trainer import registry
from trainer.config import MetricComponent, RunConfig
from trainer.errors import DataError
from zorse_common.files import read_images, write_image


def evaluate(images: str, metric: MetricComponent, seed: int = 0) -> dict[str, Any]:
    """The figures of `metric` for the images of a folder or zip, in the order of their names.

    Raises:
        trainer.errors.TrainerError: unknown metric, no images, or images of different sizes.
    """
    arrays = list(read_images(images).values())
    if len({array.shape for array in arrays}) > 1:
        raise DataError(f"{images}: images differ in size or channels; a metric needs them equal")
    scores: dict[str, Any] = registry.build(metric, seed=seed)(np.stack(arrays))
    return scores


def write_held_out(config: RunConfig, folder: Path, count: int) -> tuple[list[Path], list[str]]:
    """Write up to `count` held-out images of each domain as `<folder>/<domain>/0000.png`.

    Returns the files, and one line for each image that could not be read. Where the source knows true pairs, image n of
    one domain is the true translation of image n of the other.

    Raises:
        trainer.errors.TrainerError: the source cannot be opened.
    """
    source = registry.build(config.data, seed=config.run.seed)
    written = []
    for domain in source.domains:
        for index, image in enumerate(source.held_out(domain, count)):
            path = folder / domain / f"{index:04d}.png"
            write_image(path, image)
            written.append(path)
    return written, source.skipped
