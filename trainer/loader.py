"""Brings each worker its part of every step, decoded ahead in threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from trainer.config import BatchSection
from trainer.data.base import Image, Source
from trainer.tasks.base import Batch

AHEAD = 3
THREADS = 4


def part_of_step(seen: int, global_size: int, workers: int, rank: int) -> range:
    """The image numbers that worker `rank` sees in the step that starts at `seen`: one run of equal length each."""
    share = global_size // workers
    start = seen + rank * share
    return range(start, start + share)


def to_tensor(images: list[Image]) -> Tensor:
    """uint8 [h, w, c] images as one float32 tensor [n, c, h, w] in -1..1."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()


class Loader:
    """Endless steps of batches for one worker; a step is `accumulation` micro-batches."""

    def __init__(self, source: Source, batch: BatchSection, *, workers: int, rank: int, device: torch.device) -> None:
        self._source, self._sizes, self._device = source, batch, device
        self._workers, self._rank = workers, rank

    def steps(self, seen: int) -> Generator[list[Batch], None, None]:
        """The steps from image number `seen` on.

        Raises:
            trainer.errors.DataError: too many images could not be read.
        """
        with ThreadPoolExecutor(THREADS, thread_name_prefix="loader") as threads:
            queue: deque[Future[list[Batch]]] = deque()
            try:
                while True:
                    while len(queue) < AHEAD:
                        queue.append(threads.submit(self._step, seen))
                        seen += self._sizes.global_size
                    yield [self._to_device(batch) for batch in queue.popleft().result()]
            finally:
                for future in queue:
                    future.cancel()

    def _step(self, seen: int) -> list[Batch]:
        numbers = part_of_step(seen, self._sizes.global_size, self._workers, self._rank)
        size = len(numbers) // self._sizes.accumulation
        return [self._batch(numbers[i : i + size]) for i in range(0, len(numbers), size)]

    def _batch(self, numbers: range) -> Batch:
        images = {
            domain: to_tensor([self._source.image(domain, number) for number in numbers])
            for domain in self._source.domains
        }
        if self._device.type == "cuda":
            images = {domain: tensor.pin_memory() for domain, tensor in images.items()}
        return Batch(torch.tensor(list(numbers)), images)

    def _to_device(self, batch: Batch) -> Batch:
        images = {domain: tensor.to(self._device, non_blocking=True) for domain, tensor in batch.images.items()}
        return Batch(batch.numbers, images)
