"""Batching: failures, cancelled requests, full queues and late requests."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from serving.batching import Batcher, Tensors
from serving.errors import DeadlineError, EngineError, OverloadedError, ServingError
from tests.serving.gated_model import GatedModel, entered, ones, play, settled


def test_batcher_fails_every_request_of_a_failed_batch_and_no_other() -> None:
    model = GatedModel(open_gate=False)

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
    model = GatedModel()

    async def scene(batcher: Batcher) -> None:
        with pytest.raises(EngineError):
            await batcher.submit({"x": np.array([[13], [1], [2], [3], [4], [5], [6], [7]])})
        await batcher.submit(ones(1, 99, width=1))

    play(scene, model, max_size=1)
    assert model.batches[0] == [13]
    assert model.batches[-1] == [99]
    assert len(model.batches) <= 3


def test_batcher_drops_cancelled_requests_and_frees_their_place() -> None:
    model = GatedModel(open_gate=False)

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
    model = GatedModel(open_gate=False)

    async def scene(batcher: Batcher) -> None:
        first = asyncio.create_task(batcher.submit(ones(1, 0)))
        await entered(model)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        model.gate.set()
        assert (await batcher.submit(ones(1, 1)))["y"][0, 0] == 2

    play(scene, model)


def test_batcher_refuses_at_once_when_the_queue_is_full() -> None:
    model = GatedModel(open_gate=False)

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
    model = GatedModel(open_gate=False)

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

    play(scene, GatedModel(), max_size=2, timeout_s=0.001, max_delay_ms=3_600_000)


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
    model = GatedModel(open_gate=False)

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
