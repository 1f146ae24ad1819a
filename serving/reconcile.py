"""Makes the running models those that should run: as the repository says, and as requests ask for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from serving.artifacts import Artifact, Listing, Published
from serving.config import ModelSummary
from serving.desired import desired
from serving.errors import ArtifactError, LostProcessError, NotFoundError, RefusedError, ServingError, StartError
from serving.partners import partner_name
from serving.served import UNLOADED, Served
from zorse_common.errors import printable

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
    """Holds what runs, and changes it to what should run. One thread calls it.

    `listing` is what the repository said when the server started, and `running` what runs of it; `refused` has the
    versions that do not run, and why. `look` lists the repository now, `load` fetches and checks an artifact at a URI,
    `tell` informs the rest of the server, and `note` writes an event: its name, the model, and fields.
    """

    def __init__(
        self,
        listing: Listing,
        running: Mapping[str, tuple[Published, Artifact]],
        refused: Mapping[Published, str],
        look: Callable[[], Listing],
        load: Callable[[str], Artifact],
        cluster: Cluster,
        tell: Callable[[Served], None],
        note: Callable[..., None],
    ) -> None:
        self._listing, self._running, self._refused = listing, dict(running), dict(refused)
        self._look, self._load, self._cluster, self._tell, self._note = look, load, cluster, tell, note
        self._unreadable: dict[Published, str] = {}
        self._unloaded: dict[str, Published | None] = {}
        """The models that were unloaded by requests, and their versions then."""
        self._trouble: dict[str, str] = {}
        self._loading: tuple[str, ...] = ()
        self._losses: dict[str, tuple[Published, int]] = {}
        """The version of a model that lost a process when it was started last, and how often in succession."""
        self._unsettled: set[str] = set()
        """The models whose last change did not end, so that it is not known what runs."""

    def follow(self) -> None:
        """Look at the repository, and make each change that is needed, one model after another."""
        try:
            self._listing = self._look()
        except ArtifactError as error:
            # A repository that is out of reach, or empty, does not end the service.
            self._note_once("repository", "repository_unreadable", None, reason=str(error))
            return
        self._trouble.pop("repository", None)
        self._forget_unnamed()
        self._apply({*self._listing.models, *self._running, *self._unsettled})

    def load(self, model: str) -> None:
        """Run the version of `model` that the repository names now, whether it was refused or unloaded before.

        If that fails, what was before stays.

        Raises:
            NotFoundError: the repository names no version of it.
            RefusedError: the repository cannot be read, or that version is not sound.
        """
        try:
            listing = self._look()
        except ArtifactError as error:
            raise RefusedError(f"{printable(model)} is not loaded: {error}") from error
        version = listing.models.get(model)
        if version is None:
            raise _not_named(model, listing)
        self._listing = self._listing.with_model(model, listing)
        self._forget_unnamed()
        self._refused.pop(version, None)
        was_unloaded, before = model in self._unloaded, self._unloaded.pop(model, None)
        try:
            while self._runs(model) != version and version not in self._refused | self._unreadable:
                self._apply({model})
        finally:
            if was_unloaded and self._runs(model) != version:
                self._unloaded[model] = before
                self._tell(self.served())
        if self._runs(model) != version:
            reason = self._refused.get(version) or self._unreadable[version]
            raise RefusedError(f"{version.key} is not loaded: {reason}")

    def unload(self, model: str) -> None:
        """Stop `model`, which stays away until it is loaded again.

        Raises:
            NotFoundError: there is no such model, neither running nor in the repository.
        """
        skipped = {key.partition("/")[0] for key in self._listing.skipped}
        if model not in {*self._running, *self._unsettled, *self._listing.models, *self._unloaded, *skipped}:
            raise NotFoundError(f"there is no model {printable(model)} on this server")
        self._unloaded.setdefault(model, self._runs(model) or self._listing.models.get(model))
        self._apply({model})

    def served(self) -> Served:
        """Return what is served, and why the rest is not."""
        manifests = {model: artifact.manifest for model, (_, artifact) in sorted(self._running.items())}
        partners = {model: partner_name(manifest, manifests.values()) for model, manifest in manifests.items()}
        reasons = {version.key: reason for version, reason in (self._unreadable | self._refused).items()}
        unloaded = {model if version is None else version.key: UNLOADED for model, version in self._unloaded.items()}
        return Served(
            names=list(manifests),
            models=tuple(
                ModelSummary(name=model, version=manifest.version, kind=manifest.interface.kind)
                for model, manifest in manifests.items()
            ),
            unavailable=self._listing.skipped | reasons | unloaded,
            loading=self._loading,
            partners={model: partner for model, partner in partners.items() if partner is not None},
            manifests={model: manifest.to_json() for model, manifest in manifests.items()},
        )

    def _runs(self, model: str) -> Published | None:
        """Return the version of a model that is known to run."""
        return self._running[model][0] if model in self._running and model not in self._unsettled else None

    def _forget_unnamed(self) -> None:
        """Forget why versions do not run that the repository no longer names."""
        named = set(self._listing.models.values())
        self._refused = {version: reason for version, reason in self._refused.items() if version in named}
        self._unreadable = {version: reason for version, reason in self._unreadable.items() if version in named}

    def _apply(self, models: Collection[str]) -> None:
        """Make the changes that `models` need."""
        running = {model: version for model, (version, _) in self._running.items()}
        wanted = desired(self._listing, running, self._refused, self._unloaded)
        for model in sorted((running.keys() | self._unsettled) & set(models) - wanted.keys()):
            self._stop(model)
        for model, version in wanted.items():
            if model in models and self._runs(model) != version:
                self._update(model, version)
        self._tell(self.served())

    def _update(self, model: str, version: Published) -> None:
        try:
            artifact = self._load(version.uri)
        except ArtifactError as error:
            # It may still be on its way into the repository: the next look tries again.
            self._unreadable[version] = str(error)
            self._note_once(model, "artifact_unreadable", model, version=version.number, reason=str(error))
            return
        self._unreadable.pop(version, None)
        self._trouble.pop(model, None)
        before = self._running[model][1] if model in self._running else None
        previous = None if before is None else before.manifest.version
        self._note("update_started", model, version=version.number, previous=previous)
        self._loading = (version.key,)
        self._tell(self.served())
        self._unsettled.add(model)
        try:
            self._cluster.run(artifact, before)
        except StartError as error:
            outcome = self._failed(model, version, error)
            self._note(outcome, model, version=version.number, previous=previous, reason=str(error))
        else:
            self._losses.pop(model, None)
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
        self._losses.pop(model, None)
        self._refused[version] = str(error)
        return "update_refused"

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


def _not_named(model: str, listing: Listing) -> ServingError:
    """Return the error for a model of which `listing` names no version."""
    reasons = [reason for key, reason in listing.skipped.items() if key.partition("/")[0] == model]
    if reasons:
        return RefusedError(f"{model} is not loaded: {reasons[0]}")
    return NotFoundError(f"there is no model {printable(model)}: the repository has {', '.join(listing.models)}")
