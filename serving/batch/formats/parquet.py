"""The format `parquet`: a Parquet file for each shard, which `datasets` opens as a data set of images.

Each column of images is a struct of `bytes`, an image file, and `path`, its name. JSON is text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow
from pyarrow import parquet

from serving.batch.formats.base import FORMATS, Columns, Item, Kind, to_json

ROWS_PER_GROUP = 256
"""The rows of a row group: a fixed number, so that equal images give equal bytes."""
_TYPES: dict[Kind, Any] = {
    "image": pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())]),
    "index": pyarrow.int64(),
    "int": pyarrow.int64(),
    "float": pyarrow.float64(),
    "bool": pyarrow.bool_(),
    "str": pyarrow.string(),
    "json": pyarrow.string(),
}


def write(shard: str, items: Sequence[Item], columns: Columns) -> dict[str, bytes]:
    """Return the file `<shard>.parquet`."""
    arrays, features = {}, {}
    for name, kind in columns.items():
        arrays[name] = pyarrow.array([_cell(item, name, kind) for item in items], _TYPES[kind])
        is_image = kind == "image"
        features[name] = {"_type": "Image"} if is_image else {"dtype": _dtype(_TYPES[kind]), "_type": "Value"}
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


def _cell(item: Item, name: str, kind: Kind) -> Any:
    if kind == "image":
        return {"bytes": item.images[name], "path": f"{item.name}.{item.suffix}"}
    value = item.fields.get(name)
    return to_json(value) if kind == "json" and value is not None else value


def _dtype(kind: Any) -> str:
    """Return the name that `datasets` has for an Arrow type."""
    return {"double": "float64"}.get(str(kind), str(kind))


FORMATS.register("parquet", write)
