"""Models that are loaded and unloaded by requests: what then runs."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from serving.artifacts import Listing
from serving.errors import ArtifactError, NotFoundError, RefusedError
from tests.serving.world import World


def started(**models: int) -> World:
    """Return a world in which these versions are published and run."""
    world = World()
    world.step(**models)
    world.events.clear()
    return world


def test_load_runs_the_version_that_the_repository_names_now_of_that_model_alone() -> None:
    world = started(a=1, b=1)
    world.publish(a=2, b=2, c=1)
    world.reconciler.load("a")
    assert world.runs() == {"a": 2, "b": 1}
    world.reconciler.load("c")
    assert world.runs() == {"a": 2, "b": 1, "c": 1}


def test_load_of_the_version_that_runs_changes_nothing() -> None:
    world = started(a=1)
    for _ in range(100):
        world.reconciler.load("a")
    assert (world.runs(), world.events) == ({"a": 1}, [])


def test_refused_load_says_why_and_the_old_version_stays() -> None:
    world = started(a=1)
    world.publish(a=2)
    world.bad = {2}
    for _ in range(2):  # it is tried again each time
        with pytest.raises(RefusedError, match="a/2 is not loaded: the golden sample differs"):
            world.reconciler.load("a")
    assert world.runs() == {"a": 1}
    assert world.told[-1].unavailable == {"a/2": "the golden sample differs"}
    assert [event[0] for event in world.events] == ["update_started", "update_refused"] * 2
    world.bad = set()
    world.reconciler.load("a")
    assert (world.runs(), world.told[-1].unavailable) == ({"a": 2}, {})


def test_load_of_what_cannot_be_read_is_refused() -> None:
    world = started(a=1)
    world.publish(a=2)
    world.unreadable = {2}
    with pytest.raises(RefusedError, match="a/2 is not loaded: a file is missing"):
        world.reconciler.load("a")
    world.listing = Listing({}, {"a/3": "no manifest"})
    with pytest.raises(RefusedError, match="a is not loaded: no manifest"):
        world.reconciler.load("a")
    world.listing = ArtifactError("there is no such bucket")
    with pytest.raises(RefusedError, match="a is not loaded: there is no such bucket"):
        world.reconciler.load("a")
    assert world.runs() == {"a": 1}


def test_unloaded_model_stays_away_until_it_is_loaded() -> None:
    world = started(a=1, b=1)
    world.reconciler.unload("a")
    assert (world.runs(), world.told[-1].unavailable) == ({"b": 1}, {"a/1": "unloaded"})
    assert world.step(a=2, b=1) == {"b": 1}
    world.reconciler.unload("a")
    assert world.told[-1].unavailable == {"a/1": "unloaded"}
    world.bad = {2}
    with pytest.raises(RefusedError):
        world.reconciler.load("a")
    assert world.told[-1].unavailable == {"a/1": "unloaded", "a/2": "the golden sample differs"}
    assert world.step(a=3, b=1) == {"b": 1}
    world.reconciler.load("a")
    assert (world.runs(), world.told[-1].unavailable) == ({"a": 3, "b": 1}, {})
    assert world.step(a=4, b=1) == {"a": 4, "b": 1}


def test_last_model_can_be_unloaded() -> None:
    world = started(a=1)
    world.reconciler.unload("a")
    assert world.runs() == {}
    world.reconciler.load("a")
    assert world.runs() == {"a": 1}


def test_model_that_does_not_run_can_be_unloaded() -> None:
    world = started(a=1)
    world.bad = {2}
    world.step(a=1, b=2)
    world.reconciler.unload("b")
    assert world.told[-1].unavailable == {"b/2": "unloaded"}


def test_unknown_models_are_not_found() -> None:
    world = started(a=1)
    with pytest.raises(NotFoundError, match="there is no model x: the repository has a"):
        world.reconciler.load("x")
    with pytest.raises(NotFoundError, match="there is no model x on this server"):
        world.reconciler.unload("x")
    assert world.runs() == {"a": 1}


@pytest.mark.parametrize("moment", ["before", "after"])
def test_request_that_fails_because_of_the_cluster_can_be_repeated(moment: Literal["before", "after"]) -> None:
    world = started(a=1)
    for request in (world.reconciler.unload, world.reconciler.load):
        world.unreachable = moment
        with pytest.raises(ConnectionError):
            request("a")
        world.unreachable = None
        request("a")
        assert world.runs() == ({} if request == world.reconciler.unload else {"a": 1})


def test_load_of_a_version_whose_process_dies_tries_again_and_then_refuses_it() -> None:
    world = started(a=1)
    world.publish(a=2)
    world.deadly = {2}
    with pytest.raises(RefusedError, match="a/2 is not loaded: the actor died"):
        world.reconciler.load("a")
    assert world.runs() == {"a": 1}
    assert [event[0] for event in world.events] == [
        *["update_started", "update_interrupted"] * 2,
        *["update_started", "update_refused"],
    ]


NAMES = st.sampled_from("abc")
MODELS = st.dictionaries(NAMES, st.integers(1, 4))


class AnyOrder(RuleBasedStateMachine):
    """Versions come and go, follows, loads and unloads come in any order, some versions are bad."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.published: dict[str, int] = {}
        self.unloaded: set[str] = set()
        self.world.step()

    @rule(models=MODELS, bad=st.sets(st.integers(1, 4), max_size=2))
    def publish(self, models: dict[str, int], bad: set[int]) -> None:
        self.published, self.world.bad = models, bad
        self.world.publish(**models)

    @rule()
    def follow(self) -> None:
        before = self.world.runs()
        self.world.reconciler.follow()
        for name in self.published.keys() - self.unloaded:
            assert self.world.cluster.get(name) in (self.published[name], before.get(name))
        assert self.world.cluster.keys() <= self.published.keys() - self.unloaded

    @rule(name=NAMES)
    def load(self, name: str) -> None:
        before = self.world.runs()
        try:
            self.world.reconciler.load(name)
        except (NotFoundError, RefusedError):
            assert self.world.cluster == before
        else:
            assert self.world.cluster == before | {name: self.published[name]}
            self.unloaded.discard(name)

    @rule(name=NAMES)
    def unload(self, name: str) -> None:
        before = self.world.runs()
        try:
            self.world.reconciler.unload(name)
        except NotFoundError:
            assert self.world.cluster == before
        else:
            assert self.world.cluster == {key: version for key, version in before.items() if key != name}
            self.unloaded.add(name)

    @invariant()
    def server_knows_what_runs(self) -> None:
        self.world.runs()
        assert not self.unloaded & self.world.cluster.keys()
        states = self.world.told[-1].unavailable
        assert self.unloaded == {key.partition("/")[0] for key, reason in states.items() if reason == "unloaded"}


test_any_order_of_changes_gives_what_was_asked_for = AnyOrder.TestCase
AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
