"""The batcher: what runs together on an event loop, and where."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from serving.batcher import Batcher
from serving.batching import Tensors
from tests.serving.gated_model import GatedModel, entered, ones, play, settled


@pytest.mark.parametrize("inline", [False, True])
def test_batcher_gives_every_request_its_own_answer(inline: bool) -> None:
    model = GatedModel()
    order = np.random.default_rng(0).permutation(200).tolist()

    async def scene(batcher: Batcher) -> None:
        async def one(value: int) -> None:
            n, width = 1 + value % 5, 1 + value % 3
            answer = await batcher.submit(ones(n, value + 100, width))
            np.testing.assert_array_equal(answer["y"], np.full((n, width), 2 * value + 200))

        await asyncio.gather(*(one(value) for value in order))

    play(scene, model, inline=inline, max_size=4)
    assert all(len(batch) <= 4 for batch in model.batches)
    assert len(model.batches) < 400


@pytest.mark.parametrize("inline", [False, True])
def test_batcher_runs_at_once_what_arrives_together(inline: bool) -> None:
    model = GatedModel()

    async def scene(batcher: Batcher) -> None:
        await asyncio.gather(*(batcher.submit(ones(1, value)) for value in (1, 2, 3)))
        await batcher.submit(ones(1, 4))

    play(scene, model, inline=inline, max_size=4)
    # A short run does not wait for the end of the turn, unless the turn before had several requests.
    assert model.batches == ([[1], [2, 3], [4]] if inline else [[1, 2, 3], [4]])


def test_batcher_expects_as_many_requests_of_short_runs_as_the_turn_before_had() -> None:
    model = GatedModel()

    async def scene(batcher: Batcher) -> None:
        for together in ((1,), (2, 3), (4, 5), (6,), (7,), (8, 9)):
            await asyncio.gather(*(batcher.submit(ones(1, value)) for value in together))
            await asyncio.sleep(0)

    play(scene, model, inline=True, max_size=4)
    assert model.batches == [[1], [2], [3], [4, 5], [6], [7], [8], [9]]


def test_batcher_gathers_in_order_while_the_model_runs() -> None:
    model = GatedModel(open_gate=False)

    async def scene(batcher: Batcher) -> None:
        first = asyncio.create_task(batcher.submit(ones(1, 0)))
        await entered(model)
        others = [asyncio.create_task(batcher.submit(ones(1, value))) for value in (1, 2, 3, 4, 5)]
        await settled()
        model.gate.set()
        await asyncio.gather(first, *others)

    play(scene, model, max_size=4)
    assert model.batches == [[0], [1, 2, 3, 4], [5]]


def test_batcher_runs_the_earliest_deadline_first() -> None:
    model = GatedModel(open_gate=False)

    async def scene(batcher: Batcher) -> None:
        now = asyncio.get_running_loop().time()
        first = asyncio.create_task(batcher.submit(ones(1, 0)))
        await entered(model)
        deadlines = {1: None, 2: now + 50, 3: now + 20, 4: now + 90}
        others = [asyncio.create_task(batcher.submit(ones(1, value), at)) for value, at in deadlines.items()]
        await settled()
        model.gate.set()
        await asyncio.gather(first, *others)

    play(scene, model, max_size=1, timeout_s=60)
    assert model.batches == [[0], [3], [2], [1], [4]]


@pytest.mark.parametrize(("inline", "here"), [(True, True), (False, False)])
def test_batcher_runs_on_the_loop_or_in_one_thread(inline: bool, here: bool) -> None:
    threads: list[threading.Thread] = []

    def run(tensors: Tensors) -> Tensors:
        threads.append(threading.current_thread())
        return {"y": tensors["x"]}

    async def scene(batcher: Batcher) -> None:
        for value in range(5):
            await batcher.submit(ones(1, value))

    play(scene, run, inline=inline)
    assert len(set(threads)) == 1
    assert (threads[0] is threading.current_thread()) is here


@pytest.mark.parametrize("inline", [False, True])
def test_batcher_cuts_and_joins_a_large_request(inline: bool) -> None:
    model = GatedModel()

    async def scene(batcher: Batcher) -> None:
        answer = await batcher.submit({"x": np.arange(20, 30)[:, None]})
        assert answer["y"][:, 0].tolist() == list(range(40, 60, 2))

    play(scene, model, inline=inline, max_size=4)
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

    play(scene, model, max_size=16, max_pixels=299)
    assert model.batches == [[0], [1, 2], [3], [4, 5], [6]]


def test_batcher_reports_rows_waits_and_seconds_of_each_run() -> None:
    reports: list[tuple[int, int]] = []
    waiting: list[int] = []

    class Observer:
        def batch(self, requests: int, rows: int, waited: Sequence[float], seconds: float) -> None:
            assert len(waited) == requests
            assert all(seconds >= 0 for seconds in waited)
            assert seconds >= 0
            reports.append((rows, requests))

        def queued(self, images: int) -> None:
            waiting.append(images)

    async def scene(batcher: Batcher) -> None:
        await asyncio.gather(batcher.submit(ones(2, 1)), batcher.submit(ones(1, 2)), batcher.submit(ones(6, 3)))

    play(scene, GatedModel(), observer=Observer(), max_size=4)
    assert reports == [(3, 2), (4, 1), (2, 0)]
    assert waiting == [2, 3, 9, 6, 2, 0]


def test_batcher_keeps_nothing_of_abandoned_requests() -> None:
    model, queued = GatedModel(open_gate=False), []

    class Observer:
        def batch(self, requests: int, rows: int, waited: Sequence[float], seconds: float) -> None: ...

        def queued(self, images: int) -> None:
            queued.append(images)

    async def scene(batcher: Batcher) -> None:
        first = asyncio.create_task(batcher.submit(ones(1, 0)))
        await entered(model)
        gone = [asyncio.create_task(batcher.submit(ones(5, value))) for value in range(20)]
        await settled()
        assert queued[-1] == 100
        for task in gone:
            task.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        assert queued[-1] == 0
        model.gate.set()
        await first

    play(scene, model, observer=Observer(), max_size=4)
    assert model.batches == [[0]]


def test_batcher_counts_no_rows_of_failed_requests() -> None:
    made: list[int] = []

    class Observer:
        def batch(self, requests: int, rows: int, waited: Sequence[float], seconds: float) -> None:
            made.append(rows)

        def queued(self, images: int) -> None: ...

    async def scene(batcher: Batcher) -> None:
        submitted = [batcher.submit(ones(2, value)) for value in (1, 13)]
        await asyncio.gather(*submitted, return_exceptions=True)

    play(scene, GatedModel(), observer=Observer(), max_size=4)
    assert made == [2]
