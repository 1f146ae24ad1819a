"""Find artifacts in a model repository, check their digests, and load their manifests."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export import aliases
from export import manifest as contract
from export.errors import ManifestError
from export.manifest import Manifest
from serving.errors import ArtifactError

_MOST_GOLDEN_BYTES = 2**30
Pair = tuple[NDArray[Any], NDArray[Any]]
"""An input [batch, …], and the image [batch, height, width, channels] that the model made of it."""


@dataclass(frozen=True)
class Artifact:
    """A folder with the files that its manifest describes."""

    path: Path
    manifest: Manifest

    @property
    def model(self) -> Path:
        """The ONNX file."""
        return self.path / contract.MODEL_FILE

    @property
    def digest(self) -> str:
        """The SHA-256 of the ONNX file."""
        return self.manifest.files[contract.MODEL_FILE].sha256


def newest_version(model: Path) -> Path | None:
    """The folder with the highest number in `model` that holds a manifest, or None."""
    versions = [entry for entry in model.iterdir() if contract.VERSION.fullmatch(entry.name) and _is_artifact(entry)]
    return max(versions, key=lambda entry: int(entry.name), default=None)


def aliased_version(model: Path, alias: str) -> Path | None:
    """The folder of the version of `model` that `alias` names, or None where there is no such alias.

    Raises:
        ArtifactError: the aliases break the contract, or the version is not there.
    """
    try:
        version = aliases.read_aliases(model).get(alias)
    except ManifestError as error:
        raise ArtifactError(str(error)) from error
    if version is None:
        return None
    if not _is_artifact(model / str(version)):
        raise ArtifactError(f"{alias} of {model} is version {version}, which is not there: promote another one")
    return model / str(version)


def find(repository: Path, alias: str | None = None) -> dict[str, Path]:
    """One artifact folder of every model in `repository`, by model name (the folder's name), sorted.

    It is the newest version, or the one that `alias` names; models without that alias are left out.

    Raises:
        ArtifactError: there is no such folder, it holds no such artifact, or a name cannot stand in a URL.
    """
    alias = None if alias == aliases.LATEST else alias
    if not repository.is_dir():
        _refuse_uri(repository)
        raise ArtifactError(f"there is no model repository at {repository}: export a model into it first")
    found: dict[str, Path] = {}
    for model in sorted(entry for entry in repository.iterdir() if entry.is_dir()):
        version = newest_version(model) if alias is None else aliased_version(model, alias)
        if version is None:
            continue
        if not contract.NAME.fullmatch(model.name):
            raise ArtifactError(
                f"{model.name!r} in {repository} cannot be a model's name in a URL: "
                "rename the folder with letters, digits, '.', '_' and '-'"
            )
        found[model.name] = version
    if not found and alias is not None:
        raise ArtifactError(f"no model in {repository} has the alias {alias}: give it with zorse models promote")
    if not found:
        raise ArtifactError(
            f"{repository} holds no artifact (<model>/<version>/{contract.MANIFEST_FILE}): export a model into it first"
        )
    return found


def load(path: Path) -> Artifact:
    """The artifact at `path`: an artifact folder, or a model folder whose newest version is taken.

    `<model folder>@<version or alias>` is that version of a model.

    Raises:
        ArtifactError: there is none, its manifest breaks the contract, or a file is not the one that was proved.
    """
    if not path.is_dir() and "@" in path.name:
        path = _named(path)
    if not path.is_dir():
        _refuse_uri(path)
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
    _check_files(artifact)
    return artifact


def _named(path: Path) -> Path:
    """The version that `<model folder>@<version or alias>` names."""
    name, _, version = path.name.rpartition("@")
    if not name or not version:
        raise ArtifactError(f"{path} names no version of a model: write <model folder>@<version or alias>")
    model = path.with_name(name)
    if version.isdecimal() or not model.is_dir():
        return model / version
    found = newest_version(model) if version == aliases.LATEST else aliased_version(model, version)
    if found is None:
        raise ArtifactError(f"{model} has no alias {version}: give it with zorse models promote")
    return found


def _refuse_uri(path: Path) -> None:
    if re.match(r"[a-z0-9]+:/", str(path)):
        raise ArtifactError(f"{path} is no local folder: bring the model to one with zorse models pull first")


def _is_artifact(path: Path) -> bool:
    return (path / contract.MANIFEST_FILE).is_file()


def _check_files(artifact: Artifact) -> None:
    for name, entry in artifact.manifest.files.items():
        path = artifact.path / name
        if not path.is_file():
            raise ArtifactError(f"{path} is missing: export the model again")
        found = contract.file_entry(path)
        if found != entry:
            raise ArtifactError(
                f"{path} is not the file that {contract.MANIFEST_FILE} describes "
                f"(digest mismatch, {found.nbytes} bytes): it was changed or damaged, export the model again"
            )


def golden(artifact: Artifact) -> list[Pair]:
    """Inputs, and what the model made of them when it was proved; none for artifacts of the first schema.

    Raises:
        ArtifactError: the file breaks the contract.
    """
    if contract.GOLDEN_FILE not in artifact.manifest.files:
        return []
    path = artifact.path / contract.GOLDEN_FILE
    try:
        # An open file, so that one that is no archive of arrays is closed too.
        with path.open("rb") as stream, np.lib.npyio.NpzFile(stream, allow_pickle=False) as arrays:
            assert arrays.zip is not None
            if sum(entry.file_size for entry in arrays.zip.infolist()) > _MOST_GOLDEN_BYTES:
                raise ValueError(f"it is larger than {_MOST_GOLDEN_BYTES // 2**20} MiB")
            count = -(-len(arrays.files) // 2)
            samples = [(arrays[f"input_{index}"], arrays[f"output_{index}"]) for index in range(count)]
            every = [array for pair in samples for array in pair]
            if not every or not all(isinstance(array, np.ndarray) and array.size > 0 for array in every):
                raise ValueError("it holds no samples")
            return samples
    except Exception as error:
        raise ArtifactError(f"{path} breaks the artifact contract ({error}): export the model again") from error
