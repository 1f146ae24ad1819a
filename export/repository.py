"""The model repository: artifacts at `<place>/<model>/<version>/`, on a local disk or on an object store."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from export import uploads
from export.aliases import ALIASES_FILE, LATEST, is_alias, parse_aliases
from export.errors import RepositoryError
from export.manifest import MANIFEST_FILE, NAME, VERSION, Manifest
from export.triton import triton_config
from export.uploads import TRITON_FILE, Progress, Upload
from zorse_common.errors import StorageError, first_sentence
from zorse_common.storage import Storage


class Repository:
    """The models of one repository. Every method that reads or writes it raises RepositoryError where it cannot."""

    def __init__(self, place: str, *, now: Callable[[], float] = time.time) -> None:
        """Open the repository at `place`, a local path or a URI, which need not exist yet.

        Raises:
            RepositoryError: it cannot be opened, or is a file.
        """
        self.place = place
        self._now = now
        try:
            self._folder = Storage(place)
            kind = self._folder.kind()
        except StorageError as error:
            raise RepositoryError(str(error)) from error
        except (OSError, ValueError) as error:
            raise RepositoryError(f"repository {place} cannot be opened: {first_sentence(error)}") from error
        if kind == "file":
            raise RepositoryError(f"repository {place} is not a folder: give another place")

    def models(self) -> list[str]:
        """The names of the models that have a version, sorted.

        Raises:
            RepositoryError: there is no repository.
        """
        inside: dict[str, dict[str, float]] = {}
        with self._told("read"):
            if self._folder.kind() == "nothing":
                raise RepositoryError(f"there is no model repository at {self.place}: export a model into it first")
            for path, changed in self._folder.entries().items():
                model, _, rest = path.partition("/")
                inside.setdefault(model, {})[rest] = changed
        return sorted(name for name, entries in inside.items() if NAME.fullmatch(name) and uploads.published(entries))

    def misnamed(self) -> list[str]:
        """Return the names of folders with artifacts that no model can have, which every command skips, sorted."""
        with self._told("read"):
            folders = [name for name in self._folder.folders() if not NAME.fullmatch(name)]
            return [name for name in folders if uploads.published((self._folder / name).entries())]

    def versions(self, model: str) -> list[int]:
        """The published versions of `model`, in order; none where there is no such model.

        Raises:
            RepositoryError: no model can have this name.
        """
        with self._told("read"):
            return uploads.published(self._model(model).entries())

    def latest(self, model: str) -> int:
        """The newest version of `model`.

        Raises:
            RepositoryError: there is no such model.
        """
        return self.resolve(model)[1]

    def aliases(self, model: str) -> dict[str, int]:
        """The aliases of `model`, and the version that each names.

        Raises:
            ManifestError: they break the contract.
        """
        with self._told("read"):
            folder = self._model(model)
            text = folder.read(ALIASES_FILE).decode(errors="replace") if folder.exists(ALIASES_FILE) else "{}"
        return parse_aliases(text, f"{self.place}/{model}/{ALIASES_FILE}")

    def resolve(self, name: str) -> tuple[str, int]:
        """The model and version that `name` means: `model`, `model@latest`, `model@<version>` or `model@<alias>`.

        Raises:
            ManifestError: an alias is wanted, and the aliases break the contract.
            RepositoryError: there is no such model, version or alias.
        """
        model, at, which = name.partition("@")
        versions = self.versions(model)
        if not versions:
            raise RepositoryError(f"{self.place} has no model {model}: it has {', '.join(self.models()) or 'none'}")
        if not at or which == LATEST:
            return model, versions[-1]
        aliases = {} if VERSION.fullmatch(which) else self.aliases(model)
        version = next((number for number in versions if str(number) == which), aliases.get(which))
        if version not in versions:
            named = (f"{alias} ({number})" for alias, number in sorted(aliases.items()))
            raise RepositoryError(
                f"{self.place} has no {name}: {model} has {', '.join([*map(str, versions), *named, LATEST])}"
            )
        return model, version

    def manifest(self, model: str, version: int) -> Manifest:
        """The manifest of a version.

        Raises:
            ManifestError: it breaks the contract.
            RepositoryError: there is no such version, or it has the manifest of another one.
        """
        return self._read_manifest(model, version)[0]

    def add(self, staged: Path, manifest: Manifest) -> int:
        """Make the files of the local folder `staged` the next version of `manifest.name`, and return its number.

        `manifest.files` are the files; its version is set here. Of several callers at once each gets a version of its
        own.

        Raises:
            RepositoryError: no model can have this name, or a file is missing or not what `manifest` says.
        """
        upload = Upload(
            Storage(staged),
            manifest.files,
            lambda version: dataclasses.replace(manifest, version=version).to_json().encode(),
            _silent,
        )
        with self._told("written"):
            folder = self._model(manifest.name)
            version = uploads.publish(folder, None, upload)
            uploads.sweep(folder, self._now())
            try:
                self._configure_triton(manifest.name, version)
            except OSError:
                uploads.withdraw(folder, version)  # an error means that nothing was published
                raise
        return version

    def promote(self, model: str, version: int, alias: str) -> None:
        """Have `alias` name this version, whatever it named before.

        Raises:
            ManifestError: the aliases break the contract.
            RepositoryError: no alias can have this name, or there is no such version.
        """
        _check_alias(alias)
        with self._locked(f"{model}@{version}"):
            self._write_aliases(model, self.aliases(model) | {alias: version})

    def remove_alias(self, model: str, alias: str) -> None:
        """Have `alias` name nothing.

        Raises:
            ManifestError: the aliases break the contract.
            RepositoryError: there is no such alias.
        """
        with self._locked(model):
            aliases = self.aliases(model)
            if alias not in aliases:
                raise RepositoryError(
                    f"{self.place} has no alias {alias} of {model}: it has {', '.join(aliases) or 'none'}"
                )
            del aliases[alias]
            self._write_aliases(model, aliases)

    def delete(self, model: str, version: int) -> None:
        """Remove a version, its manifest first, and with the last one the model's folder.

        Raises:
            ManifestError: the aliases break the contract.
            RepositoryError: there is no such version, or an alias names it.
        """
        with self._locked(f"{model}@{version}"):
            self._delete(model, version)

    def _delete(self, model: str, version: int) -> None:
        named = [alias for alias, number in sorted(self.aliases(model).items()) if number == version]
        if named:
            raise RepositoryError(
                f"{model}@{version} of {self.place} is {' and '.join(named)}: promote another version to that or "
                "delete the alias first"
            )
        with self._told("written"):
            folder = self._model(model)
            uploads.sweep(folder, self._now())
            was_newest = self.versions(model)[-1] == version
            uploads.withdraw(folder, version)
            if was_newest and (left := self.versions(model)):
                self._configure_triton(model, left[-1])

    def copy(
        self, model: str, version: int, other: Repository, *, alias: str | None = None, progress: Progress | None = None
    ) -> int:
        """Copy a version to `other` under its number, which is returned, and have `alias` name it there.

        A version that is there already with the same manifest is left as it is.

        Raises:
            ManifestError: the manifest, or with `alias` the aliases of `other`, break the contract.
            RepositoryError: there is no such version, one of its files is missing or damaged, the number is another
                artifact's in `other`, or no alias can have this name.
        """
        if alias is not None:
            _check_alias(alias)
        manifest, content = self._read_manifest(model, version)
        upload = Upload(self._model(model) / str(version), manifest.files, lambda _: content, progress or _silent)
        with other._told("written"):
            folder = other._model(model)
            if not uploads.is_published(folder, version, content):
                uploads.publish(folder, version, upload)
                uploads.sweep(folder, other._now())
                other._configure_triton(model, version)
        if alias is not None:
            other.promote(model, version, alias)
        return version

    def _model(self, name: str) -> Storage:
        if not NAME.fullmatch(name):
            raise RepositoryError(
                f"model name {name!r} may hold letters, digits, '.', '_' and '-' only, and starts with a letter or "
                "digit"
            )
        return self._folder / name

    def _read_manifest(self, model: str, version: int) -> tuple[Manifest, bytes]:
        self.resolve(f"{model}@{version}")
        where = f"{self.place}/{model}/{version}/{MANIFEST_FILE}"
        with self._told("read"):
            content = self._model(model).read(f"{version}/{MANIFEST_FILE}")
        manifest = Manifest.from_json(content.decode(errors="replace"), where)
        if (manifest.name, manifest.version) != (model, version):
            raise RepositoryError(
                f"{where} is the manifest of {manifest.name}@{manifest.version}: undo the renaming or export again"
            )
        return manifest, content

    def _configure_triton(self, model: str, version: int) -> None:
        """Have the model's `config.pbtxt` describe `version` where that is the newest one, which Triton serves."""
        if self.versions(model)[-1] == version:
            content = triton_config(self.manifest(model, version)).encode()
            uploads.replace(self._model(model), TRITON_FILE, content)

    def _write_aliases(self, model: str, aliases: dict[str, int]) -> None:
        with self._told("written"):
            text = json.dumps(aliases, indent=2, sort_keys=True) + "\n"
            uploads.replace(self._model(model), ALIASES_FILE, text.encode())

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Keep others out of the folder of the model that `name` means, while that is there."""
        model, _ = self.resolve(name)  # what is not there has no folder to lock
        with self._told("written"), uploads.locked(self._model(model)):
            self.resolve(name)
            yield

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RepositoryError(f"repository {self.place} cannot be {what}: {first_sentence(error)}") from error


def _check_alias(alias: str) -> None:
    if not is_alias(alias):
        raise RepositoryError(
            f"alias {alias!r} may hold letters, digits, '.', '_' and '-' only, starts with a letter or digit, and is "
            f"neither a number nor {LATEST!r}"
        )


def _silent(name: str, nbytes: int) -> None:
    """Tell nobody of progress."""
