"""How a version comes into a model's folder of a repository and goes out of it: whole, on disks and on object stores.

A version is published by its manifest. On a disk it is staged in a hidden folder that is renamed. Object stores have no
rename: there the files are written beside a mark that says they are unfinished, and the manifest last. What a killed
upload leaves is never a version; `sweep` removes it once it is a day old, since until then the upload may be going on.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from export.aliases import ALIASES_FILE
from export.errors import RepositoryError
from export.layout import published
from export.manifest import MANIFEST_FILE, VERSION, FileEntry
from zorse_common.storage import Storage

TRITON_FILE = "config.pbtxt"
UNFINISHED_AGE = 24 * 60 * 60
"""Seconds after which an upload that wrote nothing is taken for dead."""
Progress = Callable[[str, int], None]
"""Told the name of a file and how many more bytes of it were written."""

_STAGING, _MARK = ".staging-", ".unfinished-"


@dataclass(frozen=True)
class Upload:
    """A version to be.

    `files` are to be found in `source`, and `manifest` makes the manifest's content for the number that it gets.
    """

    source: Storage
    files: dict[str, FileEntry]
    manifest: Callable[[int], bytes]
    progress: Progress


def is_published(model: Storage, version: int, manifest: bytes) -> bool:
    """Whether `version` is there, and is the one with this `manifest`.

    Raises:
        RepositoryError: it is there with another.
    """
    if not model.exists(f"{version}/{MANIFEST_FILE}"):
        return False
    if model.read(f"{version}/{MANIFEST_FILE}") != manifest:
        raise RepositoryError(
            f"{model.uri}/{version} is another artifact with the same number: delete it, or export the model there"
        )
    return True


def publish(model: Storage, number: int | None, upload: Upload) -> int:
    """Bring a version into `model` under `number`, or else the next one that is free, and return its number.

    Raises:
        OSError: the folder cannot be written.
        RepositoryError: a file is not what the manifest says, or another artifact got the number meanwhile.
    """
    if model.local:
        model.local.mkdir(parents=True, exist_ok=True)
        try:
            return _publish_on_disk(model, model.local, number, upload)
        except BaseException:
            with contextlib.suppress(OSError):  # it stays where there is something in it
                model.local.rmdir()
            raise
    version = _claim(model, number)
    for name in upload.files:
        _transfer(upload, name, model, f"{version}/{name}")
    if number is not None and is_published(model, number, upload.manifest(number)):
        return version
    model.write(f"{version}/{MANIFEST_FILE}", upload.manifest(version))
    # The mark, and what an upload that died under this number left.
    whole = {f"{version}/{name}" for name in (*upload.files, MANIFEST_FILE)}
    for path in _inside(model, version) - whole:
        model.remove(path)
    return version


def _publish_on_disk(model: Storage, folder: Path, number: int | None, upload: Upload) -> int:
    with _staging(folder) as work:
        # A folder of its own: the temporary one is readable for its owner alone.
        staged = work / "artifact"
        staged.mkdir()
        for name in upload.files:
            _transfer(upload, name, Storage(staged), name)
        while True:
            version = number or _next(model)
            (staged / MANIFEST_FILE).write_bytes(upload.manifest(version))
            try:
                staged.rename(folder / str(version))
                return version
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            # Another got this version between the look and the rename, or there are rests under the number.
            if number is not None:
                if is_published(model, number, upload.manifest(number)):
                    return number
                (folder / str(number)).rename(work / "rests")


def _claim(model: Storage, number: int | None) -> int:
    """The version to write to, which has a mark now.

    Of several at once each gets its own: who sees another's files beside the own mark goes on to the next number.
    """
    while True:
        version = number or _next(model)
        mark = f"{version}/{_MARK}{uuid.uuid4().hex}"
        model.write(mark, b"files without a manifest are not finished\n")
        if number is not None or _inside(model, version) == {mark}:
            return version
        model.remove(mark)


def _inside(model: Storage, version: int) -> set[str]:
    return {path for path in model.entries() if path.startswith(f"{version}/")}


def _next(model: Storage) -> int:
    tops = {path.split("/")[0] for path in model.entries()}
    return max((int(name) for name in tops if VERSION.fullmatch(name)), default=0) + 1


def _transfer(upload: Upload, name: str, target: Storage, path: str) -> None:
    """Copy the file `name` to `path`, and see that it is the one that the manifest means."""
    digest, size = hashlib.sha256(), 0

    def watched() -> Iterator[bytes]:
        nonlocal size
        try:
            for chunk in upload.source.chunks(name):
                digest.update(chunk)
                size += len(chunk)
                yield chunk
                upload.progress(name, len(chunk))
        except FileNotFoundError as error:
            raise RepositoryError(f"{upload.source.uri}/{name} is missing: export the model again") from error

    target.write_chunks(path, watched())
    if FileEntry(digest.hexdigest(), size) != upload.files[name]:
        raise RepositoryError(
            f"{upload.source.uri}/{name} is damaged ({size} bytes, not those of its manifest): export the model again"
        )


def withdraw(model: Storage, version: int) -> None:
    """Remove a version, so that it is never seen without one of its files; and the folder after the last one.

    Raises:
        OSError: the folder cannot be written.
    """
    if model.local:
        with _staging(model.local) as work:
            (model.local / str(version)).rename(work / "deleted")
    else:
        model.write(f"{version}/{_MARK}deleted", b"files without a manifest are being deleted\n")
        model.remove(f"{version}/{MANIFEST_FILE}")
        model.remove(str(version))
    if published(model):
        return
    entries = model.entries()
    if model.local:
        for name in (ALIASES_FILE, TRITON_FILE):
            (model.local / name).unlink(missing_ok=True)
        # It stays where there is more in it, such as an upload that is going on.
        with contextlib.suppress(OSError):
            model.local.rmdir()
    elif entries.keys() <= {ALIASES_FILE, TRITON_FILE}:
        model.delete()


@contextlib.contextmanager
def locked(model: Storage) -> Iterator[None]:
    """Keep other processes of this kind out of the model's folder; on object stores, which have no locks, nobody.

    Raises:
        OSError: there is no such folder.
    """
    if model.local is None:
        yield
        return
    descriptor = os.open(model.local, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def sweep(model: Storage, now: float) -> None:
    """Remove what uploads left that wrote nothing for a day before `now`, in seconds since 1970."""
    inside: dict[str, dict[str, float]] = {}
    for path, changed in model.entries().items():
        top, _, rest = path.partition("/")
        inside.setdefault(top, {})[rest] = changed
    for top, files in inside.items():
        marked = any(name.startswith(_MARK) for name in files) and MANIFEST_FILE not in files
        if (marked or top.startswith(_STAGING)) and now - max(files.values()) > UNFINISHED_AGE:
            # Rests are in nobody's way: to leave them again is no failure.
            with contextlib.suppress(OSError):
                model.remove(top)


def replace(folder: Storage, name: str, content: bytes) -> None:
    """Write the file `name` whole or not at all, also when several do so at once.

    Raises:
        OSError: the folder cannot be written.
    """
    if not folder.local:
        folder.write(name, content)
        return
    with _staging(folder.local) as work:
        (work / name).write_bytes(content)
        (work / name).replace(folder.local / name)


@contextlib.contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=_STAGING, dir=folder) as work:
        yield Path(work)
