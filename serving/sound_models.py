"""Finds the models of a repository that can be served."""

from __future__ import annotations

import logging

from serving import artifacts
from serving.artifacts import Artifact, Published
from serving.errors import ArtifactError


def sound_models(repository: str, alias: str | None) -> tuple[dict[str, tuple[Published, Artifact]], dict[str, str]]:
    """Return the sound artifacts of the repository by model, and the reasons for the others, which are logged.

    The versions are those of `alias`, or the newest.

    Raises:
        ArtifactError: there is no sound artifact.
    """
    listing = artifacts.find(repository, alias)
    models: dict[str, tuple[Published, Artifact]] = {}
    skipped = dict(listing.skipped)
    for name, version in listing.models.items():
        try:
            models[name] = version, artifacts.load(version.uri, version.digest)
        except ArtifactError as error:
            skipped[f"{name}/{version.number}"] = str(error)
    if not models:
        reasons = "; ".join(f"skipped {name}: {reason}" for name, reason in skipped.items())
        raise ArtifactError(f"{repository} holds no artifact that can be served; {reasons}")
    for name, reason in skipped.items():
        warn_of(name, repository, reason)
    return models, skipped


def warn_of(name: str, repository: str, reason: str) -> None:
    """Log that a model, or a version of one, is not served."""
    logging.getLogger(__name__).warning("skipped %s of %s: %s", name, repository, reason)
