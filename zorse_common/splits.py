"""Finds the folders of a dataset that name its parts, such as `trainA`: at its root or below one wrapping folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

from zorse_common.errors import printable
from zorse_common.files import FilesError


def split_folders(root: str, names: Iterable[str], wanted: tuple[str, ...]) -> dict[str, list[str]]:
    """Return the files inside each of the folders `wanted`, which must all lie in the same folder.

    That folder is the root, or one folder below it, as in zips that wrap all their files. Folders of these names
    further down are ignored. A missing folder has an empty list.

    Raises:
        FilesError: folders of these names lie in more than one folder, so that the choice is ambiguous.
    """
    by_parent: dict[str, dict[str, list[str]]] = {}
    for name in names:
        parts = PurePosixPath(name).parts
        for depth in (0, 1):
            if len(parts) > depth + 1 and parts[depth] in wanted:
                folders = by_parent.setdefault("/".join(parts[:depth]), {})
                folders.setdefault(parts[depth], []).append(name)
                break
    if len(by_parent) > 1:
        listed = [f"{printable(parent) or '.'}/{next(iter(folders))}" for parent, folders in sorted(by_parent.items())]
        raise FilesError(f"{root} holds more than one data set ({' and '.join(listed)}): name one of them")
    folders = next(iter(by_parent.values()), {})
    return {folder: folders.get(folder, []) for folder in wanted}


def top_folders(names: Iterable[str]) -> list[str]:
    """Return the sorted names of the folders at the root that hold files; "." stands for files at the root itself."""
    return sorted({PurePosixPath(name).parts[0] if "/" in name else "." for name in names})
