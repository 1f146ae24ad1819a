"""Images in a column of a Parquet file, as `datasets` stores them: image files as bytes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

import pyarrow
from pyarrow import parquet, types

from serving.batch.sources.base import SOURCES, Entry, Listing, ReadEntry, Source
from serving.errors import BatchError
from zorse_common.errors import one_line
from zorse_common.storage import Storage

_HELD_GROUPS = 2
"""How many row groups, of all files, are held in memory."""


def entries(place: str) -> Listing:
    """List the rows of the Parquet file `place` as image files. The size of an image is not known before it is read.

    A row is called as its `path` says, where the column of images is a struct of `bytes` and `path`, or by its number.

    Raises:
        BatchError: the file is damaged, or has no column of image files, or several.
    """
    try:
        with Storage(place).open_file() as stream, parquet.ParquetFile(stream) as file:
            column = _image_column(place, file.schema_arrow)
            return Listing(list(_rows(place, file, column)))
    except (pyarrow.ArrowException, OSError) as error:
        raise BatchError(f"{place} cannot be read as a Parquet file ({one_line(error)})") from error


def _rows(place: str, file: parquet.ParquetFile, column: str) -> Iterator[Entry]:
    has_paths = _paths_column(file.schema_arrow, column)
    number = 0
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        paths: list[str | None] = [None] * rows
        if has_paths:
            paths = file.read_row_group(group, [f"{column}.path"]).column(0).combine_chunks().field("path").to_pylist()
        for row, path in enumerate(paths):
            name = path or f"{PurePosixPath(place).stem}-{number:06d}"
            yield Entry(name, 0, "parquet", place, column, (group, row))
            number += 1


def _image_column(place: str, schema: pyarrow.Schema) -> str:
    """Return the name of the column with image files: binary, or a struct with a binary field `bytes`."""
    names = [
        column.name
        for column in schema
        if _is_binary(column.type)
        or (types.is_struct(column.type) and any(f.name == "bytes" and _is_binary(f.type) for f in column.type))
    ]
    if len(names) != 1:
        image_columns = ", ".join(names) or "none"
        raise BatchError(
            f"{place} needs one column with the bytes of image files and has {image_columns}: drop the others"
        )
    name: str = names[0]
    return name


def _is_binary(kind: Any) -> bool:
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _paths_column(schema: pyarrow.Schema, column: str) -> bool:
    kind = schema.field(column).type
    return bool(types.is_struct(kind) and any(entry.name == "path" for entry in kind))


def reader(place: str) -> ReadEntry:
    """Read rows of the Parquet file `place`. Rows of a group are read together, and held for a while."""

    def read(entry: Entry) -> bytes:
        group, row = entry.at
        value = _images_of(place, group, entry.member)[row].as_py()
        content = value["bytes"] if isinstance(value, dict) else value
        return content or b""

    return read


@lru_cache(maxsize=_HELD_GROUPS)
def _images_of(place: str, group: int, column: str) -> pyarrow.ChunkedArray:
    """Return the images of a row group. There is one cache for all files: a group can be large."""
    with Storage(place).open_file() as stream, parquet.ParquetFile(stream) as file:
        return file.read_row_group(group, [column]).column(0)


SOURCES.register("parquet", Source((".parquet",), entries, reader))
