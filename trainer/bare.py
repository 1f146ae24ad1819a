"""The step in plain PyTorch, without DeepSpeed, Ray or hooks: what their cost is measured against."""

from __future__ import annotations

import torch

from trainer.tasks.base import Batch, Task, only_trainable


class BareStep:
    """Takes a task's steps on one device with PyTorch's own optimisers."""

    def __init__(self, task: Task, device: torch.device, autocast: torch.dtype | None) -> None:
        task.networks.to(device)
        self._task, self._device, self._autocast = task, device, autocast
        self._optimizers = {
            phase.name: task.optimizer(phase).build(
                [p for name in phase.networks for p in task.networks[name].parameters()]
            )
            for phase in task.phases
        }

    def __call__(self, batches: list[Batch]) -> None:
        """One step over the micro-batches."""
        for phase in self._task.phases:
            for batch in batches:
                with only_trainable(self._task.networks, phase.networks):
                    with torch.autocast(self._device.type, self._autocast, enabled=self._autocast is not None):
                        losses = self._task.losses(phase, batch)
                    torch.autograd.backward(losses.total / len(batches))
            self._optimizers[phase.name].step()
            self._optimizers[phase.name].zero_grad()
