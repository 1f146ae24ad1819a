"""Loads each worker's part of every step. Threads decode the images ahead of the steps."""

from __future__ import annotations

import dataclasses
import os
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.data.base import Dataset, Example
from trainer.data.tensors import normalize, stack
from trainer.run_config import BatchSection
from trainer.tasks.base import Batch

AHEAD = 3
"""The least number of steps that are decoded ahead."""

FUTURES_PER_THREAD = 2
"""The examples of a micro-batch are decoded in about this number of parts for each thread."""

Prepare = Callable[[NDArray[np.int64]], dict[str, NDArray[Any]]]
"""Draws what a task needs beside the images: it maps example numbers, int64 [b], to arrays [b, …] by name.

It must be a pure function of the numbers. The loader calls it in its threads.
"""


@dataclass(frozen=True)
class Worker:
    """Worker number `rank` (0 to count - 1) of the `count` workers of a run."""

    rank: int = 0
    count: int = 1


def parts_of_step(seen: int, batch: BatchSection, workers: int, rank: int) -> list[range]:
    """Return the example numbers of worker `rank` in each micro-batch of the step that starts at number `seen`.

    The step is divided into micro-batches, and each micro-batch among the workers, as evenly as whole examples allow.
    So a micro-batch consists of the same examples whatever the number of workers.
    """
    micro_batches = (
        _part(range(seen, seen + batch.global_size), batch.accumulation, i) for i in range(batch.accumulation)
    )
    return [_part(numbers, workers, rank) for numbers in micro_batches]


def _part(numbers: range, parts: int, index: int) -> range:
    return numbers[index * len(numbers) // parts : (index + 1) * len(numbers) // parts]


def draw_nothing(numbers: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Return no draws: the `Prepare` of a task that needs images alone."""
    return {}


class Loader:
    """Yields the batches of one worker without end. A step has `accumulation` micro-batches."""

    def __init__(
        self,
        dataset: Dataset,
        prepare: Prepare,
        batch: BatchSection,
        worker: Worker,
        *,
        device: torch.device,
        threads: int | None = None,
    ) -> None:
        """`threads` is the number of decoder threads, by default the number of CPUs that this process may use."""
        self._dataset, self._prepare, self._sizes = dataset, prepare, batch
        self._worker, self._device = worker, device
        self._threads = threads or usable_cpus()

    def steps(self, seen: int) -> Generator[list[Batch], None, None]:
        """Yield the micro-batches of each step from example number `seen` on, on the loader's device.

        Raises:
            trainer.errors.DataError: too many images cannot be read.
        """
        # The decoders work on all queued steps at the same time. One more thread, the assembler, joins the examples to
        # batches in order.
        with (
            ThreadPoolExecutor(self._threads, "decoder") as decoders,
            ThreadPoolExecutor(1, "assembler") as assembler,
        ):
            queue: deque[Future[list[Batch]]] = deque()
            try:
                while True:
                    while len(queue) < self._steps_ahead:
                        parts = parts_of_step(seen, self._sizes, self._worker.count, self._worker.rank)
                        pending = [self._submit(numbers, decoders) for numbers in parts]
                        queue.append(assembler.submit(self._assemble, pending))
                        seen += self._sizes.global_size
                    yield [self._to_device(batch) for batch in queue.popleft().result()]
            finally:
                assembler.shutdown(wait=False, cancel_futures=True)
                decoders.shutdown(wait=False, cancel_futures=True)

    @property
    def _steps_ahead(self) -> int:
        """Steps decoded ahead: at least `AHEAD`, and so many that each thread has an example to decode."""
        examples = max(1, self._sizes.global_size // self._worker.count)
        return max(AHEAD, -(-self._threads // examples) + 1)

    def _submit(self, numbers: range, decoders: Executor) -> _Pending:
        array = np.arange(numbers.start, numbers.stop, dtype=np.int64)
        draws = decoders.submit(self._prepare, array)
        # A future costs this thread tens of microseconds, which delay the next step: several images share one.
        size = max(1, len(numbers) // (FUTURES_PER_THREAD * self._threads))
        chunks = [numbers[start : start + size] for start in range(0, len(numbers), size)]
        return _Pending(array, [decoders.submit(self._examples, chunk) for chunk in chunks], draws)

    def _examples(self, numbers: range) -> list[Example]:
        return [self._dataset.example(number) for number in numbers]

    def _assemble(self, pending: list[_Pending]) -> list[Batch]:
        """Wait for the examples of one step and return its micro-batches: images still uint8 [b, c, h, w], on the CPU.

        For a CUDA device the memory is pinned, so that the copies to it need not block.
        """
        return [self._batch(part) for part in pending]

    def _batch(self, pending: _Pending) -> Batch:
        examples = [example for future in pending.examples for example in future.result()]
        images = {domain: stack([e.images[domain] for e in examples]) for domain in self._dataset.spec.domains}
        labels = None
        if self._dataset.spec.classes is not None:
            labels = torch.tensor([example.label for example in examples], dtype=torch.int64)
        draws = {name: torch.from_numpy(array) for name, array in pending.draws.result().items()}
        # The mean number of examples in a worker's part of a micro-batch.
        even_share = self._sizes.global_size / (self._worker.count * self._sizes.accumulation)
        weight = len(examples) / even_share
        return _map_tensors(Batch(torch.from_numpy(pending.numbers), images, labels, draws, weight), self._pinned)

    def _pinned(self, tensor: Tensor) -> Tensor:
        return tensor.pin_memory() if self._device.type == "cuda" else tensor

    def _to_device(self, batch: Batch) -> Batch:
        moved = _map_tensors(batch, lambda tensor: tensor.to(self._device, non_blocking=True))
        # A quarter of the bytes cross the bus, as the images are still uint8.
        return dataclasses.replace(moved, images={name: normalize(image) for name, image in moved.images.items()})


@dataclass(frozen=True)
class _Pending:
    """One worker's part of a micro-batch while its examples are decoded. `numbers` is int64 [b]."""

    numbers: NDArray[np.int64]
    examples: list[Future[list[Example]]]
    draws: Future[dict[str, NDArray[Any]]]


def usable_cpus() -> int:
    """Return the number of CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _map_tensors(batch: Batch, function: Callable[[Tensor], Tensor]) -> Batch:
    """Return `batch` with `function` applied to its images, labels and draws."""
    return dataclasses.replace(
        batch,
        images={name: function(tensor) for name, tensor in batch.images.items()},
        labels=None if batch.labels is None else function(batch.labels),
        draws={name: function(tensor) for name, tensor in batch.draws.items()},
    )
