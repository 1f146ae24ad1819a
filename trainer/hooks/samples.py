"""Sample grids from fixed codes or fixed images, so that progress can be compared."""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.data.tensors import to_tensor
from trainer.hooks.base import Training
from zorse_common.images import encode

GENERATED = 64
TRANSLATED = 8


class Samples:
    """Writes `samples/<images seen>.png` at the start, every `run.sample_images` images and at the end."""

    def start(self, training: Training) -> None:
        """Fix the images to translate, and draw the untrained generators'."""
        self._images: dict[str, Tensor] = {}
        if training.is_main:
            for domain in training.task.domains:
                held_out = training.source.held_out(domain, TRANSLATED)
                if held_out:
                    self._images[domain] = to_tensor(held_out).to(training.device)
        if training.seen == 0:
            self._draw(training)

    def after_step(self, training: Training) -> None:
        """Draw when due."""
        if training.due(training.config.run.sample_images):
            self._draw(training)

    def finish(self, training: Training) -> None:
        """The last grid is drawn."""

    def _draw(self, training: Training) -> None:
        if not training.is_main:
            return
        was_training = training.generators.training
        training.generators.eval()
        with torch.no_grad():
            count = TRANSLATED if len(training.task.domains) > 1 else GENERATED
            images = training.task.samples(training.generators, self._images, count)
        training.generators.train(was_training)
        training.picture = grid_png(images, training.task.columns())
        training.files.write(f"samples/{training.seen:010d}.png", training.picture)


def grid_png(images: Tensor, columns: int) -> bytes:
    """A PNG of float images [n, c, h, w] in -1..1, `columns` to a row, on a white ground with a gap of 2 pixels."""
    n, channels, height, width = images.shape
    rows = -(-n // columns)
    canvas = torch.full((channels, rows * (height + 2) - 2, columns * (width + 2) - 2), 255, dtype=torch.uint8)
    pixels = images.float().clamp(-1, 1).add(1).mul(127.5).round().to("cpu", torch.uint8)
    for index, image in enumerate(pixels):
        top, left = index // columns * (height + 2), index % columns * (width + 2)
        canvas[:, top : top + height, left : left + width] = image
    return encode(canvas.permute(1, 2, 0).numpy())
