"""The inputs of a batch job as `ImageFiles` reads them, so that they can be looked at first."""

from __future__ import annotations

from collections import Counter

from serving.batch.inputs import list_inputs, read_entry, shards_of_job
from serving.batch.sources.base import source_of
from serving.errors import ServingError
from zorse_common.errors import one_line
from zorse_common.files import ImageFiles
from zorse_common.globs import find_glob
from zorse_common.storage import Storage


def is_for_jobs_alone(files: ImageFiles) -> bool:
    """Return whether a place is the output of a batch job, or has no images but in archives, as shards are."""
    if files.kind == "folder" and find_glob(files.root) is None:
        folder = Storage(files.root)
        if shards_of_job(folder).uri != folder.uri:
            return True
    return not files.names and any(source_of(name) for name in files.left_out)


class InputFiles:
    """The images at a place by name; of those of one name the second and others have a number.

    `kind` is the kind of place that they are in, such as "tar", and `columns` are the values that they have.
    """

    def __init__(self, uri: str, *, is_measured: bool = True) -> None:
        """List the images. If `is_measured` those whose size no listing states are read for it, else it is 0.

        Raises:
            ZorseError: as `list_inputs`.
        """
        listing = list_inputs(uri)
        self.root, self.skipped, self.columns = uri, listing.left_out, listing.columns
        self.kind = ", ".join(sorted({entry.kind for entry in listing.entries}))
        seen: Counter[str] = Counter()
        self._entries = {}
        for entry in listing.entries:
            seen[entry.name] += 1
            count = seen[entry.name]
            self._entries[entry.name if count == 1 else f"{entry.name}#{count}"] = entry
        self.sizes = {
            name: entry.size or (len(self.read(name)) if is_measured else 0) for name, entry in self._entries.items()
        }

    def read(self, name: str, most: int | None = None) -> bytes:
        """Return the content of a file, or its first `most` bytes.

        Raises:
            FetchError: an object store failed.
            OSError, … (`UNREADABLE`): the file, or a value beside it, cannot be read.
        """
        try:
            return read_entry(self._entries[name]).image[:most]
        except ServingError as error:
            raise OSError(one_line(error)) from error
