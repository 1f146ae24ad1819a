"""A cache of artifacts from object stores on this machine.

An entry is a folder named by the SHA-256 of its manifest, which has the digests of the other files. An entry never
changes, so that several processes can share it. Remove the folder `artifacts` to empty the cache.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from export import manifest as contract
from export.errors import ManifestError
from export.manifest import Manifest
from serving.errors import ArtifactError
from zorse_common.cache import cache_folder
from zorse_common.errors import one_line
from zorse_common.storage import Storage


def fetch(folder: Storage) -> Path:
    """Return a local folder with the artifact in `folder`: the same folder if it is on a disk, else a cache entry.

    A missing entry, or one with a missing or damaged file, is fetched.

    Raises:
        ArtifactError: the manifest breaks the contract, a file is missing or has another digest, or the disk is full.
    """
    if folder.local is not None:
        return folder.local
    try:
        content = folder.read(contract.MANIFEST_FILE)
        manifest = Manifest.from_json(content.decode(errors="replace"), f"{folder.uri}/{contract.MANIFEST_FILE}")
        entry = cache_folder("artifacts") / contract.digest(content)
        if not _is_whole(entry, manifest, content):
            _download(folder, manifest, content, entry)
    except ManifestError as error:
        raise ArtifactError(str(error)) from error
    except OSError as error:
        raise ArtifactError(
            f"{folder.uri} cannot be fetched ({one_line(error)}): check the storage and the disk"
        ) from error
    return entry


def _is_whole(entry: Path, manifest: Manifest, content: bytes) -> bool:
    try:
        if (entry / contract.MANIFEST_FILE).read_bytes() != content:
            return False
        return all(contract.file_entry(entry / name) == expected for name, expected in manifest.files.items())
    except OSError:
        return False


def _download(folder: Storage, manifest: Manifest, content: bytes, entry: Path) -> None:
    """Download the files into a folder beside the entry, check their digests, and rename the folder to the entry."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=entry.parent) as work:
        staged = Path(work) / "artifact"
        staged.mkdir()
        for name, expected in manifest.files.items():
            with (staged / name).open("wb") as file:
                file.writelines(folder.chunks(name))
            if contract.file_entry(staged / name) != expected:
                raise ArtifactError(
                    f"{folder.uri}/{name} is not the file that {contract.MANIFEST_FILE} describes (digest mismatch): "
                    "it was changed or damaged, export the model again"
                )
        (staged / contract.MANIFEST_FILE).write_bytes(content)
        with contextlib.suppress(FileNotFoundError):
            os.rename(entry, Path(work) / "damaged")  # noqa: PTH104
        try:
            staged.rename(entry)
        except OSError:
            # Another process may have renamed the same entry into place meanwhile.
            if not _is_whole(entry, manifest, content):
                raise
