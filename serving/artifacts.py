"""Find artifacts in a model repository, check their digests, and load their manifests."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export import aliases
from export import manifest as contract
from export.errors import ManifestError
from export.manifest import Manifest
from serving.artifact_cache import fetch
from serving.errors import ArtifactError
from zorse_common.errors import StorageError, one_line
from zorse_common.storage import Storage

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


@dataclass(frozen=True)
class Found:
    """The folder of one version of each model of a repository, by the model's name, and why other folders are none."""

    models: dict[str, Storage]
    skipped: dict[str, str]


def newest_version(model: Storage) -> Storage | None:
    """Return the folder with the highest number in `model` that holds a manifest, or None."""
    numbers = sorted((int(name) for name in model.folders() if contract.VERSION.fullmatch(name)), reverse=True)
    return next((model / str(number) for number in numbers if _is_artifact(model / str(number))), None)


def aliased_version(model: Storage, alias: str) -> Storage | None:
    """Return the folder of the version of `model` that `alias` names, or None if there is no such alias.

    Raises:
        ArtifactError: the aliases break the contract, or the version is not there.
    """
    if not model.exists(aliases.ALIASES_FILE):
        return None
    try:
        text = model.read(aliases.ALIASES_FILE).decode(errors="replace")
        version = aliases.parse_aliases(text, f"{model.uri}/{aliases.ALIASES_FILE}").get(alias)
    except ManifestError as error:
        raise ArtifactError(str(error)) from error
    if version is None:
        return None
    if not _is_artifact(model / str(version)):
        raise ArtifactError(f"{alias} of {model.uri} is version {version}, which is not there: promote another one")
    return model / str(version)


def find(repository: str | os.PathLike[str], alias: str | None = None) -> Found:
    """Return one artifact folder of every model in `repository`, a path or URI, sorted by name.

    It is the newest version, or the one that `alias` names; models without that alias are left out. A folder whose name
    no model can have, or that has the manifest of another model, is skipped.

    Raises:
        ArtifactError: there is no such folder, or it holds no such artifact.
    """
    alias = None if alias == aliases.LATEST else alias
    place = _storage(repository)
    if place.kind() != "folder":
        raise ArtifactError(f"there is no model repository at {place.uri}: export a model into it first")
    found = Found({}, {})
    for name in place.folders():
        model = place / name
        version = newest_version(model) if alias is None else aliased_version(model, alias)
        if version is None:
            continue
        if reason := _misplaced(name, version):
            found.skipped[name] = reason
        else:
            found.models[name] = version
    if not found.models:
        raise ArtifactError(f"{place.uri} holds no {_wanted(alias)}{_said(found.skipped)}")
    return found


def _wanted(alias: str | None) -> str:
    if alias is not None:
        return f"model with the alias {alias}: give it with zorse models promote"
    return f"artifact (<model>/<version>/{contract.MANIFEST_FILE}): export a model into it first"


def _said(skipped: dict[str, str]) -> str:
    return "".join(f"; skipped {name}: {reason}" for name, reason in skipped.items())


def _misplaced(name: str, version: Storage) -> str | None:
    """Return why the model folder `name` with this `version` is not a model of that name; None if it is."""
    if not contract.NAME.fullmatch(name):
        return "no model can have this name in a URL: rename the folder with letters, digits, '.', '_' and '-'"
    try:
        manifest = _manifest(version)
    except ArtifactError:
        return None  # whoever loads it says what is wrong
    if manifest.name != name:
        return f"it has the manifest of {manifest.name}: undo the renaming of the folder"
    return None


def load(place: str | os.PathLike[str] | Storage) -> Artifact:
    """Return the artifact at `place`, a path or URI: an artifact folder, or the newest version of a model folder.

    `<model folder>@<version or alias>` is that version of a model. What lies at a URI is fetched into the local cache.

    Raises:
        ArtifactError: there is none, its manifest breaks the contract, or a file is not the one that was proved.
    """
    folder = place if isinstance(place, Storage) else _storage(place)
    if folder.kind() != "folder" and "@" in folder.name:
        folder = _named(folder)
    if folder.kind() != "folder":
        raise ArtifactError(
            f"there is no artifact at {folder.uri}: give an artifact folder or a model folder of a repository"
        )
    if not _is_artifact(folder):
        newest = newest_version(folder)
        if newest is None:
            raise ArtifactError(
                f"{folder.uri} is not an artifact: it has no {contract.MANIFEST_FILE} and no version folder"
            )
        folder = newest
    artifact = Artifact(fetch(folder), _manifest(folder))
    _check_files(artifact)
    return artifact


def _storage(place: str | os.PathLike[str]) -> Storage:
    try:
        return Storage(os.fspath(place))
    except StorageError as error:
        raise ArtifactError(str(error)) from error


def _manifest(folder: Storage) -> Manifest:
    try:
        text = folder.read(contract.MANIFEST_FILE).decode()
        return Manifest.from_json(text, f"{folder.uri}/{contract.MANIFEST_FILE}")
    except ManifestError as error:
        raise ArtifactError(str(error)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(
            f"{folder.uri} is not an artifact: {contract.MANIFEST_FILE} cannot be read ({one_line(error)})"
        ) from error


def _named(folder: Storage) -> Storage:
    """Return the version that `<model folder>@<version or alias>` names."""
    name, _, version = folder.name.rpartition("@")
    if not name or not version:
        raise ArtifactError(f"{folder.uri} names no version of a model: write <model folder>@<version or alias>")
    model = Storage(f"{folder.uri.rstrip('/').removesuffix(folder.name)}{name}")
    if version.isdecimal() or model.kind() != "folder":
        return model / version
    found = newest_version(model) if version == aliases.LATEST else aliased_version(model, version)
    if found is None:
        raise ArtifactError(f"{model.uri} has no alias {version}: give it with zorse models promote")
    return found


def _is_artifact(folder: Storage) -> bool:
    return folder.exists(contract.MANIFEST_FILE)


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
