"""Selects files by patterns such as `photos/**/*.png`."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

_WILDCARD = re.compile(r"[*?\[]")
_URI_WILDCARD = re.compile(r"[*\[]")
"""Storages refuse `?` in URIs, where it starts a query."""


@dataclass(frozen=True)
class Glob:
    """The files below `folder` whose paths from there match `patterns`, one for each part of a path.

    In a part `*` stands for any characters, `?` for one, and `[abc]` for one of these. The part `**` stands for any
    number of folders; at the end it stands for all files below.
    """

    folder: str
    patterns: tuple[str, ...]

    @property
    def depth(self) -> int | None:
        """How many parts a matching path has; None if that differs."""
        return None if "**" in self.patterns else len(self.patterns)

    def matches(self, name: str) -> bool:
        """Return whether `name`, a path from `folder` with `/`, matches."""
        return _match(name.split("/"), self.patterns)


def expanded(place: str) -> str:
    """Return a path with the home folder for a `~` at its start, which shells leave in quotes. URIs stay the same."""
    return place if "://" in place else os.path.expanduser(place)  # noqa: PTH111  (pathlib would drop a trailing slash)


def find_glob(place: str) -> Glob | None:
    """Return the pattern in a path or URI, or None for a path that exists, although its name may have brackets."""
    return None if "://" not in place and Path(place).exists() else parse_glob(place)


def parse_glob(path: str) -> Glob | None:
    """Return the pattern in a path or URI, or None if no part of it has a wildcard."""
    scheme, separator, rest = path.rpartition("://")
    parts = rest.split("/")
    wildcard = _URI_WILDCARD if separator else _WILDCARD
    first = next((index for index, part in enumerate(parts) if wildcard.search(part)), None)
    if first is None:
        return None
    folder = "/".join(parts[:first]) or ("/" if first else "." if not separator else "")
    return Glob(scheme + separator + folder, tuple(part for part in parts[first:] if part))


def _match(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    if not patterns:
        return not parts
    if patterns[0] == "**":
        return _match(parts, patterns[1:]) or (bool(parts) and _match(parts[1:], patterns))
    return bool(parts) and fnmatchcase(parts[0], patterns[0]) and _match(parts[1:], patterns[1:])
