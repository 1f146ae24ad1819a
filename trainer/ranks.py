"""Small messages between the ranks of a run, over the CPU on any device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist


class Ranks:
    """The ranks of an initialised torch.distributed group; every rank makes each call at the same step."""

    def __init__(self) -> None:
        self.rank, self.count = dist.get_rank(), dist.get_world_size()
        # NCCL carries no CPU tensors, and a host that waits for a GPU stalls it.
        self._group = None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes the run's files."""
        return self.rank == 0

    def highest(self, numbers: Sequence[int]) -> list[int]:
        """Return the largest of the ranks' numbers at each position, on every rank."""
        tensor = torch.tensor(numbers)
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self._group)
        return [int(number) for number in tensor.tolist()]

    def gather(self, value: Any) -> list[Any]:
        """Return the ranks' picklable values in order on rank 0, and nothing elsewhere."""
        values = [None] * self.count if self.is_main else None
        dist.gather_object(value, values, group=self._group)
        return values or []

    def share(self, value: Any) -> Any:
        """Return rank 0's picklable value, on every rank."""
        values = [value]
        dist.broadcast_object_list(values, group=self._group)
        return values[0]
