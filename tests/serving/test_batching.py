"""Batching: merging, splitting, and what the batcher runs together."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from serving.batching import Batcher, Tensors, capacity, chunks, group_key, merge, rows, split
from serving.config import Batching
from tests.serving.fakes import Traced
from tests.serving.gated_model import GatedModel, entered, ones, play, settled


def test_merge_and_split_are_inverse() -> None:
    parts = [ones(n, n) for n in (1, 3, 2)]
    for part, back in zip(parts, split(merge(parts), [1, 3, 2]), strict=True):
        np.testing.assert_array_equal(part["x"], back["x"])


def test_chunks_cover_every_row_once() -> None:
    parts = chunks({"x": np.arange(7)[:, None]}, 3)
    assert [rows(part) for part in parts] == [3, 3, 1]
    np.testing.assert_array_equal(merge(parts)["x"][:, 0], np.arange(7))


def test_group_key_depends_on_shape_and_dtype_and_not_on_rows() -> None:
    assert group_key(ones(1, 0)) == group_key(ones(5, 9))
    assert group_key(ones(1, 0)) != group_key(ones(1, 0, width=3))
    assert group_key(ones(1, 0)) != group_key({"x": np.zeros((1, 2), np.float32)})


@pytest.mark.parametrize(
    ("shape", "most"),
    [((8,), 16), ((), 16), ((4, 4, 3), 16), ((10, 10, 3), 10), ((10, 30, 3), 3), ((32, 32, 3), 1), ((999, 999, 3), 1)],
)
def test_capacity_limits_the_pixels_of_images_and_not_of_latents(shape: tuple[int, ...], most: int) -> None:
    assert capacity(group_key({"x": np.zeros((2, *shape))}), Batching(max_size=16, max_pixels=1000)) == most


def test_batcher_gives_every_request_its_own_answer() -> None:
    model = GatedModel()
    order = np.random.default_rng(0).permutation(200).tolist()

    async def scene(batcher: Batcher) -> None:
        async def one(value: int) -> None:
            n, width = 1 + value % 5, 1 + value % 3
            answer = await batcher.submit(ones(n, value + 100, width))
            np.testing.assert_array_equal(answer["y"], np.full((n, width), 2 * value + 200))

        await asyncio.gather(*(one(value) for value in order))

    play(scene, model, max_size=4, queue=10_000)
    assert all(len(batch) <= 4 for batch in model.batches)
    assert len(model.batches) < 400


def test_batcher_runs_waiting_requests_together_in_order() -> None:
    model = GatedModel(open_gate=False)

    async def scene(batcher: Batcher) -> None:
        first = asyncio.create_task(batcher.submit(ones(1, 0)))
        await entered(model)
        others = [asyncio.create_task(batcher.submit(ones(1, value))) for value in (1, 2, 3, 4, 5)]
        await settled()
        model.gate.set()
        await asyncio.gather(first, *others)

    play(scene, model, max_size=4, max_delay_ms=0)
    assert model.batches == [[0], [1, 2, 3, 4], [5]]


def test_batcher_runs_a_full_batch_without_delay() -> None:
    async def scene(batcher: Batcher) -> None:
        await asyncio.gather(batcher.submit(ones(2, 1)), batcher.submit(ones(2, 2)))

    play(scene, GatedModel(), max_size=4, max_delay_ms=3_600_000)


def test_batcher_delays_a_single_request_by_the_delay_at_most() -> None:
    async def scene(batcher: Batcher) -> None:
        assert (await batcher.submit(ones(1, 1)))["y"][0, 0] == 2

    play(scene, GatedModel(), max_size=4, max_delay_ms=1)


def test_batcher_cuts_and_joins_a_large_request() -> None:
    model = GatedModel()

    async def scene(batcher: Batcher) -> None:
        answer = await batcher.submit({"x": np.arange(20, 30)[:, None]})
        assert answer["y"][:, 0].tolist() == list(range(40, 60, 2))

    play(scene, model, max_size=4, queue=5)
    assert [len(batch) for batch in model.batches] == [4, 4, 2]


def test_batcher_merges_and_cuts_large_images_by_their_pixels() -> None:
    model = GatedModel(open_gate=False)

    def images(*values: int) -> Tensors:
        return {"x": np.array(values)[:, None, None, None] * np.ones((1, 10, 10, 3), int)}

    async def scene(batcher: Batcher) -> None:
        first = asyncio.create_task(batcher.submit(images(0)))
        await entered(model)
        others = [asyncio.create_task(batcher.submit(images(*values))) for values in ((1,), (2,), (3,), (4, 5, 6))]
        await settled()
        model.gate.set()
        await first
        answers = [(await other)["y"][:, 0, 0, 0].tolist() for other in others]
        assert answers == [[2], [4], [6], [8, 10, 12]]

    play(scene, model, max_size=16, max_pixels=299, max_delay_ms=0)
    assert model.batches == [[0], [1, 2], [3], [4, 5], [6]]


def test_batcher_merges_arrays_in_threads_and_not_on_the_event_loop() -> None:
    traced = np.arange(6)[:, None].view(Traced)

    async def scene(batcher: Batcher) -> None:
        answers = await asyncio.gather(*(batcher.submit({"x": part}) for part in (traced[:1], traced[1:2], traced)))
        assert answers[2]["y"][:, 0].tolist() == [0, 2, 4, 6, 8, 10]

    play(scene, GatedModel(), max_size=4)
    assert len(traced.threads) >= 2
    assert threading.current_thread() not in traced.threads
