"""Images in an uncompressed tar, such as a shard of WebDataset.

The members of a WebDataset whose names are equal up to the first dot of their last part are a sample. Beside an image
it can have the number of its class (`.cls`), a text (`.txt`) and JSON (`.json`).
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import PurePosixPath

from serving.batch.formats.base import JSON_COLUMN, LABEL_COLUMN, TEXT_COLUMN, Kind, Value
from serving.batch.sources.base import SOURCES, Contents, Entry, Listing, ReadEntry, Source
from serving.errors import BatchError, ImageError
from zorse_common.errors import one_line, printable
from zorse_common.files import is_hidden
from zorse_common.image_formats import SUFFIXES
from zorse_common.storage import Storage

_BESIDE: dict[str, tuple[str, Kind, Callable[[bytes], Value]]] = {
    "cls": (LABEL_COLUMN, "int", int),
    "txt": (TEXT_COLUMN, "str", lambda content: content.decode()),
    "json": (JSON_COLUMN, "json", json.loads),
}
"""The column, its kind, and the parser of the members beside an image, by their endings."""


def entries(place: str) -> Listing:
    """List the image files in the tar `place`, by their endings; others are left out. Contents are skipped.

    Raises:
        BatchError: the file is damaged, compressed, or no tar.
    """
    images: dict[str, list[tarfile.TarInfo]] = {}
    others: list[tarfile.TarInfo] = []
    try:
        with Storage(place).open_file() as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in filter(tarfile.TarInfo.isfile, archive):
                if is_hidden(member.name) or PurePosixPath(member.name).suffix.lower() not in SUFFIXES:
                    others.append(member)
                else:
                    images.setdefault(_key(member.name), []).append(member)
    except (tarfile.TarError, OSError) as error:
        raise BatchError(f"{place} cannot be read as an uncompressed tar ({one_line(error)})") from error
    beside: dict[str, dict[str, tuple[int, int]]] = {}
    listing = Listing([])
    for member in others:
        key = _key(member.name)
        ending = member.name[len(key) + 1 :]
        if key in images and ending in _BESIDE:
            beside.setdefault(key, {})[ending] = (member.offset_data, member.size)
            column, kind, _ = _BESIDE[ending]
            listing.columns[column] = kind
        else:
            listing.left_out[f"{PurePosixPath(place).name}/{printable(member.name)}"] = "no image"
    for key, members in images.items():
        where = json.dumps(beside.get(key, {}))
        for member in members:
            at = (member.offset_data, member.size)
            listing.entries.append(Entry(member.name, member.size, "tar", place, member.name, at, where))
    return listing


def _key(name: str) -> str:
    """Return the key of the sample to which a member belongs."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(".")[0]


def reader(place: str) -> ReadEntry:
    """Read members of the tar `place` at the offsets that `entries` found."""
    storage = Storage(place)

    def read(entry: Entry) -> Contents:
        with storage.open_file() as file:

            def member(offset: int, size: int) -> bytes:
                file.seek(offset)
                return file.read(size)

            values = {}
            for ending, at in json.loads(entry.beside).items():
                column, _, parse = _BESIDE[ending]
                try:
                    values[column] = parse(member(*at))
                except ValueError as error:
                    raise ImageError(f"the .{ending} beside the image cannot be read ({one_line(error)})") from error
            return Contents(member(*entry.at), values)

    return read


SOURCES.register("tar", Source((".tar",), entries, reader))
