"""The format `zip`: an uncompressed ZIP for each shard, in the layout of StyleGAN's data sets.

It holds image files in any folders, and `dataset.json` with the key `labels`: pairs of the name and the class of each
image, or null without classes (NVlabs/stylegan3, dataset_tool.py).
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from serving import codec
from serving.batch.formats.base import FORMATS, LABEL_COLUMN, Columns, Item


def write(shard: str, items: Sequence[Item], columns: Columns) -> dict[str, bytes]:
    """Return the file `<shard>.zip`. Columns other than the class are not written."""
    labels = None
    if LABEL_COLUMN in columns:
        labels = [[item.file_name, item.fields[LABEL_COLUMN]] for item in items]
    files = [(item.file_name, item.content) for item in items]
    content, _ = codec.archive([*files, ("dataset.json", json.dumps({"labels": labels}).encode())])
    return {f"{shard}.zip": content}


FORMATS.register("zip", write)
