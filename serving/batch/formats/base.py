"""Output formats of a batch job: each is one file of `serving/batch/formats/` with a function that writes a shard."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from serving.errors import BatchError
from zorse_common.registry import Registry

Kind = Literal["image", "index", "int", "float", "bool", "str", "json"]
"""The kind of a column: an image file, a number that says which image it is, or a value of an input.

JSON is any other value. Values of inputs may be None.
"""
Value = Any
Columns = Mapping[str, Kind]
"""The columns of a job: the image files of each model, and what else is known of every image."""
IMAGE_COLUMN = "image"
"""The name of the column of images where there is only one."""
LABEL_COLUMN, TEXT_COLUMN, JSON_COLUMN = "label", "txt", "json"
"""The columns with the number of an image's class, and with the text and the JSON beside it in a WebDataset."""
TABLE = "metadata.jsonl"
"""The name of the table of a folder of images, as `datasets` reads it."""


@dataclass(frozen=True)
class Item:
    """The images that became of one input, or of one number.

    `name` is a relative path without an ending, unique in the job. `images` has an image file of the format `suffix`
    ("png", …) for each column of images. `fields` has the values of the other columns; one that is missing is None.
    """

    name: str
    images: Mapping[str, bytes]
    suffix: str
    fields: Mapping[str, Value]

    @property
    def files(self) -> dict[str, str]:
        """The path of the file of each image, by its column: several images of a name are in a folder each."""
        name = f"{self.name}.{self.suffix}"
        return {column: name if len(self.images) == 1 else f"{column}/{name}" for column in self.images}


def free_name(name: str, taken: Collection[str]) -> str:
    """Return the name of a value of an input: `name`, with "input_" before it as often as it is among `taken`."""
    return free_name(f"input_{name}", taken) if name in taken else name


def to_json(value: Value) -> str:
    """Return a value as JSON. NaN and infinities, which JSON does not have, are null."""
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        return json.dumps(json.loads(json.dumps(value), parse_constant=lambda _: None))


def table(items: Sequence[Item], columns: Columns) -> bytes:
    """Return the table `TABLE`: a line of JSON for each item, with the paths of its files and its values."""
    others = [name for name, kind in columns.items() if kind != "image"]
    rows = []
    for item in items:
        files = {
            "file_name" if len(item.files) == 1 else f"{name}_file_name": path for name, path in item.files.items()
        }
        rows.append(files | {name: item.fields.get(name) for name in others})
    return "".join(f"{to_json(row)}\n" for row in rows).encode()


WriteShard = Callable[[str, Sequence[Item], Columns], dict[str, bytes]]
"""Makes the files of a shard, by their relative paths, of the shard's name, its images and the job's columns.

It is pure: equal arguments give equal bytes, at any time, on any machine with the same libraries.
"""
FORMATS: Registry[WriteShard] = Registry("serving.batch.formats", "format", BatchError)
