"""Makes the shards of a loop with Daft, one row for each: `python -m benchmarks.peers.daft_shards LOOP PROCESSES`."""

import json
import sys
from pathlib import Path

import daft

from benchmarks.peers.shards import Loop, Shards

loop, processes = Loop(**json.loads(sys.argv[1])), int(sys.argv[2])


@daft.cls(max_concurrency=processes, use_process=True)
class Worker:
    """Holds the model."""

    def __init__(self) -> None:
        self.shards = Shards(loop)

    @daft.method.batch(return_dtype=daft.DataType.int64(), batch_size=1)
    def make(self, numbers: daft.Series) -> list[int]:
        """Make the shards `numbers` and return them."""
        for number in numbers.to_pylist():
            self.shards.make(number)
        return numbers.to_pylist()


Path(loop.output).mkdir(parents=True)
rows = daft.from_pydict({"shard": list(range(loop.shards))})
made = rows.select(Worker().make(rows["shard"])).to_pydict()
assert sorted(next(iter(made.values()))) == list(range(loop.shards)), "shards are missing"
