"""Draws sample grids, always of the same latents or images, so that they can be compared."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from trainer.data.base import Image
from trainer.data.tensors import denormalize, to_tensor
from trainer.hooks.base import Hook, Stage, Training
from trainer.tasks.base import Batch
from zorse_common.image_writer import encode

GENERATED, GENERATED_COLUMNS = 64, 8
TRANSLATED = 8
SAMPLE_NUMBERS = 2**62
"""The first example number of the fixed draws. Training uses smaller numbers."""


class Samples(Hook):
    """Writes `samples/<images seen>.png` at the start, every `run.sample_images` images and at the end."""

    stage: ClassVar[Stage] = Stage.MEASURE

    def start(self, training: Training) -> None:
        """Choose the batch to show, and draw the grid of the untrained generators."""
        if not training.is_main:
            return
        self._batch = _fixed_batch(training)
        if training.seen == 0:
            self._draw(training)

    def after_step(self, training: Training) -> None:
        """Draw the grid when it is due."""
        if training.is_main and training.due(training.config.run.sample_images):
            self._draw(training)

    def _draw(self, training: Training) -> None:
        with training.evaluating() as generators:
            generated = training.task.generate(generators, self._batch)
            columns = _grid_columns(training, generators, self._batch, generated)
        if columns:
            images, count = torch.stack(_same_shape(columns), dim=1).flatten(0, 1), len(columns)
        else:
            images, count = torch.cat(list(generated.values())), GENERATED_COLUMNS
        training.picture = grid_png(images, count)
        training.files.write(f"samples/{training.seen:010d}.png", training.picture)


def _fixed_batch(training: Training) -> Batch:
    """Return the batch to show: fixed latents, or the first held-out images of each domain."""
    translates = any(export.source is not None for export in training.task.exports().values())
    domains = training.dataset.spec.domains if translates else ()
    images = {domain: to_tensor(images_to_show(training, domain, TRANSLATED)) for domain in domains}
    count = min(len(tensor) for tensor in images.values()) if images else GENERATED
    numbers = np.arange(SAMPLE_NUMBERS, SAMPLE_NUMBERS + count)
    return training.make_batch({domain: tensor[:count] for domain, tensor in images.items()}, numbers)


def images_to_show(training: Training, domain: str, count: int) -> list[Image]:
    """Return up to `count` held-out images of `domain`, or training images if none are held out."""
    dataset = training.dataset
    held_out = dataset.held_out(domain, count)
    return held_out or [dataset.example(number).images[domain] for number in range(min(count, dataset.count(domain)))]


def _grid_columns(
    training: Training, generators: nn.ModuleDict, batch: Batch, generated: dict[str, Tensor]
) -> list[Tensor]:
    """Return the columns of the grid of a task that translates, each [n, c, h, w]; an empty list for other tasks.

    For each translator the columns are: the source images; their translations; and the translations back into the
    source's domain if there is a translator back, or else the true images of a paired dataset.
    """
    translators = [export for export in training.task.exports().values() if export.source is not None]
    returned: dict[str, Tensor] = {}
    if any(export.source in generated for export in translators):
        images = {domain: generated.get(domain, image) for domain, image in batch.images.items()}
        returned = training.task.generate(generators, dataclasses.replace(batch, images=images))
    columns: list[Tensor] = []
    for export in translators:
        assert export.source is not None
        columns += [batch.images[export.source], generated[export.target]]
        if export.source in returned:
            columns.append(returned[export.source])
        elif training.dataset.spec.paired:
            columns.append(batch.images[export.target])
    return columns


def _same_shape(columns: list[Tensor]) -> list[Tensor]:
    """Enlarge images [n, c, h, w] to the largest size among the columns, and repeat channels up to the most."""
    channels, height, width = (max(column.shape[axis] for column in columns) for axis in (1, 2, 3))
    return [
        interpolate(column, size=(height, width), mode="nearest").repeat(1, -(-channels // column.shape[1]), 1, 1)[
            :, :channels
        ]
        for column in columns
    ]


def grid_png(images: Tensor, columns: int) -> bytes:
    """Return a PNG of float images [n, c, h, w] in -1..1, `columns` to a row, on white with a gap of 2 pixels."""
    n, channels, height, width = images.shape
    rows = -(-n // columns)
    canvas = torch.full((channels, rows * (height + 2) - 2, columns * (width + 2) - 2), 255, dtype=torch.uint8)
    pixels = denormalize(images).cpu()
    for index, image in enumerate(pixels):
        top, left = index // columns * (height + 2), index % columns * (width + 2)
        canvas[:, top : top + height, left : left + width] = image
    return encode(canvas.permute(1, 2, 0).numpy())
