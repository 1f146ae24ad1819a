"""Takes a task's step in plain PyTorch, without DeepSpeed, Ray and hooks.

This module measures nothing itself and writes nothing: `benchmarks.step` and `benchmarks.host` compare with its step.
"""

from __future__ import annotations

import torch

from trainer.tasks.base import Batch, Task, only_trainable, trained_sets


class BareStep:
    """Takes a task's steps on one device with PyTorch's optimisers. `autocast` is the precision, None for float32."""

    def __init__(self, task: Task, device: torch.device, autocast: torch.dtype | None) -> None:
        task.networks.to(device)
        self._task, self._device, self._autocast = task, device, autocast
        self._optimizers = {
            networks: task.optimizer(networks).build(
                [p for name in networks for p in task.networks[name].parameters() if p.requires_grad]
            )
            for networks in trained_sets(task.phases)
        }

    def __call__(self, batches: list[Batch]) -> None:
        """Take one step: every phase once, with gradients averaged over the micro-batches."""
        for phase in self._task.phases:
            for batch in batches:
                with only_trainable(self._task.networks, phase.networks):
                    with torch.autocast(self._device.type, self._autocast, enabled=self._autocast is not None):
                        losses = self._task.losses(phase, batch)
                    torch.autograd.backward(losses.total / len(batches))
            optimizer = self._optimizers[phase.networks]
            if (limit := self._task.optimizer(phase.networks).clip_norm) is not None:
                parameters = [p for group in optimizer.param_groups for p in group["params"]]
                torch.nn.utils.clip_grad_norm_(parameters, limit)
            optimizer.step()
            optimizer.zero_grad()
