"""Reads a model repository on a disk or an object store: a part of the artifact contract.

A model lies at `<repository>/<model>/<version>/manifest.json`: its name fits `manifest.NAME`, versions are numbers from
1 on, and the manifest states the name and number of its folders. A folder with manifests that breaks this rule is
skipped with a reason. Hidden folders, and folders without manifests two levels down, are not models and are ignored.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from export.aliases import ALIASES_FILE, LATEST, parse_aliases
from export.errors import ExportError, RepositoryError
from export.manifest import MANIFEST_FILE, NAME, VERSION, Manifest
from zorse_common.errors import StorageError, first_sentence, printable
from zorse_common.storage import Storage

_NAME_RULE = "may hold letters, digits, '.', '_' and '-' only, and starts with a letter or digit"


@dataclass
class Models:
    """The manifests of a repository by model and version, and the reason for each skipped folder.

    Names and versions are in order. The keys of `skipped` are `<model>` or `<model>/<version>`.
    """

    manifests: dict[str, dict[int, Manifest]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def models(repository: Storage) -> Models:
    """Read all models of `repository` and all their versions.

    Raises:
        RepositoryError: there is no repository, or it cannot be read.
    """
    numbers, skipped = published_models(repository)
    result = Models(skipped=skipped)
    for model, versions_of_model in numbers.items():
        for version in versions_of_model:
            try:
                result.manifests.setdefault(model, {})[version] = read(repository, model, version)[0]
            except ExportError as error:
                skipped[f"{model}/{version}"] = str(error)
    result.manifests = {model: manifests for model, manifests in result.manifests.items() if manifests}
    return result


def published_models(repository: Storage) -> tuple[dict[str, list[int]], dict[str, str]]:
    """Return the published versions of each model, and why other folders are skipped. No manifest is read.

    Names and versions are in order. Keys of the reasons are `<model>` or `<model>/<version>`.

    Raises:
        RepositoryError: there is no repository, or it cannot be read.
    """
    published_numbers: dict[str, list[int]] = {}
    skipped: dict[str, str] = {}
    with _reading(repository):
        if repository.kind() == "nothing":
            raise RepositoryError(f"there is no model repository at {repository.uri}: export a model into it first")
        listed = _listed(repository, skipped)
    for model, folders in sorted(listed.items()):
        if not NAME.fullmatch(model):
            skipped[printable(model)] = f"a model's name {_NAME_RULE}: rename the folder"
            continue
        misnamed = [name for name in folders if not VERSION.fullmatch(name)]
        skipped |= {
            printable(f"{model}/{name}"): "versions are called 1, 2, 3, …: rename the folder" for name in misnamed
        }
        if numbers := numbered(folders):
            published_numbers[model] = numbers
    return published_numbers, skipped


def versions(repository: Storage, model: str) -> list[int]:
    """Return the published versions of `model` in order; none if there is no such model. No manifest is read.

    Raises:
        RepositoryError: no model can have this name, or the repository cannot be read.
    """
    folder = model_folder(repository, model)
    with _reading(repository):
        return published(folder)


def aliases(repository: Storage, model: str) -> dict[str, int]:
    """Return the aliases of `model`, and the version that each names.

    Raises:
        ManifestError: they break the contract.
        RepositoryError: no model can have this name, or the repository cannot be read.
    """
    folder, text = model_folder(repository, model), "{}"
    with _reading(repository), contextlib.suppress(FileNotFoundError):
        text = folder.read(ALIASES_FILE).decode(errors="replace")
    return parse_aliases(text, f"{folder.uri}/{ALIASES_FILE}")


def resolve(repository: Storage, name: str) -> tuple[str, int]:
    """Return the model and version that `name` means: `model`, or `model@` and a version, an alias or `latest`.

    `latest`, which is also meant without `@`, is the newest published version. No manifest is read for this.

    Raises:
        ManifestError: an alias is wanted, and the aliases break the contract.
        RepositoryError: there is no such model, version or alias.
    """
    model, at, which = name.partition("@")
    numbers = versions(repository, model)
    if not numbers:
        known = ", ".join(published_models(repository)[0]) or "none"
        raise RepositoryError(f"{repository.uri} has no model {model}: it has {known}")
    if not at or which == LATEST:
        return model, numbers[-1]
    named = {} if VERSION.fullmatch(which) else aliases(repository, model)
    version = next((number for number in numbers if str(number) == which), named.get(which))
    if version not in numbers:
        words = (f"{alias} ({number})" for alias, number in sorted(named.items()))
        raise RepositoryError(
            f"{repository.uri} has no {name}: {model} has {', '.join([*map(str, numbers), *words, LATEST])}"
        )
    return model, version


def manifest(repository: Storage, model: str, version: int) -> tuple[Manifest, bytes]:
    """Read the manifest of a version; also return the content of its file.

    Raises:
        ManifestError: it breaks the contract.
        RepositoryError: there is no such version, or it has the manifest of another one.
    """
    resolve(repository, f"{model}@{version}")
    return read(repository, model, version)


def read(repository: Storage, model: str, version: int) -> tuple[Manifest, bytes]:
    """Read the manifest of a version that is known to be published; also return the content of its file.

    Raises:
        ManifestError: it breaks the contract.
        RepositoryError: it cannot be read, or is the manifest of another version.
    """
    where = f"{repository.uri}/{model}/{version}/{MANIFEST_FILE}"
    with _reading(repository):
        content = (repository / model).read(f"{version}/{MANIFEST_FILE}")
    manifest = Manifest.from_json(content.decode(errors="replace"), where)
    if (manifest.name, manifest.version) != (model, version):
        raise RepositoryError(
            f"{where} is the manifest of {manifest.name}@{manifest.version}: undo the renaming or export again"
        )
    return manifest, content


def model_folder(repository: Storage, model: str) -> Storage:
    """Return the folder of `model`, which need not exist.

    Raises:
        RepositoryError: no model can have this name.
    """
    if not NAME.fullmatch(model):
        raise RepositoryError(f"model name {printable(model)!r} {_NAME_RULE}")
    return repository / model


def published(model: Storage) -> list[int]:
    """Return the published versions in a model's folder, in order; none if there is no such folder.

    Raises:
        OSError: the folder cannot be read.
    """
    return numbered(_with_manifest(model))


def numbered(folders: list[str]) -> list[int]:
    """Return the numbers among the names of folders, in order."""
    return sorted(int(name) for name in folders if VERSION.fullmatch(name))


def _listed(repository: Storage, skipped: dict[str, str]) -> dict[str, list[str]]:
    """Return the names of the folders with a manifest, by the name of their parent folder."""
    listed: dict[str, list[str]] = {}
    if repository.local is None:
        # One request instead of one for each folder.
        for path in repository.entries():
            match path.split("/"):
                case [model, version, name] if name == MANIFEST_FILE:
                    listed.setdefault(model, []).append(version)
    else:
        for model in repository.folders():
            try:
                listed[model] = _with_manifest(repository / model)
            except OSError as error:
                skipped[printable(model)] = f"it cannot be read: {first_sentence(error)}"
    return {model: folders for model, folders in listed.items() if folders and not model.startswith(".")}


def _with_manifest(model: Storage) -> list[str]:
    """Return the names of the folders with a manifest, without hidden ones; a link to a folder counts as a folder."""
    if model.local is None:
        paths = [path.split("/") for path in model.entries()]
        names = [parts[0] for parts in paths if parts[1:] == [MANIFEST_FILE]]
    else:
        names = [name for name in _folders(model) if model.exists(f"{name}/{MANIFEST_FILE}")]
    return sorted(name for name in names if not name.startswith("."))


def _folders(model: Storage) -> list[str]:
    # The folder may have been removed since it was listed.
    with contextlib.suppress(FileNotFoundError):
        return model.folders()
    return []


@contextlib.contextmanager
def _reading(repository: Storage) -> Iterator[None]:
    try:
        yield
    except (OSError, StorageError) as error:
        raise RepositoryError(f"repository {repository.uri} cannot be read: {first_sentence(error)}") from error
