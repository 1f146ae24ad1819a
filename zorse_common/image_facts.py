"""Describes a set of image files before it is used: counts, sizes, depths, and which files are left out and why."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

from zorse_common.errors import printable
from zorse_common.files import UNREADABLE, FilesError, ImageFiles, evenly_spaced, left_out_line
from zorse_common.images import Header, ImageError, read_header, to_array

EXAMINED_FILES = 16
"""How many files of a collection are read for its description."""
SMALLEST_SPREAD = 16
"""In grey levels of 255. If images of more than 8 bits span no more than this, their value range must be wrong."""


def collection_facts(files: ImageFiles, names: Sequence[str], what: str, key: str) -> list[str]:
    """Return lines about a collection of images: how many there are, and the sizes and depths of a few.

    Sizes and depths are read from the headers of at most `EXAMINED_FILES` files.
    `what` is the collection's name in the lines, and `key` the config key that states the value range.

    Raises:
        FilesError: the values span so little of the value range that the range must be wrong.
    """
    if not names:
        return []
    headers = _headers(files, evenly_spaced(names, EXAMINED_FILES))
    # Colours of 16 bits are cut to their high byte; the value range applies to greys only.
    deep_names = [name for name, header in headers.items() if header.bits > 8 and header.channels == 1]
    text = f"{what}: {len(names)} images"
    if headers:
        (first, *_, last) = 2 * sorted((header.width, header.height) for header in headers.values())
        sizes = f"{first[0]}×{first[1]}" if first == last else f"{first[0]}×{first[1]} to {last[0]}×{last[1]}"
        kinds = Counter(f"{header.bits}-bit {header.format}" for header in headers.values())
        listed = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        sampled = " of the files examined" if len(headers) < len(names) else ""
        text += f" of {sizes} pixels ({listed}{sampled})"
    return [text, *_depth_facts(files, deep_names, what, key)]


def _headers(files: ImageFiles, names: Iterable[str]) -> dict[str, Header]:
    """Return the header of each file whose header can be read, by name."""
    headers = {}
    for name in names:
        try:
            headers[name] = read_header(files.read(name))
        except (ImageError, *UNREADABLE):
            continue  # the file is reported as unreadable when it is used
    return headers


def _depth_facts(files: ImageFiles, deep_names: Sequence[str], what: str, key: str) -> list[str]:
    """Return a line on the value range of the files `deep_names`, greys of more than 8 bits; nothing without files.

    Raises:
        FilesError: their grey levels span at most `SMALLEST_SPREAD`.
    """
    arrays = [to_array(image) for name in deep_names if (image := files.open(name, 1)) is not None]
    levels = [int(level) for array in arrays for level in (array.min(), array.max())]
    if not levels:
        return []
    low, high = files.value_range or (None, None)
    stated = "the range that each file states or its integers have" if low is None else f"[{low:g}, {high:g}]"
    if max(levels) - min(levels) <= SMALLEST_SPREAD:
        raise FilesError(
            f"{what}: images of more than 8 bits (such as {printable(deep_names[0])}) use under 1/16 of their "
            f"value range, which is {stated}: set {key} to their values of black and white, such as 0 and 4095"
        )
    return [f"{what}: greys of more than 8 bits are mapped from {stated} ({key})"]


def digest_of(files: ImageFiles, names: Iterable[str]) -> str:
    """Return the SHA-256 over the names and sizes of the files, in hexadecimal. Their content is not read."""
    lines = (f"{files.sizes[name]} {printable(name)}\n" for name in sorted(names))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def unused_facts(files: ImageFiles, used: Iterable[str], why: str) -> list[str]:
    """Return one line on the files that are left out, or nothing: files that are no images, and unused ones (`why`)."""
    rest = sorted(set(files.names).difference(used))
    line = left_out_line(files.left_out | dict.fromkeys(rest, why))
    return [line] if line else []
