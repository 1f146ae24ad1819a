"""Brings the files of an artifact onto this machine, and checks them.

Artifacts of object stores are cached. An entry of the cache is a folder named by the SHA-256 of its manifest, which has
the digests of the other files. An entry never changes, so that several processes can share it. Of processes that need
one entry at the same time the first fetches it, and the others wait. Remove the folder `artifacts` to empty the cache.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from export import manifest as contract
from export.manifest import Manifest
from serving.errors import ArtifactError
from zorse_common.cache import cache_folder
from zorse_common.errors import one_line
from zorse_common.storage import Storage


def fetch(folder: Storage, manifest: Manifest, content: bytes) -> Path:
    """Return a local folder with the artifact in `folder`: the same folder if it is on a disk, else a cache entry.

    `content` is that of the file with `manifest`. A missing entry, or one with a missing or damaged file, is fetched.

    Raises:
        ArtifactError: a file is missing or has another digest, or the storage or the disk fails.
    """
    if folder.local is not None:
        _check_files(folder.local, manifest, str(folder.local))
        return folder.local
    entry = cache_folder("artifacts") / contract.digest(content)
    try:
        with _locked(entry.name):
            if not _is_whole(entry, manifest, content):
                _download(folder, manifest, content, entry)
    except OSError as error:
        raise ArtifactError(
            f"{folder.uri} cannot be fetched ({one_line(error)}): check the storage and the disk"
        ) from error
    return entry


@contextlib.contextmanager
def _locked(entry: str) -> Iterator[None]:
    """Hold the lock of an entry of the cache. It ends with the process, however that ends."""
    folder = cache_folder("artifact-locks")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / entry).open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _check_files(folder: Path, manifest: Manifest, place: str) -> None:
    """Raise ArtifactError if a file in `folder` is not the one in `manifest`; messages name `place` as the folder."""
    for name, expected in manifest.files.items():
        if not (folder / name).is_file():
            raise ArtifactError(f"{place}/{name} is missing: export the model again")
        if contract.file_entry(folder / name) != expected:
            raise ArtifactError(
                f"{place}/{name} is not the file that {contract.MANIFEST_FILE} describes (digest mismatch): "
                "it was changed or damaged, export the model again"
            )


def _is_whole(entry: Path, manifest: Manifest, content: bytes) -> bool:
    try:
        _check_files(entry, manifest, str(entry))
        return (entry / contract.MANIFEST_FILE).read_bytes() == content
    except (ArtifactError, OSError):
        return False


def _download(folder: Storage, manifest: Manifest, content: bytes, entry: Path) -> None:
    """Download the files into a folder beside the entry, check their digests, and rename the folder to the entry."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=entry.parent) as work:
        staged = Path(work) / "artifact"
        staged.mkdir()
        for name in manifest.files:
            with (staged / name).open("wb") as file:
                file.writelines(folder.chunks(name))
        _check_files(staged, manifest, folder.uri)
        (staged / contract.MANIFEST_FILE).write_bytes(content)
        with contextlib.suppress(FileNotFoundError):
            os.rename(entry, Path(work) / "damaged")  # noqa: PTH104
        staged.rename(entry)
