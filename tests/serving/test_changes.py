"""Requests for changes of the running models, from the gateway to the thread that makes them, without Ray."""

from __future__ import annotations

import asyncio
import math
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest

from serving.changes import Action, Change, Changes
from serving.errors import (
    DeadlineError,
    InternalError,
    NotFoundError,
    OverloadedError,
    RefusedError,
    ServingError,
    UnavailableError,
    UnsupportedError,
)
from serving.following import keep
from tests.serving.world import World


@pytest.mark.parametrize("error", [None, RefusedError("it is broken"), NotFoundError("there is no model a")])
def test_change_is_answered_by_who_makes_it(error: ServingError | None) -> None:
    async def check() -> None:
        changes = Changes()
        asked = asyncio.create_task(changes.ask("load", "a"))
        change = await changes.take(60)
        assert change is not None
        assert change[1:] == ("load", "a")
        changes.answer("another", None)
        # The error comes from another process.
        changes.answer(change.key, pickle.loads(pickle.dumps(error)))
        if error is None:
            await asked
        else:
            with pytest.raises(type(error), match=str(error)):
                await asked
        assert await changes.take(0) is None

    asyncio.run(check())


def test_change_that_was_lost_on_its_way_is_given_out_again_until_it_is_answered() -> None:
    async def check() -> None:
        changes = Changes()
        asked = [asyncio.create_task(changes.ask("load", name)) for name in "ab"]
        taken = [await changes.take(60) for _ in range(3)]
        assert taken[0] == taken[1] == taken[2]
        assert taken[0] is not None
        changes.answer(taken[0].key, None)
        second = await changes.take(60)
        assert second is not None
        assert second.model == "b"
        changes.answer(second.key, None)
        await asyncio.gather(*asked)

    asyncio.run(check())


def test_changes_are_bounded_in_number_and_time() -> None:
    async def check() -> None:
        changes = Changes(longest_s=0.2)
        await changes.take(0)
        asked = [asyncio.create_task(changes.ask("load", str(k))) for k in range(65)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(answer) for answer in answers] == [DeadlineError] * 64 + [OverloadedError]
        assert "the load of 0 has not ended within 0 s, and goes on" in str(answers[0])
        # An answer that nobody waits for any longer is dropped.
        change = await changes.take(60)
        assert change is not None
        changes.answer(change.key, None)

    asyncio.run(check())


def test_changes_that_wait_are_refused_when_the_server_stops() -> None:
    async def check() -> None:
        changes = Changes()
        waiting = asyncio.create_task(changes.take(60))
        await asyncio.sleep(0)
        asked = [asyncio.create_task(changes.ask("load", str(k))) for k in range(10)]
        assert await waiting is not None
        changes.close()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(answer) for answer in answers} == {UnavailableError}
        with pytest.raises(UnavailableError, match="the server stops"):
            await changes.ask("load", "a")

    asyncio.run(check())


def test_server_without_a_process_of_its_own_changes_no_models() -> None:
    with pytest.raises(UnsupportedError, match="no process of this server loads models"):
        asyncio.run(Changes(first_s=0).ask("load", "a"))


class Loop:
    """Changes in an event loop in a thread, as in the gateway; and what asks and takes from other threads."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.changes = Changes()
        self.failures: list[Exception] = []

    def ask(self, action: Action, model: str) -> Future[None]:
        return asyncio.run_coroutine_threadsafe(self.changes.ask(action, model), self.loop)

    def take(self, seconds: float) -> Change | None:
        if self.failures:
            raise self.failures.pop()
        return asyncio.run_coroutine_threadsafe(self.changes.take(seconds), self.loop).result(60)

    def answer(self, key: str, error: ServingError | None) -> None:
        self.loop.call_soon_threadsafe(self.changes.answer, key, error)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.changes.close)


@pytest.fixture
def gateway() -> Iterator[Loop]:
    gateway = Loop()
    thread = threading.Thread(target=gateway.loop.run_forever)
    thread.start()
    yield gateway
    gateway.loop.call_soon_threadsafe(gateway.loop.stop)
    thread.join(60)
    gateway.loop.close()


def kept(world: World, gateway: Loop, interval: float = math.inf) -> Callable[[], None]:
    """Start the thread that makes changes; return what stops it."""
    stop = threading.Event()
    thread = threading.Thread(target=keep, args=(world.reconciler, gateway, interval, stop, world.note))
    thread.start()

    def end() -> None:
        stop.set()
        gateway.close()
        thread.join(60)
        assert not thread.is_alive()

    return end


def test_changes_of_many_clients_are_made_one_after_another(gateway: Loop) -> None:
    world = World()
    world.step(a=1, b=1)
    world.publish(a=2, b=2)
    end = kept(world, gateway)
    asked = [gateway.ask("load", "a"), gateway.ask("load", "a"), gateway.ask("unload", "a"), gateway.ask("load", "a")]
    asked += [gateway.ask("load", "b") for _ in range(30)]
    for one in asked:
        one.result(60)
    with pytest.raises(NotFoundError):
        gateway.ask("load", "x").result(60)
    end()
    assert world.runs() == {"a": 2, "b": 2}
    done = [event for event in world.events if event[0] in ("update_done", "model_stopped") and event[2] == 2]
    assert done == [
        ("update_done", "a", 2),
        ("model_stopped", "a", 2),
        ("update_done", "a", 2),
        ("update_done", "b", 2),
    ]


def test_failure_inside_is_noted_and_not_shown_to_the_client(gateway: Loop) -> None:
    world = World()
    world.step(a=1)
    end = kept(world, gateway)
    world.unreachable = "before"
    with pytest.raises(InternalError, match=r"^internal error$"):
        gateway.ask("unload", "a").result(60)
    world.unreachable = None
    assert ("change_failed", "a", None) in world.events
    gateway.ask("unload", "a").result(60)
    end()
    assert world.runs() == {}


def test_repository_is_followed_while_the_gateway_is_away_and_while_clients_ask(gateway: Loop) -> None:
    world = World()
    world.step(a=1)
    gateway.failures = [RuntimeError("no gateway")] * 2
    end = kept(world, gateway, 0.05)
    world.publish(a=2)
    while world.cluster != {"a": 2}:
        gateway.ask("load", "nothing").exception(60)
    end()
    assert [event[0] for event in world.events].count("gateway_unreachable") == 1


def test_stop_during_a_load_answers_the_client(gateway: Loop) -> None:
    world = World()
    world.step(a=1)
    world.publish(a=2)
    world.begun.clear()
    world.may_go_on.clear()
    end = kept(world, gateway)
    asked = gateway.ask("load", "a")
    assert world.begun.wait(60)
    gateway.close()
    with pytest.raises(UnavailableError, match="the server stops"):
        asked.result(60)
    world.may_go_on.set()
    end()
