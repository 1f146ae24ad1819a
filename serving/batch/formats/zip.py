"""The format `zip`: an uncompressed ZIP for each shard, in the layout of StyleGAN's data sets.

It holds image files in any folders, and `dataset.json` with the key `labels`: pairs of the name and the class of each
image, or null without classes (NVlabs/stylegan3, dataset_tool.py). `metadata.jsonl` has all columns, as in `images`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from serving import codec
from serving.batch.formats.base import FORMATS, LABEL_COLUMN, TABLE, Columns, Item, table


def write(shard: str, items: Sequence[Item], columns: Columns) -> dict[str, bytes]:
    """Return the file `<shard>.zip`."""
    files = [(path, item.images[column], item) for item in items for column, path in item.files.items()]
    labels = None
    if LABEL_COLUMN in columns:
        labels = [[path, item.fields.get(LABEL_COLUMN)] for path, _, item in files]
    described = [("dataset.json", json.dumps({"labels": labels}).encode()), (TABLE, table(items, columns))]
    content, _ = codec.archive([*((path, image) for path, image, _ in files), *described])
    return {f"{shard}.zip": content}


FORMATS.register("zip", write)
