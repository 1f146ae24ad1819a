"""What changes as a run trains: collected whole for a checkpoint, and restored on any number of workers."""

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
    from trainer.engine import Players  # DeepSpeed is for the workers alone


class State:
    """The networks, the optimisers, the average and what the task carries; `seen` counts the run's images."""

    def __init__(self, task: Task, players: Players, ema: Ema | None) -> None:
        self.seen = self.attempt = 0
        self.players = players
        self._task, self._ema = task, ema

    def advance(self, images: int) -> None:
        """Count a step's images and let the average follow."""
        self.seen += images
        if self._ema:
            self._ema.update(images, self.seen)

    def collect(self, ranks: Ranks) -> dict[str, Tensor]:
        """Every tensor by name, copied to the CPU, on rank 0; nothing elsewhere. Each rank must call it."""
        parts: dict[str, dict[str, Tensor]] = {
            "networks": self._task.networks.state_dict(),
            "optimizer": self.players.optimizer_state(),
            "ema": self._ema.networks.state_dict() if self._ema else {},
        }
        carried: dict[str, Tensor] = {}
        for part in ranks.gather({name: tensor.cpu() for name, tensor in self._task.state().items()}):
            carried |= part
        if not ranks.is_main:
            return {}
        return {
            f"{group}/{name}": tensor.detach().to("cpu", copy=True).contiguous()
            for group, tensors in (parts | {"task": carried}).items()
            for name, tensor in tensors.items()
        }

    def restore(self, checkpoint: Checkpoint, slots: Collection[int]) -> None:
        """Take over `checkpoint`; `slots` are those of the global batch that this rank's images have.

        Raises:
            CheckpointError: its tensors are not those of this run's networks.
        """
        parts: dict[str, dict[str, Tensor]] = {}
        for full_name, tensor in checkpoint.tensors.items():
            group, name = full_name.split("/", 1)
            parts.setdefault(group, {})[name] = tensor
        _load(self._task.networks, parts.get("networks", {}))
        if self._ema:
            _load(self._ema.networks, parts.get("ema", {}))
        self.players.load_optimizer_state(parts.get("optimizer", {}))
        self._task.load_state(parts.get("task", {}), slots)
        self.seen, self.attempt = checkpoint.images_seen, checkpoint.attempt


def _load(module: nn.Module, tensors: dict[str, Any]) -> None:
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"the checkpoint does not fit the networks ({reason}): use another run.dir") from error
