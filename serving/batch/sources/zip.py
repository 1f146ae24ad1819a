"""Images in a ZIP, such as a data set of StyleGAN."""

from __future__ import annotations

from serving.batch.sources.base import SOURCES, Entry, Listing, ReadEntry, Source
from zorse_common.files import FileSet, ImageFiles


def entries(place: str) -> Listing:
    """List the image files in the ZIP `place`; others are left out."""
    files = ImageFiles(place)
    return Listing([Entry(name, size, "zip", place, name) for name, size in files.sizes.items()], files.left_out)


def reader(place: str) -> ReadEntry:
    """Read members of the ZIP `place`."""
    files = FileSet(place)
    return lambda entry: files.read(entry.member)


SOURCES.register("zip", Source((".zip",), entries, reader))
