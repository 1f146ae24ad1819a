"""Finds the folders of a data set that have a meaning, such as `trainA`: at its root or below one wrapping folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

from zorse_common.errors import printable
from zorse_common.files import FilesError


def split_folders(root: str, names: Iterable[str], wanted: tuple[str, ...]) -> dict[str, list[str]]:
    """Return the `names` inside each of the folders `wanted`, which all lie in one place.

    The place is the root, or one folder below it as when a zip wraps all its files. Folders with such names further
    down mean nothing. A folder that is not there has an empty list.

    Raises:
        FilesError: folders of these names lie in more than one place.
    """
    places: dict[str, dict[str, list[str]]] = {}
    for name in names:
        parts = PurePosixPath(name).parts
        for depth in (0, 1):
            if len(parts) > depth + 1 and parts[depth] in wanted:
                found = places.setdefault("/".join(parts[:depth]), {})
                found.setdefault(parts[depth], []).append(name)
                break
    if len(places) > 1:
        listed = [f"{printable(place) or '.'}/{next(iter(found))}" for place, found in sorted(places.items())]
        raise FilesError(f"{root} holds more than one data set ({' and '.join(listed)}): name one of them")
    found = next(iter(places.values()), {})
    return {folder: found.get(folder, []) for folder in wanted}


def top_folders(names: Iterable[str]) -> list[str]:
    """Return the first parts of `names` that are folders, sorted; "." stands for files that lie in none."""
    return sorted({PurePosixPath(name).parts[0] if "/" in name else "." for name in names})
