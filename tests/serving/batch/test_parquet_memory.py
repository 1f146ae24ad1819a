"""Row groups of Parquet files are held in memory for all files together."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pyarrow
from pyarrow import parquet

from serving.batch.inputs import list_inputs, read_entry

GROUP_BYTES = 2**20


def test_row_groups_of_many_files_are_not_all_held(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(GROUP_BYTES)
    for number in range(8):
        table = pyarrow.table({"image": [content]})
        parquet.write_table(table, tmp_path / f"{number}.parquet", compression="none", use_dictionary=False)
    del table
    entries = list_inputs(str(tmp_path)).entries
    gc.collect()
    before = pyarrow.total_allocated_bytes()
    assert [len(read_entry(entry).image) for entry in entries] == [GROUP_BYTES] * 8
    assert pyarrow.total_allocated_bytes() - before < 4 * GROUP_BYTES
