"""Images in an uncompressed tar, such as a shard of WebDataset.

The members of a WebDataset whose names are equal up to the first dot of their last part are a sample. Beside an image
it can have the number of its class (`.cls`), a text (`.txt`) and JSON (`.json`).
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import PurePosixPath

from serving.batch.formats.base import JSON_COLUMN, LABEL_COLUMN, TEXT_COLUMN, Kind, Value
from serving.batch.sources.base import SOURCES, Contents, Entry, Listing, ReadEntry, Source
from serving.errors import BatchError, ImageError
from zorse_common.errors import one_line, printable
from zorse_common.files import is_hidden
from zorse_common.image_formats import SUFFIXES
from zorse_common.storage import Storage

Place = tuple[int, int]
"""The offset and the size of a member's content."""
_READ_BYTES = 2**20
_BESIDE: dict[str, tuple[str, Kind, Callable[[bytes], Value]]] = {
    "cls": (LABEL_COLUMN, "int", int),
    "txt": (TEXT_COLUMN, "str", lambda content: content.decode()),
    "json": (JSON_COLUMN, "json", json.loads),
}
"""The column, its kind, and the parser of the members beside an image, by their endings."""


def entries(place: str) -> Listing:
    """List the image files in the tar `place`, by their endings; others are left out. Contents are skipped.

    Raises:
        BatchError: the file is damaged, cut off, compressed, or no tar.
    """
    listing = Listing([])
    archive_name = PurePosixPath(place).name
    images: dict[str, list[tuple[str, Place]]] = {}
    others: dict[str, Place] = {}
    for name, at in _members(place):
        if isinstance(at, str):
            listing.left_out[f"{archive_name}/{printable(name)}"] = at
        elif is_hidden(name) or PurePosixPath(name).suffix.lower() not in SUFFIXES:
            others[name] = at
        else:
            images.setdefault(_key(name), []).append((name, at))
    beside: dict[str, dict[str, Place]] = {}
    for name, at in others.items():
        key = _key(name)
        ending = name[len(key) + 1 :]
        if key in images and ending in _BESIDE:
            beside.setdefault(key, {})[ending] = at
            column, kind, _ = _BESIDE[ending]
            listing.columns[column] = kind
        else:
            listing.left_out[f"{archive_name}/{printable(name)}"] = "no image"
    for key, members in images.items():
        where = json.dumps(beside.get(key, {}))
        listing.entries.extend(Entry(name, at[1], "tar", place, name, at, where) for name, at in members)
    return listing


def first_entries(place: str, count: int) -> list[Entry]:
    """List the first `count` image files in the tar `place`, without the values beside them. The rest is not read."""
    files = ((name, at) for name, at in _members(place) if not isinstance(at, str))
    images = ((name, at) for name, at in files if PurePosixPath(name).suffix.lower() in SUFFIXES)
    return [Entry(name, at[1], "tar", place, name, at) for name, at in islice(images, count)]


def _members(place: str) -> Iterator[tuple[str, Place | str]]:
    """Yield the name of each member that is no folder, and the place of its content, or why it has none.

    A hard link has the content of the member before it that it names.

    Raises:
        BatchError: as `entries`. tarfile itself takes a damaged header for the end.
    """
    places: dict[str, Place] = {}
    try:
        with Storage(place).open_file() as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                at = places.get(member.linkname) if member.islnk() else None
                if member.isfile() and not member.issparse():
                    at = (member.offset_data, member.size)
                if at is not None:
                    places[member.name] = at
                    yield member.name, at
                elif not member.isdir():
                    yield member.name, "a link" if member.issym() or member.islnk() else "no plain file"
            file.seek(archive.offset)
            rest = file.read(2 * tarfile.BLOCKSIZE)
            while not any(rest) and (more := file.read(_READ_BYTES)):
                rest = more
            if any(rest) or file.tell() < archive.offset + tarfile.BLOCKSIZE:
                raise BatchError(
                    f"{place} is damaged or cut off at byte {archive.offset}, or another tar follows there: unpack it"
                )
    except (tarfile.TarError, OSError) as error:
        raise BatchError(f"{place} cannot be read as an uncompressed tar ({one_line(error)})") from error


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
