"""Files of a run, on a local path or any URI that pyarrow opens (`s3://…`, `gs://…`)."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, Literal, Self

from pyarrow import fs

from trainer.errors import StorageError


class Storage:
    """A folder. Object stores have no rename and no append: files are small and written whole."""

    def __init__(self, uri: str | Path) -> None:
        """Open `uri`; a relative path is taken from the working directory.

        Raises:
            StorageError: its scheme is unknown, or the place is not one for files.
        """
        self.uri = str(uri) if "://" in str(uri) else str(Path(uri).absolute())
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
        self._filesystem.create_dir(path.rsplit("/", 1)[0], recursive=True)
        # An object appears when it is closed; a local file as soon as it is opened, so it is renamed.
        local = isinstance(self._filesystem, fs.LocalFileSystem)
        with self._filesystem.open_output_stream(f"{path}.part" if local else path) as stream:
            stream.write(content)
        if local:
            self._filesystem.move(f"{path}.part", path)

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
    """Writes files in a thread; of several contents for one file that wait, only the newest is written."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="files")
        self._waiting: dict[str, bytes] = {}
        self._writing: list[Future[None]] = []

    def write(self, name: str, content: bytes) -> None:
        """Have the file `name` written soon.

        Raises:
            StorageError: an earlier one could not be written.
        """
        self._raise_failure(only_done=True)
        self._waiting[name] = content
        self._writing.append(self._thread.submit(self._write, name))

    def finish(self) -> None:
        """Wait until all is written. Raises as `write`."""
        self._raise_failure(only_done=False)

    def _write(self, name: str) -> None:
        content = self._waiting.pop(name, None)
        if content is not None:
            self._storage.write(name, content)

    def _raise_failure(self, only_done: bool) -> None:
        ended = [future for future in self._writing if future.done() or not only_done]
        self._writing = [future for future in self._writing if future not in ended]
        try:
            for future in ended:
                future.result()
        except OSError as error:
            raise StorageError(f"{self._storage.uri} cannot be written: {error}") from error
