"""API keys: made, hashed, and read from a file or the environment."""

from __future__ import annotations

import logging
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

import yaml
from pydantic import ValidationError

from serving.config import AccessSettings, ApiKey
from serving.errors import KeyFileError

ENVIRONMENT = "environment"
"""The name of the key that is in the environment and not in a file."""
_FORMS = {
    "sha256": "64 hexadecimal digits are expected: take the line that `zorse serve key` prints",
    "rate": "a rate is written as 100/s, 30/m or 5/h",
}


def new_key(name: str, rate: str | None = None) -> tuple[str, str]:
    """Return a new random key of 256 bits, and the line for the file of keys that lets it in.

    Raises:
        KeyFileError: the rate or the name is not legal.
    """
    key = f"zorse_{secrets.token_urlsafe(32)}"
    entry = _entry(name, {"sha256": ApiKey.digest(key.encode())} | ({"rate": rate} if rate else {}), "zorse serve key")
    fields = entry.model_dump(exclude_none=True, exclude={"name"})
    return key, yaml.safe_dump({name: fields}, default_flow_style=None, width=1000, sort_keys=False).strip()


def plain_key(key: str) -> ApiKey:
    """Return the entry of a key that the environment holds, without a rate limit."""
    return ApiKey(name=ENVIRONMENT, sha256=ApiKey.digest(key.encode()))


def with_keys(access: AccessSettings, environment: Mapping[str, str]) -> AccessSettings:
    """Return `access` with the keys that this process finds in a file or an environment variable, as `access` says.

    There are none where the variable is missing.

    Raises:
        KeyFileError: as `read_keys`.
    """
    source = access.keys_from
    if source is None:
        return access
    if source.file is not None:
        keys = read_keys(Path(source.file))
    else:
        assert source.variable is not None, "KeySource has one of the two"
        key = environment.get(source.variable)
        keys = (plain_key(key),) if key else ()
    return access.model_copy(update={"keys": keys, "keys_from": None})


def with_keys_of_node(access: AccessSettings, environment: Mapping[str, str]) -> AccessSettings:
    """Return `access` with the keys that this process of a cluster finds, as `with_keys`.

    Raises:
        KeyFileError: as `read_keys`, or the environment variable is missing.
    """
    found = with_keys(access, environment)
    if access.keys_from is not None and not found.keys:
        raise KeyFileError(
            f"the environment variable {access.keys_from.variable} is not set on this node: set it before Ray starts"
        )
    return found


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """Return the keys of a YAML file: `NAME: {sha256: DIGEST, rate: 100/s}`, the rate optional.

    A warning is logged if other users of the machine can write to the file, or read it.

    Raises:
        KeyFileError: the file cannot be read or has something else in it.
    """
    try:
        with path.open(encoding="utf-8") as file:
            mode = stat.S_IMODE(path.stat().st_mode)
            content = yaml.safe_load(file)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise KeyFileError(f"the keys {path} cannot be read: {error}") from error
    if mode & 0o077:
        logging.getLogger(__name__).warning("%s is open to other users (mode %o): chmod 600 %s", path, mode, path)
    if not isinstance(content, dict) or not content:
        raise KeyFileError(f"{path} has no keys: add the line that `zorse serve key NAME` prints")
    keys = tuple(_entry(name, fields, str(path)) for name, fields in content.items())
    if len({key.sha256 for key in keys}) < len(keys):
        raise KeyFileError(f"{path}: two names have the same key")
    return keys


def _entry(name: object, fields: object, place: str) -> ApiKey:
    if not isinstance(fields, dict):
        raise KeyFileError(f"{place}: {name} has no sha256: take the line that `zorse serve key {name}` prints")
    try:
        return ApiKey.model_validate({**fields, "name": name})
    except ValidationError as error:
        first = error.errors()[0]
        # The value is left out: it may be a key that was written here by mistake.
        where = ".".join(map(str, (name, *first["loc"])))
        raise KeyFileError(f"{place}: {where}: {_FORMS.get(str(first['loc'][0]), first['msg'])}") from error
