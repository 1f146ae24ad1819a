"""The format `images`: plain image files, in one folder for each shard."""

from __future__ import annotations

from collections.abc import Sequence

from serving.batch.formats.base import FORMATS, Columns, Item


def write(shard: str, items: Sequence[Item], columns: Columns) -> dict[str, bytes]:
    """Return one file for each image, called `<shard>/<name>.<ending>`. The columns are not written."""
    return {f"{shard}/{item.file_name}": item.content for item in items}


FORMATS.register("images", write)
