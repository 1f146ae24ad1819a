"""Images in a ZIP, such as a data set of StyleGAN, whose `dataset.json` has labels."""

from __future__ import annotations

import json
from typing import Any

from serving.batch.formats.base import LABEL_COLUMN, Kind
from serving.batch.sources.base import SOURCES, Contents, Entry, Listing, ReadEntry, Source
from serving.errors import BatchError
from zorse_common.errors import one_line
from zorse_common.files import UNREADABLE, FileSet, ImageFiles

_LABELS = "dataset.json"


def entries(place: str) -> Listing:
    """List the image files in the ZIP `place`; others are left out.

    Raises:
        BatchError: its labels cannot be read.
    """
    files = ImageFiles(place)
    labels = _labels(place) if files.left_out.pop(_LABELS, None) else {}
    beside = {name: json.dumps({LABEL_COLUMN: label}) for name, label in labels.items() if label is not None}
    kind: Kind = "int" if all(type(label) is int for label in labels.values()) else "json"
    return Listing(
        [Entry(name, size, "zip", place, name, beside=beside.get(name, "{}")) for name, size in files.sizes.items()],
        files.left_out,
        columns={LABEL_COLUMN: kind} if beside else {},
    )


def _labels(place: str) -> dict[str, Any]:
    try:
        document = json.loads(FileSet(place).read(_LABELS))
        return dict(document.get("labels") or {})
    except (AttributeError, TypeError, *UNREADABLE) as error:
        raise BatchError(f"{place}: the labels in {_LABELS} cannot be read ({one_line(error)})") from error


def reader(place: str) -> ReadEntry:
    """Read members of the ZIP `place`."""
    files = FileSet(place)
    return lambda entry: Contents(files.read(entry.member), json.loads(entry.beside))


SOURCES.register("zip", Source((".zip",), entries, reader))
