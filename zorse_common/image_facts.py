"""Says what a set of image files is before it is used: numbers, sizes, depths, and what was left out and why."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

from zorse_common.errors import printable
from zorse_common.files import UNREADABLE, FilesError, ImageFiles, evenly_spaced, left_out_line
from zorse_common.images import Header, ImageError, read_header, to_array

PROBED = 16
"""How many files of a collection are looked at."""
SMALLEST_SPREAD = 16
"""Of 255 grey levels: images of more than 8 bits that use less, 1/16 of their range, are read at a wrong range."""


def collection_facts(files: ImageFiles, names: Sequence[str], what: str, key: str) -> list[str]:
    """Say how many images a collection has and, from the headers of a few, of what size and depth they are.

    `what` names the collection, and `key` what states the value range.

    Raises:
        FilesError: their values use so little of the value range that the range must be wrong.
    """
    if not names:
        return []
    headers = _headers(files, evenly_spaced(names, PROBED))
    # Colours of 16 bits keep their high byte, whatever the value range is.
    deep = [name for name, header in headers.items() if header.bits > 8 and header.channels == 1]
    text = f"{what}: {len(names)} images"
    if headers:
        (first, *_, last) = 2 * sorted((header.width, header.height) for header in headers.values())
        sizes = f"{first[0]}×{first[1]}" if first == last else f"{first[0]}×{first[1]} to {last[0]}×{last[1]}"
        kinds = Counter(f"{header.bits}-bit {header.format}" for header in headers.values())
        listed = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        seen = " of those looked at" if len(headers) < len(names) else ""
        text += f" of {sizes} pixels ({listed}{seen})"
    return [text, *_depth_facts(files, deep, what, key)]


def _headers(files: ImageFiles, names: Iterable[str]) -> dict[str, Header]:
    found = {}
    for name in names:
        try:
            found[name] = read_header(files.read(name))
        except (ImageError, *UNREADABLE):
            continue  # whoever uses the file meets the error too
    return found


def _depth_facts(files: ImageFiles, deep: Sequence[str], what: str, key: str) -> list[str]:
    arrays = [to_array(image) for name in deep if (image := files.open(name, 1)) is not None]
    levels = [int(level) for array in arrays for level in (array.min(), array.max())]
    if not levels:
        return []
    low, high = files.value_range or (None, None)
    stated = "the range that each file states or can hold" if low is None else f"[{low:g}, {high:g}]"
    if max(levels) - min(levels) <= SMALLEST_SPREAD:
        raise FilesError(
            f"{what}: images of more than 8 bits (such as {printable(deep[0])}) use under 1/16 of their value range, "
            f"which is {stated}: set {key} to their values of black and white, such as 0 and 4095"
        )
    return [f"{what}: greys of more than 8 bits are taken at {stated} ({key})"]


def digest_of(files: ImageFiles, names: Iterable[str]) -> str:
    """Return the SHA-256 over the names and sizes of files. Their content is not read."""
    lines = (f"{files.sizes[name]} {printable(name)}\n" for name in sorted(names))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def unused_facts(files: ImageFiles, used: Iterable[str], why: str) -> list[str]:
    """Say in at most one line which files were left out: those that are no images, and for `why` those not `used`."""
    rest = sorted(set(files.names).difference(used))
    line = left_out_line(files.left_out | dict.fromkeys(rest, why))
    return [line] if line else []
