"""Output formats of a batch job: each is one file of `serving/batch/formats/` with a function that writes a shard."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from serving.errors import BatchError
from zorse_common.registry import Registry

Value = int | str
Columns = Mapping[str, type[int] | type[str]]
"""What is known of every image of a job beside its file, and the type of the values."""
LABEL_COLUMN = "label"
"""The column with the number of an image's class."""


@dataclass(frozen=True)
class Item:
    """One image of a shard.

    `name` is a relative path without an ending, unique in the job. `content` is an image file of the format `suffix`
    ("png", …). `fields` has a value for each column of the job.
    """

    name: str
    content: bytes
    suffix: str
    fields: Mapping[str, Value]

    @property
    def file_name(self) -> str:
        """The name with the ending."""
        return f"{self.name}.{self.suffix}"


WriteShard = Callable[[str, Sequence[Item], Columns], dict[str, bytes]]
"""Makes the files of a shard, by their relative paths, of the shard's name, its images and the job's columns.

It is pure: equal arguments give equal bytes, at any time, on any machine with the same libraries.
"""
FORMATS: Registry[WriteShard] = Registry("serving.batch.formats", "format", BatchError)
