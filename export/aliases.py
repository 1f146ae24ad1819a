"""Reads the aliases of a model's versions: a part of the artifact contract that depends on pydantic alone.

The file `aliases.json` beside the versions is a JSON object such as {"stable": 3}. Without aliases there is no file.
"""

from __future__ import annotations

import re

from pydantic_core import from_json

from export.errors import ManifestError

ALIASES_FILE = "aliases.json"
LATEST = "latest"
"""Means the newest version; no alias can have this name."""
_ALIAS = re.compile(r"(?!latest$|[0-9]+$)[A-Za-z0-9][A-Za-z0-9._-]*")


def parse_aliases(text: str, where: str = ALIASES_FILE) -> dict[str, int]:
    """Return the version that each alias names in `text`, the content of an `aliases.json`; `where` is for messages.

    Raises:
        ManifestError: it is not JSON, or not an object of legal names and version numbers.
    """
    try:
        data = from_json(text)
    except ValueError as error:
        raise ManifestError(
            f"{where} is not JSON ({error}): fix it, or remove it and promote versions again"
        ) from error
    if not isinstance(data, dict) or not all(is_alias(name) and type(data[name]) is int for name in data):
        raise ManifestError(
            f"{where} is not a JSON object of aliases and version numbers: fix it, or remove it and promote "
            "versions again"
        )
    return data


def is_alias(name: str) -> bool:
    """Return whether an alias can have this name: letters, digits, '.', '_' and '-', not a number, not "latest"."""
    return _ALIAS.fullmatch(name) is not None
