"""Files of a run, on a local path or any URI that pyarrow opens (`s3://…`, `gs://…`)."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pyarrow import fs


class Storage:
    """A folder. Object stores have no rename and no append: files are small and written whole."""

    def __init__(self, uri: str | Path) -> None:
        """Open `uri`; a relative path is taken from the working directory."""
        self.uri = str(uri) if "://" in str(uri) else str(Path(uri).absolute())
        self._filesystem, self._path = fs.FileSystem.from_uri(self.uri)

    def __truediv__(self, name: str) -> Self:
        return type(self)(f"{self.uri.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        """The last part of the folder's path."""
        return self.uri.rstrip("/").rsplit("/", 1)[-1]

    def write(self, name: str, content: bytes) -> None:
        """Write the file `name`, making folders on the way."""
        path = f"{self._path}/{name}"
        self._filesystem.create_dir(path.rsplit("/", 1)[0], recursive=True)
        with self._filesystem.open_output_stream(path) as stream:
            stream.write(content)

    def read(self, name: str) -> bytes:
        """The content of the file `name`.

        Raises:
            FileNotFoundError: there is none.
        """
        with self._filesystem.open_input_stream(f"{self._path}/{name}") as stream:
            content: bytes = stream.read()
        return content

    def exists(self, name: str) -> bool:
        """Whether the file or folder `name` is there."""
        return bool(self._filesystem.get_file_info(f"{self._path}/{name}").type != fs.FileType.NotFound)

    def folders(self) -> list[str]:
        """The names of the folders inside, sorted."""
        found = self._filesystem.get_file_info(fs.FileSelector(self._path, allow_not_found=True))
        return sorted(info.base_name for info in found if info.type == fs.FileType.Directory)
