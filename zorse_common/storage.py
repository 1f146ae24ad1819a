"""Folders of files on a local disk or at any URI that pyarrow opens (`s3://…`, `gs://…`).

Local files are reached through Python's own file functions: pyarrow refuses names that are not UTF-8, and lists the
same files many times through a link to a folder above it. Object stores have no rename and no append: there files are
small and written whole.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal, Self

from pyarrow import fs

from zorse_common.errors import StorageError, one_line

_CHUNK = 8 * 2**20
BROKEN_LINK, NO_FILE = "a link to a missing file", "neither a file nor a folder"
"""The reasons for which an entry that is no folder is left out of a `Tree`."""


@dataclass
class Tree:
    """The files below a folder: `sizes` in bytes and, for entries that are left out, the reasons (`skipped`).

    The keys are paths from the folder, with `/`. A local name that is not UTF-8 has surrogates (`os.fsdecode`).
    """

    sizes: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


class Storage:
    """A folder at a local path or a URI. `kind` and `open_file` also work where the URI names a file."""

    def __init__(self, uri: str | Path) -> None:
        """Open `uri`. A relative path starts at the working directory.

        Raises:
            StorageError: the scheme is unknown, the URI has a query, or it names no bucket.
        """
        self.uri = str(uri) if "://" in str(uri) else str(Path(uri).absolute())
        if not str(uri):
            raise StorageError("the path is empty: give a folder or a URI")
        if "://" in self.uri and ("?" in self.uri or "#" in self.uri):
            raise StorageError(f"{self.uri}: leave ? and # out; AWS_ENDPOINT_URL names another S3 server")
        if re.fullmatch(r"[a-z0-9]+:/*", str(uri)):
            raise StorageError(f"{self.uri} names no bucket: give one, as in s3://bucket/models")
        self.local: Path | None = None if "://" in self.uri else Path(self.uri)
        """The folder's path if it is on a local disk, else None."""
        if self.local is None:
            try:
                self._remote, self._path = fs.FileSystem.from_uri(self.uri)
            except (ValueError, OSError) as error:
                raise StorageError(f"{self.uri} cannot be opened: {one_line(error)}") from error
            if isinstance(self._remote, fs.LocalFileSystem):
                self.local = Path(self._path)

    def __truediv__(self, name: str) -> Self:
        return type(self)(f"{self.uri.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        """The last part of the folder's path."""
        return self.uri.rstrip("/").rsplit("/", 1)[-1]

    @property
    def parent(self) -> Self:
        """The folder that this one is in."""
        return type(self)(self.uri.rstrip("/").removesuffix(f"/{self.name}") or "/")

    def write(self, name: str, content: bytes) -> None:
        """Write the file `name` whole or not at all, and create missing folders above it."""
        if self.local is None:
            # An object becomes visible, whole, when its stream is closed, and needs no folder.
            self.write_chunks(name, iter([content]))
            return
        path = self.local / name
        part = path.with_name(f"{path.name}.part")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_bytes(content)
            part.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise

    def write_chunks(self, name: str, chunks: Iterator[bytes]) -> None:
        """Write the file `name` piece by piece. The folder must exist. After an error a part of the file remains."""
        if self.local is None:
            with self._remote.open_output_stream(f"{self._path}/{name}") as stream:
                for chunk in chunks:
                    stream.write(chunk)
            return
        with (self.local / name).open("wb") as file:
            file.writelines(chunks)

    def read(self, name: str, most: int | None = None) -> bytes:
        """Return the content of the file `name`, or at most its first `most` bytes.

        Raises:
            FileNotFoundError: there is no such file.
        """
        if self.local is not None:
            with (self.local / name).open("rb") as file:
                return file.read(-1 if most is None else most)
        with self._remote.open_input_stream(f"{self._path}/{name}") as stream:
            content: bytes = stream.read(most)
        return content

    def chunks(self, name: str) -> Iterator[bytes]:
        """Yield the content of the file `name` in pieces of at most 8 MiB.

        Raises:
            FileNotFoundError: there is no such file.
        """
        opened = (
            (self.local / name).open("rb")
            if self.local is not None
            else self._remote.open_input_stream(f"{self._path}/{name}")
        )
        with opened as stream:
            while chunk := stream.read(_CHUNK):
                yield chunk

    def remove(self, name: str) -> None:
        """Remove the file or folder `name` if it exists."""
        if self.local is not None:
            _remove(self.local / name)
            return
        path = f"{self._path}/{name}"
        kind = self._remote.get_file_info(path).type
        if kind == fs.FileType.Directory:
            self._remote.delete_dir(path)
        elif kind == fs.FileType.File:
            self._remote.delete_file(path)

    def delete(self) -> None:
        """Remove the folder itself and everything in it."""
        if self.local is not None:
            _remove(self.local)
        else:
            self._remote.delete_dir(self._path)

    def kind(self) -> Literal["folder", "file", "nothing"]:
        """Return what lies at the URI itself."""
        if self.local is not None:
            return "folder" if self.local.is_dir() else "file" if self.local.is_file() else "nothing"
        kind = self._remote.get_file_info(self._path).type
        return "folder" if kind == fs.FileType.Directory else "file" if kind == fs.FileType.File else "nothing"

    def file_facts(self) -> tuple[int, int]:
        """Return the size in bytes of the file at the URI itself, and the time of its last change.

        The time is in nanoseconds since 1970, or 0 if the storage does not know it.

        Raises:
            FileNotFoundError: there is no file.
        """
        if self.local is not None:
            facts = self.local.stat()
            return facts.st_size, facts.st_mtime_ns
        info = self._remote.get_file_info(self._path)
        if info.type != fs.FileType.File:
            raise FileNotFoundError(f"there is no file at {self.uri}")
        return info.size or 0, info.mtime_ns or 0

    def open_file(self) -> BinaryIO:
        """Open the file at the URI itself for reading at any position."""
        if self.local is not None:
            return self.local.open("rb")
        stream: BinaryIO = self._remote.open_input_file(self._path)
        return stream

    def tree(self, depth: int | None = None) -> Tree:
        """List the files inside and below. A link to a folder is followed once, and never back into the tree.

        `depth` is the most parts that the path of a listed file may have; an object store heeds 1 only. On a local
        disk `skipped` has broken links, links to folders that are listed anyway, and unreadable folders.
        """
        if self.local is not None:
            return _local_tree(self.local, depth)
        infos = self._remote.get_file_info(fs.FileSelector(self._path, recursive=depth != 1))
        start = len(self._path.rstrip("/")) + 1
        return Tree({info.path[start:]: info.size or 0 for info in infos if info.type == fs.FileType.File})

    def entries(self) -> dict[str, float]:
        """Map the path of each file and folder inside and below to the time of its last change.

        Times are in seconds since 1970, or 0 if the storage does not know. Entries that disappear meanwhile are left
        out.
        """
        if self.local is not None:
            return dict(_local_entries(self.local))
        selector = fs.FileSelector(self._path, allow_not_found=True, recursive=True)
        start = len(self._path.rstrip("/")) + 1
        return {info.path[start:]: (info.mtime_ns or 0) / 1e9 for info in self._remote.get_file_info(selector)}

    def exists(self, name: str) -> bool:
        """Return whether the file or folder `name` exists."""
        if self.local is not None:
            return (self.local / name).exists()
        return bool(self._remote.get_file_info(f"{self._path}/{name}").type != fs.FileType.NotFound)

    def folders(self) -> list[str]:
        """Return the sorted names of the folders inside, or an empty list if the folder does not exist."""
        return self._names(fs.FileType.Directory)

    def files(self) -> list[str]:
        """Return the sorted names of the files inside, or an empty list if the folder does not exist."""
        return self._names(fs.FileType.File)

    def _names(self, kind: fs.FileType) -> list[str]:
        if self.local is not None:
            if not self.local.is_dir():
                return []
            with os.scandir(self.local) as entries:
                return sorted(entry.name for entry in entries if _is_folder(entry) == (kind == fs.FileType.Directory))
        infos = self._remote.get_file_info(fs.FileSelector(self._path, allow_not_found=True))
        return sorted(info.base_name for info in infos if info.type == kind)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder, or a link to one. Of a link that leads to itself scandir would not say."""
    return Path(entry.path).is_dir() if entry.is_symlink() else entry.is_dir()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _local_entries(root: Path, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield (path, time of the last change) of each file and folder below `root`."""
    try:
        with os.scandir(root) as scanned:
            entries = list(scanned)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        with contextlib.suppress(FileNotFoundError):
            yield f"{prefix}{entry.name}", entry.stat().st_mtime
            if entry.is_dir(follow_symlinks=False):
                yield from _local_entries(Path(entry.path), f"{prefix}{entry.name}/")


def _local_tree(root: Path, depth: int | None) -> Tree:
    tree, top, linked = Tree(), root.resolve(), set[Path]()

    def is_listed_anyway(target: Path, walked: tuple[Path, ...]) -> bool:
        """Return whether the files of `target`, a folder that a link leads to, are in the list without the link.

        `walked` are the folders from the root to the link. They are in the list if `target` is one of `walked` or
        contains one, or if an earlier link led to it or to a folder around it. A visible folder inside the root is
        listed under its own name, too; only a link beside it still counts, as another name for the same images.
        """
        if any(target == folder or target in folder.parents for folder in walked):
            return True
        if any(target == seen or seen in target.parents for seen in linked):
            return True
        visible = top in target.parents and not any(part.startswith(".") for part in target.relative_to(top).parts)
        return visible and target.parent != walked[-1]

    def walk(folder: Path, prefix: str, links: tuple[Path, ...] = ()) -> None:
        try:
            with os.scandir(folder) as scanned:
                entries = sorted(scanned, key=lambda entry: entry.name)
        except OSError as error:
            if not prefix:
                raise
            tree.skipped[prefix.rstrip("/")] = error.strerror or str(error)
            return
        for entry in entries:
            name = f"{prefix}{entry.name}"
            if entry.is_symlink() and not Path(entry.path).exists():
                tree.skipped[name] = BROKEN_LINK
            elif depth is not None and name.count("/") + 1 >= depth and entry.is_dir():
                continue
            elif entry.is_symlink() and entry.is_dir():
                target, walked = Path(entry.path).resolve(), (*links, folder.resolve())
                if is_listed_anyway(target, walked):
                    tree.skipped[name] = "a link to a folder that is read already"
                else:
                    linked.add(target)
                    walk(Path(entry.path), f"{name}/", walked)
            elif entry.is_dir() and links and Path(entry.path).resolve() in linked:
                tree.skipped[name] = "a folder that is read already, through a link"
            elif entry.is_dir():
                walk(Path(entry.path), f"{name}/", links)
            elif entry.is_file():
                tree.sizes[name] = entry.stat().st_size
            else:
                tree.skipped[name] = NO_FILE

    walk(root, "")
    return tree
