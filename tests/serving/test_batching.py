from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest

from serving.batching import Batcher, Tensors, capacity, chunks, group_key, merge, rows, split
from serving.config import Batching
from serving.errors import DeadlineError, EngineError, OverloadedError, ServingError
from tests.serving.fakes import Traced


def ones(n: int, value: int, width: int = 2) -> Tensors:
    return {"x": np.full((n, width), value)}


class Model:
    """Doubles its input; notes every batch; waits at `gate`, and says by `entered` that it does."""

    def __init__(self, open_gate: bool = True) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.entered = threading.Event()
        if open_gate:
            self.gate.set()

    def __call__(self, tensors: Tensors) -> Tensors:
        self.batches.append(tensors["x"].reshape(len(tensors["x"]), -1)[:, 0].tolist())
        self.entered.set()
        assert self.gate.wait(20)
        if (tensors["x"] == 13).any():
            raise EngineError("thirteen")
        return {"y": tensors["x"] * 2}


def play(
    scene: Callable[[Batcher], Coroutine[Any, Any, None]], run: Callable[[Tensors], Tensors], **options: Any
) -> None:
    async def main() -> None:
        batcher = Batcher(run, Batching(**options))
        try:
            await asyncio.wait_for(scene(batcher), 30)
        finally:
            await batcher.close()

    asyncio.run(main())


async def entered(model: Model) -> None:
    assert await asyncio.to_thread(model.entered.wait, 20)
    model.entered.clear()


async def settled() -> None:
    """Let every task that can run do so."""
    for _ in range(20):
        await asyncio.sleep(0)


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
    model = Model()
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
    model = Model(open_gate=False)

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

    play(scene, Model(), max_size=4, max_delay_ms=3_600_000)


def test_batcher_delays_a_single_request_by_the_delay_at_most() -> None:
    async def scene(batcher: Batcher) -> None:
        assert (await batcher.submit(ones(1, 1)))["y"][0, 0] == 2

    play(scene, Model(), max_size=4, max_delay_ms=1)


def test_batcher_cuts_and_joins_a_large_request() -> None:
    model = Model()

    async def scene(batcher: Batcher) -> None:
        answer = await batcher.submit({"x": np.arange(20, 30)[:, None]})
        assert answer["y"][:, 0].tolist() == list(range(40, 60, 2))

    play(scene, model, max_size=4, queue=5)
    assert [len(batch) for batch in model.batches] == [4, 4, 2]


def test_batcher_merges_and_cuts_large_images_by_their_pixels() -> None:
    model = Model(open_gate=False)

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

    play(scene, Model(), max_size=4)
    assert len(traced.threads) >= 2
    assert threading.current_thread() not in traced.threads


def test_batcher_fails_every_request_of_a_failed_batch_and_no_other() -> None:
    model = Model(open_gate=False)

    async def scene(batcher: Batcher) -> None:
        first = asyncio.create_task(batcher.submit(ones(1, 0)))
        await entered(model)
        doomed = [asyncio.create_task(batcher.submit(ones(1, value))) for value in (13, 1)]
        other = asyncio.create_task(batcher.submit(ones(1, 13 + 1, width=3)))
        await settled()
        model.gate.set()
        results = await asyncio.gather(*doomed, return_exceptions=True)
        assert [type(result) for result in results] == [EngineError, EngineError]
        assert results[0] is not results[1]
        assert (await first)["y"][0, 0] == 0
        assert (await other)["y"][0, 0] == 28
        assert (await batcher.submit(ones(1, 5)))["y"][0, 0] == 10

    play(scene, model, max_size=4)


def test_batcher_turns_an_unknown_failure_into_a_serving_error() -> None:
    def broken(tensors: Tensors) -> Tensors:
        raise ZeroDivisionError("oh")

    async def scene(batcher: Batcher) -> None:
        with pytest.raises(ServingError, match="ZeroDivisionError: oh"):
            await batcher.submit(ones(1, 1))

    play(scene, broken)


def test_batcher_drops_the_waiting_parts_of_a_request_with_a_failed_part() -> None:
    model = Model()

    async def scene(batcher: Batcher) -> None:
        with pytest.raises(EngineError):
            await batcher.submit({"x": np.array([[13], [1], [2], [3], [4], [5], [6], [7]])})
        await batcher.submit(ones(1, 99, width=1))

    play(scene, model, max_size=1)
    assert model.batches[0] == [13]
    assert model.batches[-1] == [99]
    assert len(model.batches) <= 3


def test_batcher_drops_cancelled_requests_and_frees_their_place() -> None:
    model = Model(open_gate=False)

    async def scene(batcher: Batcher) -> None:
        first = asyncio.create_task(batcher.submit(ones(1, 0)))
        await entered(model)
        gone = [asyncio.create_task(batcher.submit(ones(1, value))) for value in (1, 2)]
        await settled()
        for task in gone:
            task.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        stays = [asyncio.create_task(batcher.submit(ones(1, value))) for value in (3, 4)]
        await settled()
        model.gate.set()
        await asyncio.gather(first, *stays)

    play(scene, model, queue=2, max_delay_ms=0)
    assert model.batches == [[0], [3, 4]]


def test_batcher_lets_a_running_request_be_cancelled() -> None:
    model = Model(open_gate=False)

    async def scene(batcher: Batcher) -> None:
        first = asyncio.create_task(batcher.submit(ones(1, 0)))
        await entered(model)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        model.gate.set()
        assert (await batcher.submit(ones(1, 1)))["y"][0, 0] == 2

    play(scene, model)


def test_batcher_refuses_at_once_when_the_queue_is_full() -> None:
    model = Model(open_gate=False)

    async def scene(batcher: Batcher) -> None:
        first = asyncio.create_task(batcher.submit(ones(1, 0)))
        await entered(model)
        waits = asyncio.create_task(batcher.submit(ones(3, 1)))
        await settled()
        with pytest.raises(OverloadedError, match="3 images wait already and the limit is 4") as caught:
            await batcher.submit(ones(2, 2))
        assert caught.value.status == 503
        assert caught.value.headers == {"Retry-After": "1"}
        model.gate.set()
        await asyncio.gather(first, waits)

    play(scene, model, queue=4)


def test_batcher_fails_a_request_that_waited_too_long() -> None:
    model = Model(open_gate=False)

    async def scene(batcher: Batcher) -> None:
        first = asyncio.create_task(batcher.submit(ones(1, 0)))
        await entered(model)
        late = asyncio.create_task(batcher.submit(ones(1, 1)))
        await settled()
        deadline = asyncio.get_running_loop().time() + 0.002
        while asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0)
        model.gate.set()
        await first
        with pytest.raises(DeadlineError):
            await late

    play(scene, model, timeout_s=0.001, max_delay_ms=0)
    assert model.batches == [[0]]


@pytest.mark.parametrize("moment", range(8))
def test_batcher_lets_a_late_request_be_cancelled_at_any_moment(moment: int) -> None:
    async def scene(batcher: Batcher) -> None:
        late = asyncio.create_task(batcher.submit(ones(1, 1)))
        await settled()
        deadline = asyncio.get_running_loop().time() + 0.002
        while asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0)
        full = asyncio.create_task(batcher.submit(ones(2, 2)))
        for _ in range(moment):
            await asyncio.sleep(0)
        late.cancel()
        # Whatever the answers are, they come: on a slow machine the others are late too.
        await asyncio.gather(late, full, return_exceptions=True)
        await asyncio.gather(batcher.submit(ones(2, 3)), return_exceptions=True)

    play(scene, Model(), max_size=2, timeout_s=0.001, max_delay_ms=3_600_000)


def test_batcher_replaces_a_dead_worker() -> None:
    class Died(BaseException):
        pass

    def run(tensors: Tensors) -> Tensors:
        if tensors["x"][0, 0] == 13:
            raise Died
        return {"y": tensors["x"] * 2}

    async def scene(batcher: Batcher) -> None:
        with pytest.raises(OverloadedError):
            await batcher.submit(ones(1, 13))
        assert (await batcher.submit(ones(1, 1)))["y"][0, 0] == 2

    play(scene, run)


def test_batcher_close_answers_running_and_waiting_requests() -> None:
    model = Model(open_gate=False)

    async def scene(batcher: Batcher) -> None:
        runs = asyncio.create_task(batcher.submit(ones(1, 1)))
        await entered(model)
        waits = asyncio.create_task(batcher.submit(ones(1, 2)))
        await settled()
        await batcher.close()
        results = await asyncio.gather(runs, waits, return_exceptions=True)
        assert [str(result) for result in results] == ["the server is stopping"] * 2
        model.gate.set()

    play(scene, model)
