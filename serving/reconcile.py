"""Makes the running models those of the repository, again and again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from serving.artifacts import Artifact, Listing, Published
from serving.config import ModelSummary
from serving.desired import desired
from serving.errors import ArtifactError, LostProcessError, StartError
from serving.partners import partner_name
from serving.served import Served

_ATTEMPTS = 3
"""How often a version is started whose process dies: the system may have killed it, or the model does."""


class Cluster(Protocol):
    """What runs the models."""

    def run(self, artifact: Artifact, before: Artifact | None) -> None:
        """Start a version beside the one that ran `before`, if any. It takes over once it has proved itself.

        Raises:
            StartError: it did not. The one before runs on.
            LostProcessError: one of its processes died. The one before runs on.
        """

    def stop(self, model: str) -> None:
        """Answer the model's requests in flight, and stop it."""


class Reconciler:
    """Holds what runs, and changes it to what the repository says.

    `look` lists the repository, `load` fetches and checks an artifact at a URI, `tell` informs the rest of the server,
    and `note` writes an event: its name, the model, and fields.
    """

    def __init__(
        self,
        running: Mapping[str, tuple[Published, Artifact]],
        refused: Mapping[str, tuple[Published, str]],
        look: Callable[[], Listing],
        load: Callable[[str], Artifact],
        cluster: Cluster,
        tell: Callable[[Served], None],
        note: Callable[..., None],
    ) -> None:
        self._running, self._refused = dict(running), dict(refused)
        self._look, self._load, self._cluster, self._tell, self._note = look, load, cluster, tell, note
        self._skipped: dict[str, str] = {}
        self._trouble: dict[str, str] = {}
        self._loading: tuple[str, ...] = ()
        self._losses: dict[str, tuple[Published, int]] = {}
        """The version of a model that lost a process when it was started last, and how often in succession."""
        self._unsettled: set[str] = set()
        """The models whose last change did not end, so that it is not known what runs."""

    def step(self) -> None:
        """Look once, and make each change that is needed, one model after another."""
        try:
            listing = self._look()
        except ArtifactError as error:
            # A repository that is out of reach, or empty, does not end the service.
            self._note_once("repository", "repository_unreadable", None, reason=str(error))
            return
        self._trouble.pop("repository", None)
        self._skipped = listing.skipped
        self._refused = {
            model: (version, reason)
            for model, (version, reason) in self._refused.items()
            if listing.models.get(model) == version
        }
        running = {model: version for model, (version, _) in self._running.items()}
        refused = {model: version for model, (version, _) in self._refused.items()}
        wanted = desired(listing, running, refused)
        for model in sorted((running.keys() | self._unsettled) - wanted.keys()):
            self._stop(model)
        for model, version in wanted.items():
            if running.get(model) != version or model in self._unsettled:
                self._update(model, version)
        self._tell(self.served())

    def served(self) -> Served:
        """Return what is served, and why the rest is not."""
        manifests = {model: artifact.manifest for model, (_, artifact) in sorted(self._running.items())}
        partners = {model: partner_name(manifest, manifests.values()) for model, manifest in manifests.items()}
        return Served(
            names=list(manifests),
            models=tuple(
                ModelSummary(name=model, version=manifest.version, kind=manifest.interface.kind)
                for model, manifest in manifests.items()
            ),
            unavailable=self._skipped
            | {f"{model}/{version.number}": reason for model, (version, reason) in self._refused.items()},
            loading=self._loading,
            partners={model: partner for model, partner in partners.items() if partner is not None},
            manifests={model: manifest.to_json() for model, manifest in manifests.items()},
        )

    def _update(self, model: str, version: Published) -> None:
        try:
            artifact = self._load(version.uri)
        except ArtifactError as error:
            # It may still be on its way into the repository: the next look tries again.
            self._skipped = {**self._skipped, f"{model}/{version.number}": str(error)}
            self._note_once(model, "artifact_unreadable", model, version=version.number, reason=str(error))
            return
        self._trouble.pop(model, None)
        before = self._running[model][1] if model in self._running else None
        previous = None if before is None else before.manifest.version
        self._note("update_started", model, version=version.number, previous=previous)
        self._loading = (f"{model}/{version.number}",)
        self._tell(self.served())
        self._unsettled.add(model)
        try:
            self._cluster.run(artifact, before)
        except StartError as error:
            outcome = self._failed(model, version, error)
            self._note(outcome, model, version=version.number, previous=previous, reason=str(error))
        else:
            self._forget(model)
            self._running[model] = version, artifact
            self._note("update_done", model, version=version.number, previous=previous)
        finally:
            self._loading = ()
        self._unsettled.discard(model)

    def _failed(self, model: str, version: Published, error: StartError) -> str:
        """Refuse a version that did not start, unless it is to be tried again, and return the event."""
        last, count = self._losses.get(model, (version, 0))
        count = count + 1 if last == version else 1
        if isinstance(error, LostProcessError) and count < _ATTEMPTS:
            self._losses[model] = version, count
            return "update_interrupted"
        self._forget(model)
        self._refused[model] = version, str(error)
        return "update_refused"

    def _forget(self, model: str) -> None:
        """Forget the failures of a model."""
        self._losses.pop(model, None)
        self._refused.pop(model, None)

    def _stop(self, model: str) -> None:
        version, _ = self._running.pop(model, (None, None))
        self._unsettled.add(model)
        # The gateway answers for the model as soon as it is gone.
        self._tell(self.served())
        self._cluster.stop(model)
        self._unsettled.discard(model)
        self._note("model_stopped", model, version=None if version is None else version.number)

    def _note_once(self, key: str, event: str, model: str | None, **fields: object) -> None:
        """Write an event unless it was the last one of this kind."""
        if self._trouble.get(key) != str(fields):
            self._trouble[key] = str(fields)
            self._note(event, model, **fields)
