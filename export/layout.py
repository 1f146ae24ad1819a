"""Reads a model repository on a disk or an object store: a part of the artifact contract.

A model lies at `<repository>/<model>/<version>/manifest.json`: its name fits `manifest.NAME`, versions are numbers from
1 on, and the manifest states the name and number of its folders. A folder with manifests that breaks this rule is
skipped with a reason, and so is a version's folder that has a model file and no manifest, unless a hidden file in it
marks an unfinished upload. Hidden folders, and other folders without manifests two levels down, are ignored.

The file `aliases.json` beside the versions is a JSON object such as {"stable": 3}. Without aliases there is no file.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from pydantic_core import from_json

from export.errors import ExportError, ManifestError, RepositoryError
from export.manifest import MANIFEST_FILE, MODEL_FILE, NAME, VERSION, Manifest
from zorse_common.errors import StorageError, first_sentence, printable
from zorse_common.storage import Storage

NAME_RULE = "may hold letters, digits, '.', '_' and '-' only, and starts with a letter or digit"
"""What `manifest.NAME` demands, for messages."""
ALIASES_FILE = "aliases.json"
LATEST = "latest"
"""Means the newest version; no alias can have this name."""
_NO_MANIFEST = f"it has a {MODEL_FILE} and no {MANIFEST_FILE}: export the model again, or remove the folder"
_ALIAS = re.compile(r"(?!latest$|[0-9]+$)[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass
class Models:
    """The manifests of a repository by model and version, and the reason for each skipped folder.

    Names and versions are in order. The keys of `skipped` are `<model>` or `<model>/<version>`.
    """

    manifests: dict[str, dict[int, Manifest]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


class RepositoryReader:
    """Reads the repository in the folder `storage`, which need not exist yet."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def models(self) -> Models:
        """Read all models and versions; folders that break the rules are skipped with a reason.

        Raises:
            RepositoryError: there is no repository, or it cannot be read.
        """
        numbers, skipped = self.published_models()
        result = Models(skipped=skipped)
        for model, versions_of_model in numbers.items():
            for version in versions_of_model:
                try:
                    result.manifests.setdefault(model, {})[version] = self.read(model, version)[0]
                except ExportError as error:
                    skipped[f"{model}/{version}"] = str(error)
        result.manifests = {model: manifests for model, manifests in result.manifests.items() if manifests}
        return result

    def published_models(self) -> tuple[dict[str, list[int]], dict[str, str]]:
        """Return the published versions of each model, and why other folders are skipped. No manifest is read.

        Names and versions are in order. Keys of the reasons are `<model>` or `<model>/<version>`.

        Raises:
            RepositoryError: there is no repository, or it cannot be read.
        """
        published_numbers: dict[str, list[int]] = {}
        skipped: dict[str, str] = {}
        with self._reading():
            if self.storage.kind() == "nothing":
                raise RepositoryError(
                    f"there is no model repository at {self.storage.uri}: export a model into it first"
                )
            listed = self._listed(skipped)
        for model, folders in sorted(listed.items()):
            if not NAME.fullmatch(model):
                skipped[printable(model)] = f"a model's name {NAME_RULE}: rename the folder"
                continue
            misnamed = [name for name in folders if not VERSION.fullmatch(name)]
            skipped |= {
                printable(f"{model}/{name}"): "versions are called 1, 2, 3, …: rename the folder" for name in misnamed
            }
            if numbers := numbered(folders):
                published_numbers[model] = numbers
        return published_numbers, skipped

    def versions(self, model: str) -> list[int]:
        """Return the published versions of `model` in order; none if there is no such model. No manifest is read.

        Raises:
            RepositoryError: no model can have this name, or the repository cannot be read.
        """
        folder = self.model_folder(model)
        with self._reading():
            return published(folder)

    def aliases(self, model: str) -> dict[str, int]:
        """Return the aliases of `model`, and the version that each names.

        Raises:
            ManifestError: they break the contract.
            RepositoryError: no model can have this name, or the repository cannot be read.
        """
        folder, text = self.model_folder(model), "{}"
        with self._reading(), contextlib.suppress(FileNotFoundError):
            text = folder.read(ALIASES_FILE).decode(errors="replace")
        return _parse_aliases(text, f"{folder.uri}/{ALIASES_FILE}")

    def resolve(self, name: str) -> tuple[str, int]:
        """Return the model and version that `name` means: `model`, or `model@` and a version, an alias or `latest`.

        `latest`, which is also meant without `@`, is the newest published version. No manifest is read for this.

        Raises:
            ManifestError: an alias is wanted, and the aliases break the contract.
            RepositoryError: there is no such model, version or alias.
        """
        model, at, which = name.partition("@")
        numbers = self.versions(model)
        if not numbers:
            known = ", ".join(self.published_models()[0]) or "none"
            raise RepositoryError(f"{self.storage.uri} has no model {model}: it has {known}")
        if not at or which == LATEST:
            return model, numbers[-1]
        named = {} if VERSION.fullmatch(which) else self.aliases(model)
        version = next((number for number in numbers if str(number) == which), named.get(which))
        if version not in numbers:
            words = (f"{alias} ({number})" for alias, number in sorted(named.items()))
            raise RepositoryError(
                f"{self.storage.uri} has no {name}: {model} has {', '.join([*map(str, numbers), *words, LATEST])}"
            )
        return model, version

    def manifest(self, model: str, version: int) -> Manifest:
        """Read the manifest of a version.

        Raises:
            ManifestError: it breaks the contract.
            RepositoryError: there is no such version, or it has the manifest of another one.
        """
        self.resolve(f"{model}@{version}")
        return self.read(model, version)[0]

    def read(self, model: str, version: int) -> tuple[Manifest, bytes]:
        """Read the manifest of a version that is known to be published; also return the content of its file.

        Raises:
            ManifestError: it breaks the contract.
            RepositoryError: it cannot be read, or is the manifest of another version.
        """
        where = f"{self.storage.uri}/{model}/{version}/{MANIFEST_FILE}"
        with self._reading():
            content = (self.storage / model).read(f"{version}/{MANIFEST_FILE}")
        manifest = Manifest.from_json(content.decode(errors="replace"), where)
        if (manifest.name, manifest.version) != (model, version):
            raise RepositoryError(
                f"{where} is the manifest of {manifest.name}@{manifest.version}: undo the renaming or export again"
            )
        return manifest, content

    def model_folder(self, model: str) -> Storage:
        """Return the folder of `model`, which need not exist.

        Raises:
            RepositoryError: no model can have this name.
        """
        if not NAME.fullmatch(model):
            raise RepositoryError(f"model name {printable(model)!r} {NAME_RULE}")
        return self.storage / model

    def _listed(self, skipped: dict[str, str]) -> dict[str, list[str]]:
        """Return the names of the folders with a manifest, by the name of their parent folder.

        Add to `skipped` what cannot be read, and versions that have a model file alone.
        """
        listed: dict[str, list[str]] = {}
        if self.storage.local is None:
            # One request instead of one for each folder.
            files: dict[tuple[str, str], set[str]] = {}
            for path in self.storage.entries():
                match path.split("/"):
                    case [model, version, name]:
                        files.setdefault((model, version), set()).add(name)
            for (model, version), names in files.items():
                if MANIFEST_FILE in names:
                    listed.setdefault(model, []).append(version)
                elif MODEL_FILE in names and not any(name.startswith(".") for name in names):
                    _skip_unpublished(model, version, skipped)
        else:
            for model in self.storage.folders():
                try:
                    listed[model] = _with_manifest(self.storage / model)
                    for version in _with_model_alone(self.storage / model):
                        _skip_unpublished(model, version, skipped)
                except OSError as error:
                    skipped[printable(model)] = f"it cannot be read: {first_sentence(error)}"
        return {model: folders for model, folders in listed.items() if folders and not model.startswith(".")}

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (OSError, StorageError) as error:
            raise RepositoryError(f"repository {self.storage.uri} cannot be read: {first_sentence(error)}") from error


def published(model: Storage) -> list[int]:
    """Return the published versions in a model's folder, in order; none if there is no such folder.

    Raises:
        OSError: the folder cannot be read.
    """
    return numbered(_with_manifest(model))


def numbered(folders: list[str]) -> list[int]:
    """Return the numbers among the names of folders, in order."""
    return sorted(int(name) for name in folders if VERSION.fullmatch(name))


def _with_manifest(model: Storage) -> list[str]:
    """Return the names of the folders with a manifest, without hidden ones; a link to a folder counts as a folder."""
    names: list[str] = []
    if model.local is None:
        paths = [path.split("/") for path in model.entries()]
        names = [parts[0] for parts in paths if parts[1:] == [MANIFEST_FILE]]
    else:
        with contextlib.suppress(FileNotFoundError):  # the folder may have been removed since it was listed
            names = [name for name in model.folders() if model.exists(f"{name}/{MANIFEST_FILE}")]
    return sorted(name for name in names if not name.startswith("."))


def _with_model_alone(model: Storage) -> list[str]:
    """Return the names of the folders of a model on a disk that have a model file and no manifest."""
    return [
        name
        for name in model.folders()
        if not model.exists(f"{name}/{MANIFEST_FILE}") and model.exists(f"{name}/{MODEL_FILE}")
    ]


def _skip_unpublished(model: str, version: str, skipped: dict[str, str]) -> None:
    """Add the folder of a version without a manifest to `skipped`, if its names are those of a version of a model."""
    if NAME.fullmatch(model) and VERSION.fullmatch(version):
        skipped[f"{model}/{version}"] = _NO_MANIFEST


def is_alias(name: str) -> bool:
    """Return whether an alias can have this name: letters, digits, '.', '_' and '-', not a number, not "latest"."""
    return _ALIAS.fullmatch(name) is not None


def _parse_aliases(text: str, where: str) -> dict[str, int]:
    """Return the version that each alias names in `text`, the content of the file `where`."""
    data: object = None
    with contextlib.suppress(ValueError):
        data = from_json(text)
    if not isinstance(data, dict) or not all(is_alias(name) and type(data[name]) is int for name in data):
        raise ManifestError(
            f"{where} is not a JSON object of aliases and version numbers: fix it, or remove it and promote "
            "versions again"
        )
    return data
