"""Names for versions of a model, a part of the artifact contract that depends on pydantic alone.

Beside a model's versions lies `aliases.json`, where it has any: a JSON object such as {"stable": 3}.
"""

from __future__ import annotations

import re

from pydantic_core import from_json

from export.errors import ManifestError

ALIASES_FILE = "aliases.json"
LATEST = "latest"
"""Always the newest version: no alias can have this name."""
_ALIAS = re.compile(r"(?!latest$|[0-9]+$)[A-Za-z0-9][A-Za-z0-9._-]*")


def parse_aliases(text: str, where: str = ALIASES_FILE) -> dict[str, int]:
    """The aliases in `text`, the content of an `aliases.json`: the version that each names.

    Raises:
        ManifestError: it is not JSON, or not an object of good names and version numbers.
    """
    try:
        data = from_json(text)
    except ValueError as error:
        raise ManifestError(
            f"{where} is not JSON ({error}): mend it, or remove it and promote versions anew"
        ) from error
    if not isinstance(data, dict) or not all(is_alias(name) and type(data[name]) is int for name in data):
        raise ManifestError(
            f"{where} is not a JSON object of aliases and version numbers: mend it, or remove it and promote anew"
        )
    return data


def is_alias(name: str) -> bool:
    """Whether an alias can have this name: letters, digits, '.', '_', '-', no mere number, and not "latest"."""
    return _ALIAS.fullmatch(name) is not None
