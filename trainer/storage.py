"""Files of a run, on a local path or any URI that pyarrow opens (`s3://…`, `gs://…`)."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, Literal, ParamSpec, Self, TypeVar

from pyarrow import fs

from trainer.errors import StorageError

P = ParamSpec("P")
T = TypeVar("T")


class Storage:
    """A folder. Object stores have no rename and no append: files are small and written whole."""

    def __init__(self, uri: str | Path) -> None:
        """Open `uri`; a relative path is taken from the working directory.

        Raises:
            StorageError: its scheme is unknown, or the place is not one for files.
        """
        self.uri = str(uri) if "://" in str(uri) else str(Path(uri).absolute())
        if not str(uri):
            raise StorageError("an empty place was given: give a folder or a URI")
        if "://" in self.uri and ("?" in self.uri or "#" in self.uri):
            raise StorageError(f"{self.uri}: leave ? and # out; AWS_ENDPOINT_URL names another S3 server")
        if re.fullmatch(r"[a-z0-9]+:/*", str(uri)):
            raise StorageError(f"{self.uri} names no bucket: give one, as in s3://bucket/models")
        try:
            self._filesystem, self._path = fs.FileSystem.from_uri(self.uri)
        except (ValueError, OSError) as error:
            raise StorageError(f"{self.uri} cannot be opened: {' '.join(str(error).split())}") from error

    def __truediv__(self, name: str) -> Self:
        return type(self)(f"{self.uri.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        """The last part of the folder's path."""
        return self.uri.rstrip("/").rsplit("/", 1)[-1]

    def write(self, name: str, content: bytes) -> None:
        """Write the file `name` whole or not at all, making folders on the way."""
        path = f"{self._path}/{name}"
        if not isinstance(self._filesystem, fs.LocalFileSystem):
            # An object appears whole when it is closed, and needs no folder.
            with self._filesystem.open_output_stream(path) as stream:
                stream.write(content)
            return
        part = f"{path}.part"
        self._filesystem.create_dir(path.rsplit("/", 1)[0], recursive=True)
        try:
            with self._filesystem.open_output_stream(part) as stream:
                stream.write(content)
            self._filesystem.move(part, path)
        except OSError:
            with contextlib.suppress(OSError):
                self._filesystem.delete_file(part)
            raise

    def read(self, name: str) -> bytes:
        """The content of the file `name`.

        Raises:
            FileNotFoundError: there is none.
        """
        with self._filesystem.open_input_stream(f"{self._path}/{name}") as stream:
            content: bytes = stream.read()
        return content

    def remove(self, name: str) -> None:
        """Remove the file or folder `name`, if it is there."""
        path = f"{self._path}/{name}"
        kind = self._filesystem.get_file_info(path).type
        if kind == fs.FileType.Directory:
            self._filesystem.delete_dir(path)
        elif kind == fs.FileType.File:
            self._filesystem.delete_file(path)

    def kind(self) -> Literal["folder", "file", "nothing"]:
        """What lies at the URI itself, which need not be a folder."""
        found = self._filesystem.get_file_info(self._path).type
        return "folder" if found == fs.FileType.Directory else "file" if found == fs.FileType.File else "nothing"

    def open_file(self) -> BinaryIO:
        """The file at the URI itself, to read from any place in it."""
        stream: BinaryIO = self._filesystem.open_input_file(self._path)
        return stream

    def tree(self) -> list[str]:
        """The files inside and below, by their path from here."""
        found = self._filesystem.get_file_info(fs.FileSelector(self._path, recursive=True))
        start = len(self._path.rstrip("/")) + 1
        return [info.path[start:] for info in found if info.type == fs.FileType.File]

    def exists(self, name: str) -> bool:
        """Whether the file or folder `name` is there."""
        return bool(self._filesystem.get_file_info(f"{self._path}/{name}").type != fs.FileType.NotFound)

    def folders(self) -> list[str]:
        """The names of the folders inside, sorted."""
        return self._names(fs.FileType.Directory)

    def files(self) -> list[str]:
        """The names of the files inside, sorted."""
        return self._names(fs.FileType.File)

    def _names(self, kind: fs.FileType) -> list[str]:
        found = self._filesystem.get_file_info(fs.FileSelector(self._path, allow_not_found=True))
        return sorted(info.base_name for info in found if info.type == kind)


class BackgroundWriter:
    """Works off what a run leaves for people and for its resume, in one thread and in order, while training goes on."""

    def __init__(self, storage: Storage, warn: Callable[[str], None]) -> None:
        """`warn` is told of files that cannot be written; training does not end for them."""
        self._storage, self._warn = storage, warn
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="files")
        self._waiting: dict[str, bytes] = {}
        self._failing = False

    def write(self, name: str, content: bytes) -> None:
        """Have the file `name` written soon; of several contents that wait for one name, only the newest."""
        self._waiting[name] = content
        self.submit(self._write, name)

    def submit(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have `work` done after all that waits already."""
        return self._thread.submit(work, *args, **kwargs)

    def finish(self) -> None:
        """Wait until all is done."""
        self.submit(lambda: None).result()

    def _write(self, name: str) -> None:
        content = self._waiting.pop(name, None)
        if content is None:
            return
        try:
            self._storage.write(name, content)
            self._failing = False
        except OSError as error:
            if not self._failing:
                self._warn(f"{self._storage.uri}/{name} cannot be written: {error}")
            self._failing = True
