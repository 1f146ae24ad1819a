"""Small messages between the ranks of a run. They travel over the CPU, also when training uses GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist


class Ranks:
    """The ranks of the initialised torch.distributed group. Every rank must call each method at the same step."""

    def __init__(self) -> None:
        self.rank, self.count = dist.get_rank(), dist.get_world_size()
        # NCCL cannot send CPU tensors, and a host that waits for its GPU delays the GPU's next work.
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
        """Return the picklable values of all ranks, in order, on rank 0, and an empty list on other ranks."""
        values = [None] * self.count if self.is_main else None
        dist.gather_object(value, values, group=self._group)
        return values or []

    def share(self, value: Any) -> Any:
        """Return the picklable value of rank 0 on every rank."""
        values = [value]
        dist.broadcast_object_list(values, group=self._group)
        return values[0]
