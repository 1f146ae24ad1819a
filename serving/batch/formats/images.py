"""The format `images`: plain image files, in one folder for each shard."""

from __future__ import annotations

from collections.abc import Sequence

from serving.batch.formats.base import FORMATS, Columns, Item
from serving.errors import BatchError


def write(shard: str, items: Sequence[Item], columns: Columns) -> dict[str, bytes]:
    """Return one file for each image, called `<shard>/<name>.<ending>`. The columns are not written.

    Raises:
        BatchError: two images have one name.
    """
    files = {f"{shard}/{item.file_name}": item.content for item in items}
    if len(files) < len(items):
        raise BatchError(f"images of shard {shard} have equal names: choose another --format")
    return files


FORMATS.register("images", write)
