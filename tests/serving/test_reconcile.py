"""What should run, and the steps that make it run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.artifacts import Listing, Published
from serving.desired import desired
from serving.errors import ArtifactError
from serving.served import Served, ServedNow
from tests.serving.world import World

NAMES = st.sampled_from("abcd")
VERSIONS = st.builds(lambda number: Published(f"/r/m/{number}", f"digest-{number}"), st.integers(1, 3))
MODELS = st.dictionaries(NAMES, VERSIONS)


@given(MODELS, st.sets(NAMES), MODELS, st.sets(VERSIONS), st.sets(NAMES))
def test_desired_is_what_the_repository_says_unless_that_is_refused_broken_or_unloaded(
    found: dict[str, Published],
    broken: set[str],
    running: dict[str, Published],
    refused: set[Published],
    unloaded: set[str],
) -> None:
    found = {name: version for name, version in found.items() if name not in broken}
    listing = Listing(found, {f"{name}/3": "no manifest" for name in broken})
    wanted = desired(listing, running, refused, unloaded)
    for name in found.keys() - unloaded:
        assert wanted.get(name) == (running.get(name) if found[name] in refused else found[name])
    for name in running.keys() - found.keys() - unloaded:
        assert wanted.get(name) == (running[name] if name in broken else None)
    assert wanted.keys() <= (found.keys() | running.keys()) - unloaded
    assert desired(listing, wanted, refused, unloaded) == wanted


def test_models_come_change_and_go_with_the_repository() -> None:
    world = World()
    assert world.step(a=1) == {"a": 1}
    assert world.step(a=2, b=1) == {"a": 2, "b": 1}
    assert world.step(b=1) == {"b": 1}
    assert [event for event in world.events if event[0] != "update_started"] == [
        ("update_done", "a", 1),
        ("update_done", "a", 2),
        ("update_done", "b", 1),
        ("model_stopped", "a", 2),
    ]


def test_refused_version_is_reported_and_tried_once_until_the_repository_says_another() -> None:
    world = World()
    world.step(a=1)
    world.bad = {2}
    for _ in range(3):
        assert world.step(a=2) == {"a": 1}
    assert world.told[-1].unavailable == {"a/2": "the golden sample differs"}
    second = [event for event in world.events if event[2] == 2]
    assert second == [
        ("update_started", "a", 2),
        ("update_refused", "a", 2),
    ]
    assert world.step(a=1) == {"a": 1}
    assert world.told[-1].unavailable == {}
    assert world.step(a=3) == {"a": 3}
    world.bad = set()
    assert world.step(a=2) == {"a": 2}


def test_version_whose_process_dies_is_tried_again_and_then_refused() -> None:
    world = World()
    world.step(a=1)
    world.deadly = {2, 3}
    assert world.step(a=2) == {"a": 1}
    world.deadly = {3}
    assert world.step(a=2) == {"a": 2}
    for _ in range(4):
        assert world.step(a=3) == {"a": 2}
    assert [event for event, _, version in world.events if version == 3] == [
        *["update_started", "update_interrupted"] * 2,
        "update_started",
        "update_refused",
    ]
    assert world.told[-1].unavailable == {"a/3": "the actor died"}


@pytest.mark.parametrize("moment", ["before", "after"])
def test_change_that_does_not_end_is_made_again(moment: Literal["before", "after"]) -> None:
    world = World()
    world.step(a=1, b=1)
    world.unreachable = moment
    world.fail(a=1)
    world.fail(a=1, c=1)
    world.unreachable = None
    assert world.step(a=1) == {"a": 1}
    assert [event for event, model, _ in world.events if model == "b"][-1] == "model_stopped"


@pytest.mark.parametrize("moment", ["before", "after"])
def test_update_that_does_not_end_and_is_taken_back_leaves_the_old_version(moment: Literal["before", "after"]) -> None:
    world = World()
    world.step(a=1)
    world.unreachable = moment
    world.fail(a=2)
    world.unreachable = None
    assert world.step(a=1) == {"a": 1}
    assert {model.version for model in world.told[-1].models} == {1}


def test_unreadable_artifact_is_tried_again_and_reported_once() -> None:
    world = World()
    world.step(a=1)
    world.unreadable = {2}
    for _ in range(3):
        assert world.step(a=2) == {"a": 1}
    assert world.told[-1].unavailable == {"a/2": "a file is missing"}
    world.unreadable = set()
    assert world.step(a=2) == {"a": 2}
    assert world.told[-1].unavailable == {}
    assert [event[0] for event in world.events if event[2] == 2] == [
        "artifact_unreadable",
        "update_started",
        "update_done",
    ]


def test_repository_out_of_reach_changes_nothing_and_is_reported_once() -> None:
    world = World()
    world.step(a=1)
    world.listing = ArtifactError("there is no such bucket")
    world.reconciler.follow()
    world.reconciler.follow()
    assert world.cluster == {"a": 1}
    assert [event[0] for event in world.events][2:] == ["repository_unreadable"]


def test_processes_see_what_the_server_writes(tmp_path: Path) -> None:
    first, second = Served(names=["a"]), Served(names=["a", "b"], partners={"a": "b"})
    now = ServedNow(first, str(tmp_path))
    assert now() == first
    second.write(str(tmp_path))
    assert now() == second
    first.write(str(tmp_path))
    assert now() == first
