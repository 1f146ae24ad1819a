"""The batcher: failures, cancelled requests and late requests."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from serving.batcher import Batcher
from serving.batching import Tensors
from serving.errors import DeadlineError, EngineError, InternalError
from tests.serving.gated_model import GatedModel, entered, ones, play, settled


@pytest.mark.parametrize("inline", [False, True])
def test_batcher_fails_the_one_bad_request_of_a_batch(inline: bool) -> None:
    model = GatedModel()

    async def scene(batcher: Batcher) -> None:
        submitted = [batcher.submit(ones(1, value)) for value in (1, 13, 2)]
        results = await asyncio.gather(*submitted, return_exceptions=True)
        assert isinstance(results[1], EngineError)
        assert [result["y"][0, 0] for result in (results[0], results[2])] == [2, 4]
        assert (await batcher.submit(ones(1, 5)))["y"][0, 0] == 10

    play(scene, model, inline=inline, max_size=4)
    together = [[1], [13, 2], [13], [2], [5]] if inline else [[1, 13, 2], [1], [13], [2], [5]]
    assert model.batches == together


@pytest.mark.parametrize("inline", [False, True])
def test_batcher_turns_an_unknown_failure_into_an_internal_error(inline: bool) -> None:
    def broken(tensors: Tensors) -> Tensors:
        raise ZeroDivisionError("oh")

    async def scene(batcher: Batcher) -> None:
        with pytest.raises(InternalError, match=r"^internal error$") as caught:
            await batcher.submit(ones(1, 1))
        assert isinstance(caught.value.__cause__, ZeroDivisionError)

    play(scene, broken, inline=inline)


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

    play(scene, model)
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


def test_batcher_fails_a_request_at_its_deadline_although_the_model_runs() -> None:
    model = GatedModel(open_gate=False)

    async def scene(batcher: Batcher) -> None:
        first = asyncio.create_task(batcher.submit(ones(1, 0)))
        await entered(model)
        with pytest.raises(DeadlineError, match=r"there was no answer within 0.01 s"):
            await batcher.submit(ones(1, 1), asyncio.get_running_loop().time() + 0.01)
        model.gate.set()
        await first
        assert (await batcher.submit(ones(1, 2)))["y"][0, 0] == 4

    play(scene, model)
    assert model.batches == [[0], [2]]


@pytest.mark.parametrize("inline", [False, True])
def test_batcher_does_not_run_a_request_whose_deadline_has_passed(inline: bool) -> None:
    model = GatedModel()

    async def scene(batcher: Batcher) -> None:
        with pytest.raises(DeadlineError):
            await batcher.submit(ones(1, 1), asyncio.get_running_loop().time() - 1)
        await batcher.submit(ones(1, 2))

    play(scene, model, inline=inline)
    assert model.batches == [[2]]


def test_batcher_limits_requests_without_a_deadline() -> None:
    model = GatedModel(open_gate=False)

    async def scene(batcher: Batcher) -> None:
        with pytest.raises(DeadlineError):
            await batcher.submit(ones(1, 1))
        model.gate.set()

    play(scene, model, timeout_s=0.01)


@pytest.mark.parametrize("moment", range(8))
def test_batcher_lets_a_request_be_cancelled_at_any_moment(moment: int) -> None:
    async def scene(batcher: Batcher) -> None:
        cancelled = asyncio.create_task(batcher.submit({"x": np.arange(20, 25)[:, None]}))
        other = asyncio.create_task(batcher.submit(ones(2, 2)))
        for _ in range(moment):
            await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        assert (await other)["y"][0, 0] == 4
        assert (await batcher.submit(ones(2, 3)))["y"][0, 0] == 6

    for inline in (False, True):
        play(scene, GatedModel(), inline=inline, max_size=2)


def test_batcher_survives_what_is_no_exception() -> None:
    class Died(BaseException):
        pass

    def run(tensors: Tensors) -> Tensors:
        if tensors["x"][0, 0] == 13:
            raise Died
        return {"y": tensors["x"] * 2}

    async def scene(batcher: Batcher) -> None:
        with pytest.raises(InternalError):
            await batcher.submit(ones(1, 13))
        assert (await batcher.submit(ones(1, 1)))["y"][0, 0] == 2

    play(scene, run)
