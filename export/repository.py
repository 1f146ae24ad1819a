"""The model repository: artifacts at `<place>/<model>/<version>/`, on a local disk or on an object store."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from export import uploads
from export.errors import RepositoryError
from export.layout import ALIASES_FILE, LATEST, NAME_RULE, RepositoryReader, is_alias
from export.manifest import Manifest
from export.triton import triton_config
from export.uploads import TRITON_FILE, Progress, Upload
from zorse_common.errors import StorageError, first_sentence
from zorse_common.storage import Storage


class Repository(RepositoryReader):
    """The models of one repository. Every method raises RepositoryError if the repository cannot be read or written."""

    def __init__(self, place: str, *, now: Callable[[], float] = time.time) -> None:
        """Open the repository at `place`, a local path or a URI, which need not exist yet.

        Raises:
            RepositoryError: it cannot be opened, or is a file.
        """
        self.place = place
        self._now = now
        try:
            super().__init__(Storage(place))
            kind = self.storage.kind()
        except StorageError as error:
            raise RepositoryError(str(error)) from error
        except (OSError, ValueError) as error:
            raise RepositoryError(f"repository {place} cannot be opened: {first_sentence(error)}") from error
        if kind == "file":
            raise RepositoryError(f"repository {place} is not a folder: give another place")

    def add(self, staged: Path, manifest: Manifest) -> int:
        """Make the files of the local folder `staged` the next version of `manifest.name`, and return its number.

        `manifest.files` are the files; its version is set here. Concurrent callers get different versions.

        Raises:
            RepositoryError: no model can have this name, or a file is missing or not what `manifest` says.
        """
        upload = Upload(
            Storage(staged),
            manifest.files,
            lambda version: dataclasses.replace(manifest, version=version).to_json().encode(),
        )
        with self._write_errors():
            folder = self.model_folder(manifest.name)
            version = uploads.publish(folder, None, upload)
            uploads.sweep(folder, self._now())
            try:
                self._configure_triton(manifest.name, version)
            except OSError:
                uploads.withdraw(folder, version)  # an error means that nothing was published
                raise
        return version

    def promote(self, model: str, version: int, alias: str) -> None:
        """Make `alias` name this version instead of any other.

        Raises:
            ManifestError: the aliases break the contract.
            RepositoryError: no alias can have this name, or there is no such version.
        """
        _check_alias(alias)
        with self._locked(f"{model}@{version}") as folder:
            _write_aliases(folder, self.aliases(model) | {alias: version})

    def remove_alias(self, model: str, alias: str) -> None:
        """Remove `alias`; the version that it names stays.

        Raises:
            ManifestError: the aliases break the contract.
            RepositoryError: there is no such alias.
        """
        with self._locked(model) as folder:
            aliases = self.aliases(model)
            if alias not in aliases:
                raise RepositoryError(
                    f"{self.place} has no alias {alias} of {model}: it has {', '.join(aliases) or 'none'}"
                )
            del aliases[alias]
            _write_aliases(folder, aliases)

    def delete(self, model: str, version: int) -> None:
        """Remove a version, its manifest first, and with the last one the model's folder.

        Raises:
            ManifestError: the aliases break the contract.
            RepositoryError: there is no such version, or an alias names it.
        """
        with self._locked(f"{model}@{version}") as folder:
            named = [alias for alias, number in sorted(self.aliases(model).items()) if number == version]
            if named:
                raise RepositoryError(
                    f"{model}@{version} of {self.place} is {' and '.join(named)}: promote another version to that or "
                    "delete the alias first"
                )
            uploads.sweep(folder, self._now())
            was_newest = self.versions(model)[-1] == version
            uploads.withdraw(folder, version)
            if was_newest and (left := self.versions(model)):
                self._configure_triton(model, left[-1])

    def copy(
        self,
        model: str,
        version: int,
        other: Repository,
        *,
        alias: str | None = None,
        progress: Progress = lambda name, nbytes: None,
    ) -> None:
        """Copy a version to `other` under its number, and make `alias` name it there.

        A version that is there already with the same manifest is left as it is.

        Raises:
            ManifestError: the manifest, or with `alias` the aliases of `other`, break the contract.
            RepositoryError: there is no such version, one of its files is missing or damaged, the number is another
                artifact's in `other`, or no alias can have this name.
        """
        if alias is not None:
            _check_alias(alias)
        self.resolve(f"{model}@{version}")
        manifest, content = self.read(model, version)
        upload = Upload(self.model_folder(model) / str(version), manifest.files, lambda _: content, progress)
        with other._write_errors():
            folder = other.model_folder(model)
            if not uploads.is_published(folder, version, content):
                uploads.publish(folder, version, upload)
                uploads.sweep(folder, other._now())
                other._configure_triton(model, version)
        if alias is not None:
            other.promote(model, version, alias)

    def _configure_triton(self, model: str, version: int) -> None:
        """Write the model's `config.pbtxt` if `version` is the newest one, which is the one that Triton serves."""
        if self.versions(model)[-1] == version:
            content = triton_config(self.manifest(model, version)).encode()
            uploads.replace(self.model_folder(model), TRITON_FILE, content)

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[Storage]:
        """Lock the folder of the model that `name` means, check again that the model is there, and yield the folder."""
        model, _ = self.resolve(name)  # a missing model has no folder to lock
        folder = self.model_folder(model)
        with self._write_errors(), uploads.locked(folder):
            self.resolve(name)
            yield folder

    @contextlib.contextmanager
    def _write_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RepositoryError(f"repository {self.place} cannot be written: {first_sentence(error)}") from error


def _write_aliases(model: Storage, aliases: dict[str, int]) -> None:
    text = json.dumps(aliases, indent=2, sort_keys=True) + "\n"
    uploads.replace(model, ALIASES_FILE, text.encode())


def _check_alias(alias: str) -> None:
    if not is_alias(alias):
        raise RepositoryError(f"alias {alias!r} {NAME_RULE}, and is neither a number nor {LATEST!r}")
