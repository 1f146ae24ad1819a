"""A repository and a cluster in memory, for a `Reconciler`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

from serving.artifacts import Artifact, Listing, Published
from serving.errors import ArtifactError, LostProcessError, StartError
from serving.reconcile import Reconciler
from serving.served import Served
from tests.serving.tiny import generator_manifest


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
        self.begun, self.may_go_on = threading.Event(), threading.Event()
        self.may_go_on.set()
        self.cluster: dict[str, int] = {}
        self.told: list[Served] = []
        self.events: list[tuple[str, str | None, int | None]] = []
        self.reconciler = Reconciler(Listing({}, {}), {}, {}, self.look, self.load, self, self.told.append, self.note)

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
        self.begun.set()
        assert self.may_go_on.wait(60)
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

    def publish(self, **models: int) -> None:
        """Make these versions those of the repository."""
        places = {name: Published(f"/r/{name}/{number}", f"{name}{number}") for name, number in models.items()}
        self.listing = Listing(places, {})

    def step(self, **models: int) -> dict[str, int]:
        """Follow a repository with these versions, and return what runs."""
        self.publish(**models)
        self.reconciler.follow()
        return self.runs()

    def runs(self) -> dict[str, int]:
        """Return what runs, which the server has been told."""
        assert {model.name: model.version for model in self.told[-1].models} == self.cluster
        assert self.told[-1].loading == ()
        return dict(self.cluster)
