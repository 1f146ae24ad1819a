"""Images in columns of a Parquet file, as `datasets` stores them: image files as bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

import pyarrow
from pyarrow import parquet, types

from serving.batch.formats.base import IMAGE_COLUMN, Kind
from serving.batch.sources.base import SOURCES, Contents, Entry, Listing, ReadEntry, Source
from serving.errors import BatchError
from zorse_common.errors import one_line
from zorse_common.storage import Storage

_HELD_GROUPS = 2
"""How many row groups, of all files, are held in memory."""


def entries(place: str) -> Listing:
    """List the images in the Parquet file `place`. The size of an image is not known before it is read.

    A row is called as its `path` says, where a column of images is a struct of `bytes` and `path`, or by its number. Of
    several columns of images each has its name before it. Bytes alone are images if they are called so, or if the file
    has no other images.

    Raises:
        BatchError: the file is damaged, has two columns of one name, or no column of image files.
    """
    try:
        with Storage(place).open_file() as stream, parquet.ParquetFile(stream) as file:
            schema = file.schema_arrow
            if len(set(schema.names)) < len(schema.names):
                raise BatchError(f"{place} has two columns of one name: rename one")
            candidates = [column.name for column in schema if _has_images(column.type)]
            if not candidates:
                raise BatchError(f"{place} has no column with the bytes of image files")
            images = [c for c in candidates if c == IMAGE_COLUMN or types.is_struct(schema.field(c).type)] or candidates
            no_images = set(candidates).difference(images)
            left_out = {f"{PurePosixPath(place).name}/{name}": "bytes beside a column of images" for name in no_images}
            rows = [entry for column in images for entry in _rows(place, file, column, is_alone=len(images) == 1)]
            columns = {name: _kind(schema.field(name).type) for name in _value_columns(schema)}
            return Listing(rows, left_out, columns=columns)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise BatchError(f"{place} cannot be read as a Parquet file ({one_line(error)})") from error


def _rows(place: str, file: parquet.ParquetFile, column: str, *, is_alone: bool) -> Iterator[Entry]:
    has_paths = _has_paths(file.schema_arrow.field(column).type)
    number = 0
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        paths: list[str | None] = [None] * rows
        if has_paths:
            paths = file.read_row_group(group, [f"{column}.path"]).column(0).combine_chunks().field("path").to_pylist()
        for row, path in enumerate(paths):
            name = path or f"{PurePosixPath(place).stem}-{number:06d}"
            yield Entry(name if is_alone else f"{column}/{name}", 0, "parquet", place, column, (group, row))
            number += 1


def _has_images(kind: Any) -> bool:
    """Return whether a column has image files: it is binary, or a struct with a binary field `bytes`."""
    if types.is_struct(kind):
        return any(field.name == "bytes" and _has_images(field.type) for field in kind)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _has_paths(kind: Any) -> bool:
    """Return whether a column of images has their names as text."""
    return bool(types.is_struct(kind) and any(field.name == "path" and _kind(field.type) == "str" for field in kind))


def _value_columns(schema: pyarrow.Schema) -> list[str]:
    """Return the columns that have no bytes."""
    return [column.name for column in schema if not _has_bytes(column.type)]


def _has_bytes(kind: Any) -> bool:
    is_bytes = types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)
    return bool(is_bytes or any(_has_bytes(kind.field(number).type) for number in range(kind.num_fields)))


def _kind(kind: Any) -> Kind:
    if types.is_integer(kind) and kind != pyarrow.uint64():
        return "int"
    if types.is_floating(kind):
        return "float"
    if types.is_boolean(kind):
        return "bool"
    return "str" if types.is_string(kind) or types.is_large_string(kind) else "json"


def reader(place: str) -> ReadEntry:
    """Read rows of the Parquet file `place`. Rows of a group are read together, and held for a while."""
    _group.cache_clear()  # the file may have been replaced since it was read

    def read(entry: Entry) -> Contents:
        group, row = entry.at
        (values,) = _group(place, group, entry.member).slice(row, 1).to_pylist()
        image = values.pop(entry.member)
        content = image["bytes"] if isinstance(image, dict) else image
        return Contents(content or b"", json.loads(json.dumps(values, default=str)))

    return read


@lru_cache(maxsize=_HELD_GROUPS)
def _group(place: str, group: int, column: str) -> pyarrow.Table:
    """Return the images and the values of a row group. There is one cache for all files: a group can be large."""
    with Storage(place).open_file() as stream, parquet.ParquetFile(stream) as file:
        return file.read_row_group(group, [column, *_value_columns(file.schema_arrow)])


SOURCES.register("parquet", Source((".parquet",), entries, reader))
