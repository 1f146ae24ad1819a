"""The format `images`: plain image files, in one folder for each shard, with a table that `datasets` reads."""

from __future__ import annotations

from collections.abc import Sequence

from serving.batch.formats.base import FORMATS, TABLE, Columns, Item, table
from serving.errors import BatchError


def write(shard: str, items: Sequence[Item], columns: Columns) -> dict[str, bytes]:
    """Return one file for each image, called `<shard>/<path>`, and the table of the other columns.

    Raises:
        BatchError: two images have one name.
    """
    contents = [(path, item.images[column]) for item in items for column, path in item.files.items()]
    files = {f"{shard}/{path}": content for path, content in contents}
    if len(files) < len(contents):
        raise BatchError(f"images of shard {shard} have equal names: choose another --format")
    return files | ({f"{shard}/{TABLE}": table(items, columns)} if items else {})


FORMATS.register("images", write)
