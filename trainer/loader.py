"""Brings each worker its part of every step, decoded ahead in threads."""

from __future__ import annotations

import dataclasses
import os
from collections import deque
from collections.abc import Generator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial

import torch

from trainer.config import BatchSection
from trainer.data.base import Source, to_tensor
from trainer.tasks.base import Batch

AHEAD = 3
"""Steps that are decoded ahead."""
MOST_THREADS = 16


def parts_of_step(seen: int, batch: BatchSection, workers: int, rank: int) -> list[range]:
    """The image numbers of worker `rank` in each micro-batch of the step that starts at `seen`.

    The step is cut into micro-batches and each of those among the workers, as evenly as whole images allow: so
    a micro-batch holds the same images whatever the number of workers.
    """
    micro_batches = (
        _part(range(seen, seen + batch.global_size), batch.accumulation, i) for i in range(batch.accumulation)
    )
    return [_part(numbers, workers, rank) for numbers in micro_batches]


def _part(numbers: range, parts: int, index: int) -> range:
    return numbers[index * len(numbers) // parts : (index + 1) * len(numbers) // parts]


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
        # Images are decoded side by side, and put together to steps in a thread of its own.
        threads = min(MOST_THREADS, os.cpu_count() or 1)
        with ThreadPoolExecutor(threads, "decoder") as decoders, ThreadPoolExecutor(1, "assembler") as assembler:
            queue: deque[Future[list[Batch]]] = deque()
            try:
                while True:
                    while len(queue) < AHEAD:
                        queue.append(assembler.submit(self._step, seen, decoders))
                        seen += self._sizes.global_size
                    yield [self._to_device(batch) for batch in queue.popleft().result()]
            finally:
                for future in queue:
                    future.cancel()

    def _step(self, seen: int, decoders: Executor) -> list[Batch]:
        parts = parts_of_step(seen, self._sizes, self._workers, self._rank)
        return [self._batch(numbers, decoders) for numbers in parts]

    def _batch(self, numbers: range, decoders: Executor) -> Batch:
        decoding = {
            domain: decoders.map(partial(self._source.image, domain), numbers) for domain in self._source.domains
        }
        images = {domain: to_tensor(list(decoded)) for domain, decoded in decoding.items()}
        if self._device.type == "cuda":
            images = {domain: tensor.pin_memory() for domain, tensor in images.items()}
        even_share = self._sizes.global_size / (self._workers * self._sizes.accumulation)
        return Batch(torch.tensor(list(numbers)), images, weight=len(numbers) / even_share)

    def _to_device(self, batch: Batch) -> Batch:
        images = {domain: tensor.to(self._device, non_blocking=True) for domain, tensor in batch.images.items()}
        return dataclasses.replace(batch, images=images)
