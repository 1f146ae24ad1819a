"""Images that are files in a folder, at any depth."""

from __future__ import annotations

from serving.batch.sources.base import SOURCES, Contents, Entry, Listing, ReadEntry, Source
from zorse_common.files import ImageFiles
from zorse_common.storage import Storage


def entries(place: str) -> Listing:
    """List the image files below the folder `place`; others are left out."""
    files = ImageFiles(place)
    return Listing([Entry(name, size, "folder", place, name) for name, size in files.sizes.items()], files.left_out)


def reader(place: str) -> ReadEntry:
    """Read files of the folder `place`."""
    storage = Storage(place)
    return lambda entry: Contents(storage.read(entry.member))


SOURCES.register("folder", Source((), entries, reader))
