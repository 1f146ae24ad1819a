"""Find artifacts in a model repository, check their digests, and load their manifests."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from export import manifest as contract
from export.errors import ManifestError
from export.manifest import Manifest
from serving.errors import ArtifactError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Artifact:
    """A folder with a graph whose digest is the manifest's."""

    path: Path
    manifest: Manifest

    @property
    def model(self) -> Path:
        """The ONNX file."""
        return self.path / contract.MODEL_FILE


def newest_version(model: Path) -> Path | None:
    """The folder with the highest number in `model` that holds a manifest, or None."""
    versions = [entry for entry in model.iterdir() if entry.name.isdecimal() and _is_artifact(entry)]
    return max(versions, key=lambda entry: int(entry.name), default=None)


def find(repository: Path) -> dict[str, Path]:
    """The newest artifact folder of every model in `repository`, by model name (the folder's name), sorted.

    Raises:
        ArtifactError: there is no such folder, it holds no artifact, or a name cannot stand in a URL.
    """
    if not repository.is_dir():
        raise ArtifactError(f"there is no model repository at {repository}: export a model into it first")
    found: dict[str, Path] = {}
    for model in sorted(entry for entry in repository.iterdir() if entry.is_dir()):
        version = newest_version(model)
        if version is None:
            continue
        if not _NAME.fullmatch(model.name):
            raise ArtifactError(
                f"{model.name!r} in {repository} cannot be a model's name in a URL: "
                "rename the folder with letters, digits, '.', '_' and '-'"
            )
        found[model.name] = version
    if not found:
        raise ArtifactError(
            f"{repository} holds no artifact (<model>/<version>/{contract.MANIFEST_FILE}): export a model into it first"
        )
    return found


def load(path: Path) -> Artifact:
    """The artifact at `path`: an artifact folder, or a model folder whose newest version is taken.

    Raises:
        ArtifactError: there is none, its manifest breaks the contract, or the graph is not the one proved.
    """
    if not path.is_dir():
        raise ArtifactError(
            f"there is no artifact at {path}: give an artifact folder or a model folder of a repository"
        )
    if not _is_artifact(path):
        newest = newest_version(path)
        if newest is None:
            raise ArtifactError(f"{path} is not an artifact: it has no {contract.MANIFEST_FILE} and no version folder")
        path = newest
    try:
        artifact = Artifact(path, contract.read_manifest(path))
    except ManifestError as error:
        raise ArtifactError(str(error)) from error
    _check_digest(artifact)
    return artifact


def _is_artifact(path: Path) -> bool:
    return (path / contract.MANIFEST_FILE).is_file()


def _check_digest(artifact: Artifact) -> None:
    if not artifact.model.is_file():
        raise ArtifactError(f"{artifact.model} is missing: export the model again")
    size = artifact.model.stat().st_size
    if size != artifact.manifest.nbytes or contract.file_digest(artifact.model) != artifact.manifest.sha256:
        raise ArtifactError(
            f"{artifact.model} is not the graph that {contract.MANIFEST_FILE} describes "
            f"(digest mismatch, {size} bytes): it was changed or damaged, export the model again"
        )
