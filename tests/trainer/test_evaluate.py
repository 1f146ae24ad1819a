"""Evaluation of folders of images, and of generators on several workers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from trainer import registry
from trainer.config import Section
from trainer.errors import DataError
from trainer.evaluate import evaluate
from trainer.metrics.base import evaluate_generator
from trainer.registry import register
from zorse_common.files import write_image


def test_evaluate_refuses_no_images_and_images_of_different_sizes(tmp_path: Path) -> None:
    config = registry.resolve("metric", {"type": "digits_frechet"})
    with pytest.raises(DataError, match="holds no images"):
        evaluate(str(tmp_path), config)
    for size in (4, 5):
        write_image(tmp_path / f"{size}.png", np.zeros((size, size, 3), dtype=np.uint8))
    with pytest.raises(DataError, match="images differ in size or channels; a metric needs them equal"):
        evaluate(str(tmp_path), config)


@register("metric")
class Batches:
    """A metric of another package: its figures are those of the batches that it gets."""

    class Config(Section):
        """No keys."""

    def __init__(self, config: Config, *, seed: int) -> None:
        self._batches: list[list[int]] = []

    def update(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64] | None = None,
        numbers: NDArray[np.int64] | None = None,
    ) -> None:
        self._batches.append(images[:, 0, 0, 0].tolist())

    def state(self) -> list[list[int]]:
        return self._batches

    def merge(self, state: list[list[int]]) -> None:
        self._batches += state

    def compute(self) -> dict[str, float]:
        levels = [level for batch in self._batches for level in batch]
        in_order = levels == [number % 256 for number in range(len(levels))]
        return {"in_order": in_order, "batches": len(self._batches), "largest": max(map(len, self._batches))}


def test_evaluate_streams_batches_in_the_order_of_names_to_a_metric_of_any_package(tmp_path: Path) -> None:
    for number in range(600):
        write_image(tmp_path / f"{number:03d}.png", np.full((1, 1, 1), number % 256, dtype=np.uint8))
    metric = registry.resolve("metric", {"type": f"{__name__}:Batches"})
    assert evaluate(str(tmp_path), metric) == {"in_order": True, "batches": 3, "largest": 256}


class _Recorder:
    """A metric whose state is the list of what the updates brought."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[int], list[int], list[int]]] = []

    def update(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64] | None = None,
        numbers: NDArray[np.int64] | None = None,
    ) -> None:
        assert labels is not None
        assert numbers is not None
        self.calls.append((images[:, 0, 0, 0].tolist(), labels.tolist(), numbers.tolist()))

    def state(self) -> list[tuple[list[int], list[int], list[int]]]:
        return self.calls

    def merge(self, state: list[tuple[list[int], list[int], list[int]]]) -> None:
        self.calls = self.calls + state

    def compute(self) -> dict[str, float]:
        return {"calls": len(self.calls)}


class _Worker:
    """Worker `rank` of two. It keeps what it sends; rank 0 gathers its own value and `others`."""

    count = 2

    def __init__(self, rank: int, others: list[object]) -> None:
        self.rank, self.others, self.sent = rank, others, None

    def gather(self, value: object) -> list[object]:
        self.sent = value
        return [value, *self.others] if self.rank == 0 else []


def _generate(numbers: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    return np.broadcast_to(numbers[:, None, None, None], (len(numbers), 2, 2, 1)).astype(np.uint8), numbers % 3


def test_evaluate_generator_covers_each_number_once_over_the_workers() -> None:
    alone = _Recorder()
    assert evaluate_generator(alone, _generate, 7, 2) == {"calls": 4}
    assert [numbers for _, _, numbers in alone.calls] == [[0, 1], [2, 3], [4, 5], [6]]
    assert all(images == numbers for images, _, numbers in alone.calls)
    assert alone.calls[1][1] == [2, 0]
    one, other = _Recorder(), _Recorder()
    second = _Worker(1, [])
    assert evaluate_generator(other, _generate, 7, 2, second) == {}
    assert evaluate_generator(one, _generate, 7, 2, _Worker(0, [second.sent])) == {"calls": 4}
    assert sorted(one.calls) == sorted(alone.calls)
    assert other.calls == alone.calls[1::2]
