"""The format `parquet`: a Parquet file for each shard, which `datasets` opens as a data set of images.

The column `image` is a struct of `bytes`, an image file, and `path`, its name. The other columns are those of the job.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import pyarrow
from pyarrow import parquet

from serving.batch.formats.base import FORMATS, Columns, Item

ROWS_PER_GROUP = 256
"""The rows of a row group: a fixed number, so that equal images give equal bytes."""
_IMAGE = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
_TYPES = {int: pyarrow.int64(), str: pyarrow.string()}


def write(shard: str, items: Sequence[Item], columns: Columns) -> dict[str, bytes]:
    """Return the file `<shard>.parquet`."""
    images = [{"bytes": item.content, "path": item.file_name} for item in items]
    arrays = {"image": pyarrow.array(images, _IMAGE)}
    for name, kind in columns.items():
        arrays[name] = pyarrow.array([item.fields[name] for item in items], _TYPES[kind])
    features = {"image": {"_type": "Image"}}
    features |= {name: {"dtype": str(_TYPES[kind]), "_type": "Value"} for name, kind in columns.items()}
    description = {"huggingface": json.dumps({"info": {"features": features}})}
    sink = pyarrow.BufferOutputStream()
    # Image files do not shrink again. Statistics of image files would store the smallest and largest of them.
    parquet.write_table(
        pyarrow.table(arrays).replace_schema_metadata(description),
        sink,
        row_group_size=ROWS_PER_GROUP,
        compression="none",
        use_dictionary=False,
        write_statistics=False,
    )
    return {f"{shard}.parquet": sink.getvalue().to_pybytes()}


FORMATS.register("parquet", write)
