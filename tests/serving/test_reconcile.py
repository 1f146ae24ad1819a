"""What should run, and the steps that make it run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.artifacts import Artifact, Listing, Published
from serving.desired import desired
from serving.errors import ArtifactError, LostProcessError, StartError
from serving.reconcile import Reconciler
from serving.served import Served, ServedNow
from tests.serving.tiny import generator_manifest

NAMES = st.sampled_from("abcd")
VERSIONS = st.builds(lambda number: Published(f"/r/m/{number}", f"digest-{number}"), st.integers(1, 3))
MODELS = st.dictionaries(NAMES, VERSIONS)


@given(MODELS, st.sets(NAMES), MODELS, MODELS)
def test_desired_is_what_the_repository_says_unless_that_is_refused_or_broken(
    found: dict[str, Published], broken: set[str], running: dict[str, Published], refused: dict[str, Published]
) -> None:
    found = {name: version for name, version in found.items() if name not in broken}
    listing = Listing(found, {f"{name}/3": "no manifest" for name in broken})
    wanted = desired(listing, running, refused)
    for name, version in found.items():
        assert wanted.get(name) == (running.get(name) if refused.get(name) == version else version)
    for name in running.keys() - found.keys():
        assert wanted.get(name) == (running[name] if name in broken else None)
    assert wanted.keys() <= found.keys() | running.keys()
    assert desired(listing, wanted, refused) == wanted


class World:
    """A repository and a cluster in memory, which refuses the versions `bad`, and those `deadly` kill their process.

    While it is `unreachable`, a change is made or not, and ends with an error.
    """

    def __init__(self) -> None:
        self.listing: Listing | Exception = Listing({}, {})
        self.bad: set[int] = set()
        self.deadly: set[int] = set()
        self.unreachable: Literal["before", "after"] | None = None
        self.unreadable: set[int] = set()
        self.cluster: dict[str, int] = {}
        self.told: list[Served] = []
        self.events: list[tuple[str, str | None, int | None]] = []
        self.reconciler = Reconciler({}, {}, self.look, self.load, self, self.told.append, self.note)

    def look(self) -> Listing:
        if isinstance(self.listing, Exception):
            raise self.listing
        return self.listing

    def load(self, uri: str) -> Artifact:
        _, name, number = uri.rsplit("/", 2)
        if int(number) in self.unreadable:
            raise ArtifactError("a file is missing")
        return Artifact(Path(uri), generator_manifest(name, int(number)), uri)

    def run(self, artifact: Artifact, before: Artifact | None) -> None:
        name, version = artifact.manifest.name, artifact.manifest.version
        assert self.told[-1].loading == (f"{name}/{version}",)
        if version in self.bad:
            raise StartError("the golden sample differs")
        if version in self.deadly:
            raise LostProcessError("the actor died")
        with self._change():
            self.cluster[name] = version

    def stop(self, model: str) -> None:
        assert model not in self.told[-1].names
        with self._change():
            self.cluster.pop(model, None)

    @contextmanager
    def _change(self) -> Iterator[None]:
        if self.unreachable == "before":
            raise ConnectionError("the controller restarts")
        yield
        if self.unreachable == "after":
            raise ConnectionError("the controller restarts")

    def note(self, event: str, model: str | None, **fields: Any) -> None:
        self.events.append((event, model, fields.get("version")))

    def fail(self, **models: int) -> None:
        """Look at a repository with these versions while the cluster is out of reach."""
        with pytest.raises(ConnectionError):
            self.step(**models)

    def step(self, **models: int) -> dict[str, int]:
        """Look at a repository with these versions, and return what runs."""
        places = {name: Published(f"/r/{name}/{number}", f"{name}{number}") for name, number in models.items()}
        self.listing = Listing(places, {})
        self.reconciler.step()
        assert {model.name: model.version for model in self.told[-1].models} == self.cluster
        assert self.told[-1].loading == ()
        return dict(self.cluster)


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
    world.reconciler.step()
    world.reconciler.step()
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
