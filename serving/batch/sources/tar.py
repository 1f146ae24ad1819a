"""Images in an uncompressed tar, such as a shard of WebDataset."""

from __future__ import annotations

import tarfile
from pathlib import PurePosixPath

from serving.batch.sources.base import SOURCES, Entry, Listing, ReadEntry, Source
from serving.errors import BatchError
from zorse_common.errors import one_line, printable
from zorse_common.files import is_hidden
from zorse_common.image_formats import SUFFIXES
from zorse_common.storage import Storage


def entries(place: str) -> Listing:
    """List the image files in the tar `place`, by their endings; others are left out. Contents are skipped.

    Raises:
        BatchError: the file is damaged, compressed, or no tar.
    """
    listing = Listing([])
    try:
        with Storage(place).open_file() as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                if is_hidden(member.name) or PurePosixPath(member.name).suffix.lower() not in SUFFIXES:
                    listing.left_out[f"{PurePosixPath(place).name}/{printable(member.name)}"] = "no image"
                    continue
                at = (member.offset_data, member.size)
                listing.entries.append(Entry(member.name, member.size, "tar", place, member.name, at))
    except (tarfile.TarError, OSError) as error:
        raise BatchError(f"{place} cannot be read as an uncompressed tar ({one_line(error)})") from error
    return listing


def reader(place: str) -> ReadEntry:
    """Read members of the tar `place` at the offsets that `entries` found."""
    storage = Storage(place)

    def read(entry: Entry) -> bytes:
        offset, size = entry.at
        with storage.open_file() as file:
            file.seek(offset)
            return file.read(size)

    return read


SOURCES.register("tar", Source((".tar",), entries, reader))
