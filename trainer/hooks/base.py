"""What a hook sees of a run, and how it reaches the outside."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import nn

from trainer.config import RunConfig
from trainer.data.base import Source
from trainer.storage import Storage
from trainer.tasks.base import Task


class Reporter(Protocol):
    """The outside, as the loop and the hooks see it; calls return at once."""

    def progress(self, seen: int, metrics: dict[str, float]) -> None:
        """`seen` images of the run are done; `metrics` are the newest means."""

    def event(self, message: str) -> None:
        """Something a person should know."""


@dataclass(frozen=True)
class Update:
    """What the workers last reported: images seen, newest means, and all events so far."""

    seen: int = 0
    metrics: dict[str, float] | None = None
    events: tuple[str, ...] = ()


@dataclass
class Training:
    """A run in progress. `generators` hold the weights that leave the run: the EMA ones when there is one."""

    config: RunConfig
    task: Task
    source: Source
    generators: nn.ModuleDict
    storage: Storage
    reporter: Reporter
    device: torch.device
    is_main: bool
    seen: int = 0
    metrics: dict[str, float] = field(default_factory=dict)

    def due(self, interval: int | None) -> bool:
        """Whether the step just done crossed a multiple of `interval` images, or was the last one."""
        before = self.seen - self.config.batch.global_size
        return self.finished or (interval is not None and self.seen // interval > before // interval)

    @property
    def step(self) -> int:
        """How many steps are done."""
        return self.seen // self.config.batch.global_size

    @property
    def finished(self) -> bool:
        """Whether the run has seen all its images."""
        return self.seen >= self.config.run.total_images


class Hook(Protocol):
    """One side concern of the loop. Hooks run on every rank and must not touch the training's maths."""

    def start(self, training: Training) -> None:
        """Before the first step."""

    def after_step(self, training: Training) -> None:
        """After each step; `training.seen` counts its images."""
