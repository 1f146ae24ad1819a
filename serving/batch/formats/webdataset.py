"""The format `webdataset`: a tar for each shard, whose members are grouped to samples by their names.

A sample's key is the name of its members up to the first dot. Its image is `<key>.<ending>`; of several models each has
`<key>.<column>.<ending>`. The number of its class is in `<key>.cls`, its text in `<key>.txt`, and all its other values
are in `<key>.json`, with those of an input's own JSON. Members have no time and no owner, and are in the order of the
images, so that equal images give equal bytes.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping, Sequence

from serving.batch.formats.base import (
    FORMATS,
    JSON_COLUMN,
    LABEL_COLUMN,
    TEXT_COLUMN,
    Columns,
    Item,
    Kind,
    Value,
    free_name,
    to_json,
)

_ENDINGS: dict[tuple[str, Kind], str] = {(LABEL_COLUMN, "int"): "cls", (TEXT_COLUMN, "str"): "txt"}
"""The columns that are members of their own, if they are of this kind, and the endings of these."""
_MODE = 0o644
_END = bytes(tarfile.BLOCKSIZE * 2)


def write(shard: str, items: Sequence[Item], columns: Columns) -> dict[str, bytes]:
    """Return the file `<shard>.tar`."""
    endings = {name: ending for (name, kind), ending in _ENDINGS.items() if columns.get(name) == kind}
    described = [name for name, kind in columns.items() if kind not in ("image", "index") and name not in endings]
    members = (member for item in items for member in _members(item, endings, described))
    parts = [*(part for name, content in members for part in _member(name, content)), _END]
    parts.append(bytes(-sum(map(len, parts)) % tarfile.RECORDSIZE))
    return {f"{shard}.tar": b"".join(parts)}


def _members(item: Item, endings: Mapping[str, str], described: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    key = sample_key(item.name)
    for column, content in item.images.items():
        yield f"{key}.{item.suffix}" if len(item.images) == 1 else f"{key}.{column}.{item.suffix}", content
    for column, ending in endings.items():
        if (value := item.fields.get(column)) is not None:
            yield f"{key}.{ending}", str(value).encode()
    values = {name: value for name in described if (value := item.fields.get(name)) is not None}
    if values:
        yield f"{key}.json", to_json(_merged(values)).encode()


def _merged(values: dict[str, Value]) -> dict[str, Value]:
    """Return the values of a sample with those of the input's own JSON in place of this, if it is an object."""
    if not isinstance(values.get(JSON_COLUMN), dict):
        return values
    own = values.pop(JSON_COLUMN)
    merged = dict(values)
    for name, value in own.items():
        merged[free_name(name, merged)] = value
    return merged


def sample_key(name: str) -> str:
    """Return `name` with the dots of its last part escaped, as %2E: a key ends at the first dot."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.replace("%", "%25").replace(".", "%2E")


def _member(name: str, content: bytes) -> tuple[bytes, bytes, bytes]:
    return member_header(name, len(content)), content, bytes(-len(content) % tarfile.BLOCKSIZE)


def _slow_header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, _MODE
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


_NAME, _SIZE, _CHECKSUM = slice(0, 100), slice(124, 136), slice(148, 156)
"""The places of fields in a header (POSIX.1-1988, ustar): text that ends with a zero byte."""
_TEMPLATE = _slow_header("", 0)
_TEMPLATE_SUM = sum(_TEMPLATE) - sum(_TEMPLATE[_SIZE]) - sum(_TEMPLATE[_CHECKSUM]) + 8 * ord(" ")


def member_header(name: str, size: int) -> bytes:
    """Return what tarfile writes before a member of `size` bytes.

    For short names of ASCII the fields are put into a header of tarfile's, which is ten times as fast: for small images
    tarfile takes a sixth of the time of a job.
    """
    if not name.isascii() or len(name) > 100 or size >= 8**11:
        return _slow_header(name, size)
    encoded, digits = name.encode(), b"%011o\0" % size
    checksum = b"%06o\0 " % (_TEMPLATE_SUM + sum(encoded) + sum(digits))
    parts = (encoded.ljust(100, b"\0"), _TEMPLATE[_NAME.stop : _SIZE.start], digits)
    return b"".join((*parts, _TEMPLATE[_SIZE.stop : _CHECKSUM.start], checksum, _TEMPLATE[_CHECKSUM.stop :]))


FORMATS.register("webdataset", write)
