"""Lists the artifacts of a model repository, checks their digests, and loads their manifests."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export import manifest as contract
from export.errors import ExportError
from export.layout import LATEST, RepositoryReader
from export.manifest import Manifest
from serving.artifact_cache import fetch
from serving.errors import ArtifactError
from zorse_common.errors import StorageError, one_line
from zorse_common.storage import Storage

_MOST_GOLDEN_BYTES = 2**30


@dataclass(frozen=True)
class GoldenSample:
    """The inputs of one model call by name, and the image [batch, height, width, channels] of the proved model."""

    inputs: dict[str, NDArray[Any]]
    image: NDArray[Any]


@dataclass(frozen=True)
class Artifact:
    """A folder with the files that its manifest describes.

    `uri` is where it lies, with the version and not an alias, and `path` a copy on this machine. `repository` is the
    URI of the repository that has it, and `digest` the SHA-256 of its manifest.
    """

    path: Path
    manifest: Manifest
    uri: str
    repository: str | None = None
    digest: str | None = None

    @property
    def model(self) -> Path:
        """The ONNX file."""
        return self.path / contract.MODEL_FILE


@dataclass(frozen=True)
class Published:
    """A version of a model in a repository: where it lies, and the SHA-256 of its manifest, which has all digests."""

    uri: str
    digest: str

    @property
    def model(self) -> str:
        """The name of the model."""
        return self.uri.rsplit("/", 2)[1]

    @property
    def number(self) -> int:
        """The number of the version."""
        return int(self.uri.rpartition("/")[2])

    @property
    def key(self) -> str:
        """The name and the number: `<model>/<version>`."""
        return f"{self.model}/{self.number}"


@dataclass(frozen=True)
class Listing:
    """One version of each model of a repository, by the model's name, and what was skipped.

    The keys of `skipped` are `<model>` or `<model>/<version>`, and the values the reasons.
    """

    models: dict[str, Published]
    skipped: dict[str, str]

    def with_model(self, model: str, other: Listing) -> Listing:
        """Return this listing with what `other` says of `model`."""
        models = {name: version for name, version in self.models.items() if name != model}
        skipped = {key: reason for key, reason in self.skipped.items() if key.partition("/")[0] != model}
        models |= {name: version for name, version in other.models.items() if name == model}
        skipped |= {key: reason for key, reason in other.skipped.items() if key.partition("/")[0] == model}
        return Listing(dict(sorted(models.items())), skipped)


def find(repository: str | os.PathLike[str], alias: str | None = None) -> Listing:
    """Return one artifact folder of every model in `repository`, a path or URI, sorted by name.

    The version is the newest one, or the one that `alias` names. Models without that alias are left out. A model is
    skipped if that version breaks the contract; no older version takes its place.

    Raises:
        ArtifactError: there is no such folder, it has no such artifact, or the version of an alias is missing.
    """
    with _contract_errors(repository):
        reader = RepositoryReader(Storage(os.fspath(repository)))
        published, skipped = reader.published_models()
        listing = Listing({}, skipped)
        for model, versions in published.items():
            if alias in (None, LATEST):
                version = versions[-1]
            elif alias in reader.aliases(model):
                version = reader.resolve(f"{model}@{alias}")[1]
            else:
                continue
            try:
                _, content = reader.read(model, version)
            except ExportError as error:
                skipped[f"{model}/{version}"] = str(error)
            else:
                listing.models[model] = Published((reader.storage / model / str(version)).uri, contract.digest(content))
    if not listing.models:
        missing = f"artifact (<model>/<version>/{contract.MANIFEST_FILE}): export a model into it first"
        if alias not in (None, LATEST):
            missing = f"model with the alias {alias}: give it with zorse models promote"
        reasons = "".join(f"; skipped {name}: {reason}" for name, reason in skipped.items())
        raise ArtifactError(f"{reader.storage.uri} holds no {missing}{reasons}")
    return listing


def load(place: str | os.PathLike[str], digest: str | None = None) -> Artifact:
    """Return the artifact at `place`, a path or URI: an artifact folder, or the newest version of a model folder.

    `<model folder>@<version or alias>` is a version of a model. An artifact at a URI is fetched into the local cache.
    `digest` is the SHA-256 that its manifest must have, if that is known.

    Raises:
        ArtifactError: there is no artifact, its manifest breaks the contract, or a file has another digest.
    """
    with _contract_errors(place):
        folder = Storage(os.fspath(place))
        if not folder.exists(contract.MANIFEST_FILE):
            folder = _version_folder(folder)
        content = folder.read(contract.MANIFEST_FILE)
        if digest not in (None, found := contract.digest(content)):
            raise ArtifactError(
                f"{folder.uri} is not the artifact with the digest {digest}: it was published again, and a new "
                "configuration has to name it"
            )
        manifest = Manifest.from_json(content.decode(errors="replace"), f"{folder.uri}/{contract.MANIFEST_FILE}")
        is_published = (folder.parent.name, folder.name) == (manifest.name, str(manifest.version))
        repository = folder.parent.parent.uri if is_published else None
        return Artifact(fetch(folder, manifest, content), manifest, folder.uri, repository, found)


def _version_folder(model: Storage) -> Storage:
    """Return the folder of a version: the newest one of a model folder, or the one after an `@` in its name."""
    reader, name = RepositoryReader(model.parent), model.name.partition("@")[0]
    if not reader.versions(name):
        raise ArtifactError(
            f"there is no artifact at {model.uri}: give an artifact folder or a model folder of a repository"
        )
    name, version = reader.resolve(model.name)
    reader.read(name, version)  # refuses a renamed folder
    return reader.storage / name / str(version)


@contextlib.contextmanager
def _contract_errors(place: str | os.PathLike[str]) -> Iterator[None]:
    """Turn the errors of reading a repository into ArtifactError."""
    try:
        yield
    except (ExportError, StorageError) as error:
        raise ArtifactError(str(error)) from error
    except OSError as error:
        raise ArtifactError(f"{os.fspath(place)} cannot be read: {one_line(error)}") from error


def golden(artifact: Artifact) -> list[GoldenSample]:
    """Read the golden samples of the artifact.

    Raises:
        ArtifactError: the file breaks the contract.
    """
    path = artifact.path / contract.GOLDEN_FILE
    try:
        # numpy would leave the file open if it is not an archive.
        with path.open("rb") as stream, np.lib.npyio.NpzFile(stream, allow_pickle=False) as arrays:
            assert arrays.zip is not None
            if sum(entry.file_size for entry in arrays.zip.infolist()) > _MOST_GOLDEN_BYTES:
                raise ValueError(f"it is larger than {_MOST_GOLDEN_BYTES // 2**20} MiB")
            return _golden_samples(artifact.manifest, dict(arrays))
    except Exception as error:
        raise ArtifactError(f"{path} breaks the artifact contract ({error}): export the model again") from error


def _golden_samples(manifest: Manifest, arrays: dict[str, NDArray[Any]]) -> list[GoldenSample]:
    """Return the samples in `arrays`.

    Raises:
        ValueError: there are none, one is empty, or the arrays are not those of the model's inputs and output.
    """
    inputs, (output,) = [spec.name for spec in manifest.interface.inputs], manifest.interface.outputs
    count = len(arrays) // (len(inputs) + 1)
    samples = [
        GoldenSample(
            {name: arrays.pop(contract.golden_key("input", number, name)) for name in inputs},
            arrays.pop(contract.golden_key("output", number, output.name)),
        )
        for number in range(count)
    ]
    if arrays:
        raise ValueError(f"it holds the array {next(iter(arrays))}")
    every = [array for sample in samples for array in (*sample.inputs.values(), sample.image)]
    if not every or not all(isinstance(array, np.ndarray) and array.size > 0 for array in every):
        raise ValueError("it holds no samples")
    return samples
