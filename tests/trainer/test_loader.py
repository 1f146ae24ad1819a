"""The loader: order of steps, threads, labels, draws, pixel values and errors."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from trainer.data.base import DataSpec, Example, Image, ImageSpec
from trainer.data.digits import Digits
from trainer.errors import DataError
from trainer.loader import Loader, Prepare, Worker, draw_nothing
from trainer.run_config import BatchSection
from trainer.tasks.base import Batch
from zorse_common.random import normal

CPU = torch.device("cpu")
SIZE = 8


def _nothing(number: int) -> None:
    pass


@dataclass
class FakeDataset:
    """Images whose pixels all equal the example's number; `visit` is called before each example is returned."""

    visit: Callable[[int], None] = _nothing
    spec: DataSpec = field(default_factory=lambda: DataSpec({"image": ImageSpec(SIZE, 1)}))
    digest: str = "fake"
    facts: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    def count(self, domain: str) -> int:
        return 256

    def example(self, number: int) -> Example:
        self.visit(number)
        return Example({"image": np.full((SIZE, SIZE, 1), number, np.uint8)})

    def held_out(self, domain: str, count: int) -> list[Image]:
        return []


def _steps(
    dataset: Any, count: int, *, threads: int | None = 2, prepare: Prepare = draw_nothing, **sizes: int
) -> list[list[Batch]]:
    loader = Loader(dataset, prepare, BatchSection(**sizes), Worker(), device=CPU, threads=threads)
    with contextlib.closing(loader.steps(0)) as steps:
        return [next(steps) for _ in range(count)]


def _threads(*prefixes: str) -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(prefixes)]


def test_loader_decodes_steps_side_by_side_and_yields_them_in_order() -> None:
    third_step_is_decoded = threading.Event()

    def visit(number: int) -> None:
        if number == 0:
            assert third_step_is_decoded.wait(60)
        if number == 5:
            third_step_is_decoded.set()

    steps = _steps(FakeDataset(visit), 4, global_size=2)
    assert [batch.numbers.tolist() for (batch,) in steps] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    for (batch,) in steps:
        levels = torch.round((batch.images["image"][:, 0, 0, 0] + 1) * 127.5)
        assert levels.tolist() == batch.numbers.tolist()


def test_loader_decodes_in_as_many_threads_as_stated_and_no_more() -> None:
    lock, pairs = threading.Lock(), threading.Barrier(2, timeout=60)
    running: list[int] = [0]
    most: list[int] = [0]

    def visit(number: int) -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        if number < 8:  # an even number of examples waits for each other in pairs, which needs two threads
            pairs.wait()
        with lock:
            running[0] -= 1

    _steps(FakeDataset(visit), 4, threads=2, global_size=2)
    assert most == [2]


@pytest.mark.parametrize("threads", [None, 1, 2, 16])
def test_loader_gives_each_thread_an_example_although_a_step_has_one(threads: int | None) -> None:
    # By default there is a thread for each CPU of the process.
    count = threads or len(os.sched_getaffinity(0))
    all_threads_have_one = threading.Barrier(count, timeout=60)

    def visit(number: int) -> None:
        if number < count:
            all_threads_have_one.wait()

    ((batch,),) = _steps(FakeDataset(visit), 1, threads=threads, global_size=1)
    assert batch.numbers.tolist() == [0]


def test_loader_gives_labels_of_datasets_with_classes() -> None:
    digits = Digits(Digits.Config(), seed=3)
    ((first,), (second,)) = _steps(digits, 2, global_size=5)
    expected = [digits.example(number).label for number in range(10)]
    assert first.labels is not None
    assert second.labels is not None
    assert torch.cat([first.labels, second.labels]).tolist() == expected
    assert first.labels.dtype == torch.int64
    assert _steps(FakeDataset(), 1, global_size=2)[0][0].labels is None


def test_loader_gives_draws_of_each_micro_batch_from_its_threads() -> None:
    threads: set[str] = set()

    def prepare(numbers: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        threads.add(threading.current_thread().name.split("_")[0])
        assert numbers.dtype == np.int64
        return {"latent": normal(7, "latent/test", numbers, 3), "place": numbers[:, None] * 10}

    (step,) = _steps(FakeDataset(), 1, prepare=prepare, global_size=5, accumulation=2)
    assert [batch.numbers.tolist() for batch in step] == [[0, 1], [2, 3, 4]]
    for batch in step:
        np.testing.assert_array_equal(batch.draws["latent"], normal(7, "latent/test", batch.numbers.tolist(), 3))
        assert batch.draws["place"].flatten().tolist() == (batch.numbers * 10).tolist()
    assert threads == {"decoder"}


def test_loader_weighs_uneven_parts_by_their_size() -> None:
    loader = Loader(FakeDataset(), draw_nothing, BatchSection(global_size=5), Worker(1, 2), device=CPU)
    with contextlib.closing(loader.steps(0)) as steps:
        (batch,) = next(steps)
    assert batch.numbers.tolist() == [2, 3, 4]
    assert batch.weight == pytest.approx(3 / 2.5)


def test_loader_normalizes_all_grey_levels_to_the_bits_of_the_formula() -> None:
    (step,) = _steps(FakeDataset(), 1, global_size=256)
    images = [np.full((SIZE, SIZE, 1), level, np.uint8) for level in range(256)]
    expected = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()
    assert step[0].images["image"].equal(expected)
    assert step[0].images["image"].is_contiguous()
    assert step[0].images["image"].dtype == torch.float32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_loader_normalizes_on_the_gpu_within_rounding() -> None:
    digits = Digits(Digits.Config(), seed=3)

    def first_batch(device: str) -> Batch:
        loader = Loader(
            digits,
            lambda numbers: {"latent": normal(7, "latent/test", numbers, 3)},
            BatchSection(global_size=16),
            Worker(),
            device=torch.device(device),
        )
        with contextlib.closing(loader.steps(0)) as steps:
            return next(steps)[0]

    on_cpu, on_gpu = first_batch("cpu"), first_batch("cuda")
    assert on_cpu.labels is not None
    assert on_gpu.labels is not None
    assert on_gpu.numbers.device.type == "cpu"
    assert {on_gpu.images["image"].device.type, on_gpu.labels.device.type} == {"cuda"}
    assert on_gpu.labels.cpu().equal(on_cpu.labels)
    assert on_gpu.draws["latent"].cpu().equal(on_cpu.draws["latent"])
    # A GPU multiplies by the reciprocal of 127.5 instead of dividing.
    torch.testing.assert_close(on_gpu.images["image"].cpu(), on_cpu.images["image"], rtol=0, atol=2e-7)


def test_loader_raises_errors_of_decoder_threads_after_the_steps_before() -> None:
    def visit(number: int) -> None:
        if number == 5:
            raise DataError("image 5 cannot be read")

    loader = Loader(FakeDataset(visit), draw_nothing, BatchSection(global_size=2), Worker(), device=CPU, threads=2)
    steps = loader.steps(0)
    assert [batch.numbers.tolist() for _ in range(2) for batch in next(steps)] == [[0, 1], [2, 3]]
    with pytest.raises(DataError, match="image 5 cannot be read"):
        next(steps)
    assert _threads("decoder", "assembler") == []


def test_loader_raises_errors_of_prepare() -> None:
    def prepare(numbers: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        raise ValueError("no draws today")

    with pytest.raises(ValueError, match="no draws today"):
        _steps(FakeDataset(), 1, prepare=prepare, global_size=2)


def test_loader_ends_its_threads_when_it_is_closed() -> None:
    _steps(FakeDataset(), 1, global_size=2)
    assert _threads("decoder", "assembler") == []
