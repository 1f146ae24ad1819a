"""The state of a run: collected for a checkpoint, and restored on any number of workers."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from trainer.checkpoint import Checkpoint
from trainer.ema import Ema
from trainer.errors import CheckpointError
from trainer.ranks import Ranks
from trainer.tasks.base import Task

if TYPE_CHECKING:
    from trainer.engine import PlayerEngines  # only workers import DeepSpeed


class State:
    """The tensors of a run: networks, optimisers, EMA and the task's state.

    Attributes:
        seen: the number of the run's images that are done.
        rollback_count: the number of rollbacks before.
    """

    def __init__(self, task: Task, engines: PlayerEngines, ema: Ema | None) -> None:
        self.seen = self.rollback_count = 0
        self.engines = engines
        self._task, self._ema = task, ema

    def advance(self, images: int) -> None:
        """Count a step's images and update the EMA."""
        self.seen += images
        if self._ema:
            self._ema.update(images, self.seen)

    def state_dict(self, ranks: Ranks) -> dict[str, Tensor]:
        """Return every tensor, copied to the CPU, on rank 0, and an empty dict on other ranks.

        Names are `<group>/<name>`, with the groups networks, optimizer, ema and task. Each rank must call this method.
        """
        parts: dict[str, dict[str, Tensor]] = {
            "networks": self._task.networks.state_dict(),
            "optimizer": self.engines.optimizer_state(),
            "ema": self._ema.networks.state_dict() if self._ema else {},
        }
        task_state: dict[str, Tensor] = {}
        for part in ranks.gather({name: tensor.cpu() for name, tensor in self._task.state().items()}):
            task_state |= part
        if not ranks.is_main:
            return {}
        return {
            f"{group}/{name}": tensor.detach().to("cpu", copy=True).contiguous()
            for group, tensors in (parts | {"task": task_state}).items()
            for name, tensor in tensors.items()
        }

    def load_state_dict(self, checkpoint: Checkpoint, slots: Collection[int]) -> None:
        """Restore `checkpoint`. `slots` are this rank's slots of the global batch.

        Raises:
            CheckpointError: the checkpoint's tensors do not fit this run's networks.
        """
        parts: dict[str, dict[str, Tensor]] = {}
        for full_name, tensor in checkpoint.tensors.items():
            group, name = full_name.split("/", 1)
            parts.setdefault(group, {})[name] = tensor
        _load(self._task.networks, parts.get("networks", {}))
        if self._ema:
            _load(self._ema.networks, parts.get("ema", {}))
        self.engines.load_optimizer_state(parts.get("optimizer", {}))
        self._task.load_state(parts.get("task", {}), slots)
        self.seen, self.rollback_count = checkpoint.images_seen, checkpoint.rollback_count


def _load(module: nn.Module, tensors: dict[str, Any]) -> None:
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"the checkpoint does not fit the networks ({reason}): choose another run.dir") from error
