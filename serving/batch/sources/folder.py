"""Images that are files in a folder, at any depth."""

from __future__ import annotations

import json
from pathlib import PurePosixPath

from serving.batch.sources.base import SOURCES, Contents, Entry, Listing, ReadEntry, Source
from zorse_common.files import ImageFiles, is_hidden
from zorse_common.globs import find_glob
from zorse_common.image_formats import SUFFIXES
from zorse_common.storage import BROKEN_LINK, NO_FILE, Storage


def entries(place: str) -> Listing:
    """List the image files below the folder `place`; others are left out.

    What is called as an image but is a broken link, a pipe or the like is listed too, and cannot be read.
    """
    files, glob = ImageFiles(place), find_glob(place)
    broken = {
        name: json.dumps({"reason": reason})
        for name, reason in files.left_out.items()
        if reason in (BROKEN_LINK, NO_FILE)
        and PurePosixPath(name).suffix.lower() in SUFFIXES
        and not is_hidden(name)
        and (glob is None or glob.matches(name))
    }
    listed = [Entry(name, size, "folder", place, name) for name, size in files.sizes.items()]
    listed += [Entry(name, 0, "folder", place, name, beside=why) for name, why in broken.items()]
    return Listing(listed, {name: reason for name, reason in files.left_out.items() if name not in broken})


def reader(place: str) -> ReadEntry:
    """Read files of the folder `place`."""
    storage = Storage(place)

    def read(entry: Entry) -> Contents:
        if "reason" in (facts := json.loads(entry.beside)):
            raise OSError(facts["reason"])
        return Contents(storage.read(entry.member))

    return read


SOURCES.register("folder", Source((), entries, reader))
