"""Publishes and withdraws versions of a model, so that readers see a whole version or none.

The manifest makes a folder a version. On a disk the version is staged in a hidden folder, which is then renamed. Object
stores have no rename: there the files are written first, beside a mark file that says that they are unfinished, and the
manifest last. The leftovers of a killed upload are never a version; `sweep` removes them once they are a day old, since
until then the upload may still be running.
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

from export.errors import RepositoryError
from export.layout import ALIASES_FILE, published
from export.manifest import MANIFEST_FILE, VERSION, FileEntry
from zorse_common.storage import Storage

TRITON_FILE = "config.pbtxt"
UNFINISHED_AGE = 24 * 60 * 60
"""Seconds without a write after which an upload counts as dead."""
Progress = Callable[[str, int], None]
"""Takes the name of a file and how many more bytes of it were written."""

_STAGING, _MARK = ".staging-", ".unfinished-"


@dataclass(frozen=True)
class Upload:
    """A version that is to be published.

    `files` lie in `source`. `manifest` returns the content of the manifest file for a version number.
    """

    source: Storage
    files: dict[str, FileEntry]
    manifest: Callable[[int], bytes]
    progress: Progress = lambda name, nbytes: None


def is_published(model: Storage, version: int, manifest: bytes) -> bool:
    """Return whether `version` is published with this `manifest`.

    Raises:
        RepositoryError: it is published with another manifest.
    """
    if not model.exists(f"{version}/{MANIFEST_FILE}"):
        return False
    if model.read(f"{version}/{MANIFEST_FILE}") != manifest:
        raise RepositoryError(
            f"{model.uri}/{version} is another artifact with the same number: delete it, or export the model there"
        )
    return True


def publish(model: Storage, number: int | None, upload: Upload) -> int:
    """Publish a version in the folder `model` and return its number: `number`, or if that is None the next free one.

    Raises:
        OSError: the folder cannot be written.
        RepositoryError: a file is not what the manifest says, or another artifact got the number meanwhile.
    """
    if model.local:
        model.local.mkdir(parents=True, exist_ok=True)
        try:
            return _publish_on_disk(model, model.local, number, upload)
        except BaseException:
            with contextlib.suppress(OSError):  # the folder stays if it is not empty
                model.local.rmdir()
            raise
    version = _claim(model, number)
    for name in upload.files:
        _transfer(upload, name, model, f"{version}/{name}")
    if number is not None and is_published(model, number, upload.manifest(number)):
        return version
    model.write(f"{version}/{MANIFEST_FILE}", upload.manifest(version))
    # The mark, and leftovers of an upload that died under this number.
    whole = {f"{version}/{name}" for name in (*upload.files, MANIFEST_FILE)}
    for path in _inside(model, version) - whole:
        model.remove(path)
    return version


def _publish_on_disk(model: Storage, folder: Path, number: int | None, upload: Upload) -> int:
    with _staging(folder) as work:
        # A folder inside the temporary one, which only its owner can read.
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
            # Another process took this number meanwhile, or leftovers lie under it.
            if number is not None:
                if is_published(model, number, upload.manifest(number)):
                    return number
                (folder / str(number)).rename(work / "leftovers")


def _claim(model: Storage, number: int | None) -> int:
    """Reserve a version number by writing a mark file under it, and return the number.

    Two uploads may pick the same number at once. Each writes its mark first and lists the folder then, so at least one
    of them sees the other's mark. An upload that sees other files removes its mark and tries the next number.
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
    """Copy the file `name` to `path`, and compare its digest and size with the manifest's."""
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
    """Remove a version in one step as readers see it; after the last version also remove the model's folder.

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
        # The folder stays if there is more in it, such as a running upload.
        with contextlib.suppress(OSError):
            model.local.rmdir()
    elif entries.keys() <= {ALIASES_FILE, TRITON_FILE}:
        model.delete()


@contextlib.contextmanager
def locked(model: Storage) -> Iterator[None]:
    """Lock the model's folder against other processes that use this function; object stores have no locks.

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
    """Remove the leftovers of uploads that wrote nothing in the day before `now` (seconds since 1970)."""
    inside: dict[str, dict[str, float]] = {}
    for path, changed in model.entries().items():
        top, _, rest = path.partition("/")
        inside.setdefault(top, {})[rest] = changed
    for top, files in inside.items():
        marked = any(name.startswith(_MARK) for name in files) and MANIFEST_FILE not in files
        if (marked or top.startswith(_STAGING)) and now - max(files.values()) > UNFINISHED_AGE:
            # Leftovers do no harm: it is no failure if they cannot be removed.
            with contextlib.suppress(OSError):
                model.remove(top)


def replace(folder: Storage, name: str, content: bytes) -> None:
    """Write the file `name` atomically, also if several processes do so at once.

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
