"""Inputs of a batch job: each kind of place that holds images is one file of `serving/batch/sources/`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from serving.batch.formats.base import Kind, Value
from serving.errors import BatchError
from zorse_common.registry import Registry


class Entry(NamedTuple):
    """One image file: its name, its bytes, and where it lies.

    `kind` is the name of the source, `place` the URI of the folder or archive, `member` the name inside. `at` are
    numbers by which the source finds the file without a search, and `beside` is JSON by which it finds the image's
    values, or why there is no file.
    """

    name: str
    size: int
    kind: str
    place: str
    member: str
    at: tuple[int, int] = (0, 0)
    beside: str = "{}"


@dataclass(frozen=True)
class Listing:
    """The image files of a place, sorted, and the reason for each file that was left out, by name.

    `archives` has the size in bytes and the time of the last change, in nanoseconds, of each archive, by name.
    `columns` are the values that images may have, such as labels.
    """

    entries: list[Entry]
    left_out: dict[str, str] = field(default_factory=dict)
    archives: dict[str, tuple[int, int]] = field(default_factory=dict)
    columns: dict[str, Kind] = field(default_factory=dict)


class Contents(NamedTuple):
    """An image file and its values, by column."""

    image: bytes
    values: Mapping[str, Value] = MappingProxyType({})


ReadEntry = Callable[[Entry], Contents]
"""Returns the bytes of an image file and its values. It may be called by several threads."""


@dataclass(frozen=True)
class Source:
    """One kind of place.

    `suffixes` are the endings of its archives; the folder has none. `entries` lists the image files of a place, without
    reading them. `reader` opens a place for reading.

    Both raise a `ZorseError` for a place that is missing or damaged.
    """

    suffixes: Sequence[str]
    entries: Callable[[str], Listing]
    reader: Callable[[str], ReadEntry]


SOURCES: Registry[Source] = Registry("serving.batch.sources", "kind of input", BatchError)


def source_of(name: str) -> str | None:
    """Return the kind of the archive that a file's name ends in, or None for other files."""
    kinds = (kind for kind in SOURCES.names() if name.lower().endswith(tuple(SOURCES.find(kind).suffixes)))
    return next(kinds, None)
