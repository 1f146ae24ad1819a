"""The partner of a translator: the model that translates back, for verbs on two models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from export.errors import ExportError
from export.feeds import Feeds
from export.interface import Interface
from export.layout import RepositoryReader
from export.manifest import Manifest, reversed_directions
from serving.artifacts import Artifact
from serving.batching import Tensors
from serving.errors import ArtifactError, BadRequestError, UnsupportedError
from zorse_common.errors import StorageError
from zorse_common.storage import Storage


class Partners(Protocol):
    """The other models of a server."""

    @property
    def default(self) -> str | None:
        """The name of the model's partner, if it is known."""

    async def run_all(self, model: str, planned: Sequence[Feeds], seconds: float | None) -> list[Tensors]:
        """Return the outputs of another model, as its `ModelService.run_all` does, within `seconds`.

        Raises:
            NotFoundError: there is no such model.
            ServingError: as `ModelService.run_all` of that model.
        """


def partner_name(manifest: Manifest, others: Iterable[Manifest]) -> str | None:
    """Return the name of the model of `others` that translates back what the model of `manifest` translates, or None.

    Its direction is the reverse one. It is of the same snapshot, or else its name is the same but for the direction.
    """
    names = reversed_directions(manifest.direction or "")
    backward = [other for other in others if other.direction in names]
    for other in backward:
        if other.provenance.digest == manifest.provenance.digest:
            return other.name
    return next((other.name for other in backward if _stem(other) == _stem(manifest)), None)


def no_partner(manifest: Manifest) -> BadRequestError:
    """Return the error for a model whose partner is neither named nor known."""
    return BadRequestError(f"no model is known that translates back what {manifest.name} does: name it with partner")


def partner_place(artifact: Artifact, name: str | None) -> str:
    """Return the URI of the newest version of the partner `name`, or of the default one, in the artifact's repository.

    Raises:
        ArtifactError: the artifact is in no repository, or the repository has no such model.
        BadRequestError: `name` is None and there is no default.
    """
    if artifact.repository is None:
        raise ArtifactError(
            f"{artifact.path} lies in no repository: copy it and its partner to REPOSITORY/MODEL/VERSION"
        )
    reader = RepositoryReader(Storage(artifact.repository))
    try:
        if name is None:
            newest = [versions[max(versions)] for versions in reader.models().manifests.values()]
            name = partner_name(artifact.manifest, newest)
        if name is None:
            raise no_partner(artifact.manifest)
        model, version = reader.resolve(name)
    except (ExportError, StorageError) as error:
        raise ArtifactError(str(error)) from error
    return (reader.storage / model / str(version)).uri


def check_cycle(interface: Interface, partner: Interface) -> None:
    """Compare the images of a translator and its partner.

    Raises:
        UnsupportedError: one cannot take the images of the other, or makes them larger.
    """
    kinds = {(spec.dtype, spec.shape[-1]) for one in (interface, partner) for spec in (one.inputs[0], one.outputs[0])}
    if len(kinds) > 1 or interface.scale * partner.scale > 1:
        raise UnsupportedError(
            "images of the model and its partner differ in size, channels or depth: they do not cycle"
        )


def _stem(manifest: Manifest) -> str:
    return manifest.name.removesuffix(f"-{manifest.direction}")
