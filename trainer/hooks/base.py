"""What a hook sees of a run, and how it reaches the outside."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

import torch
from torch import nn

from trainer.background import BackgroundWriter
from trainer.data.base import Dataset
from trainer.ranks import Ranks
from trainer.run_config import RunConfig
from trainer.state import State
from trainer.tasks.base import Batch, Task
from zorse_common.storage import Storage


class Reporter(Protocol):
    """The outside, as the loop and the hooks see it; calls return at once."""

    def progress(self, seen: int, metrics: dict[str, float]) -> None:
        """`seen` images of the run are done; `metrics` are the newest means."""

    def event(self, message: str) -> None:
        """Something a person should know."""

    def stop_requested(self) -> bool:
        """Whether the run should write a checkpoint and end."""


@dataclass(frozen=True)
class Update:
    """What the workers last reported: images seen, newest means, and all events so far."""

    seen: int = 0
    metrics: dict[str, float] | None = None
    events: tuple[str, ...] = ()


class Verdict(IntEnum):
    """What becomes of the run after a step; of the ranks' wishes the highest counts."""

    GO_ON = 0
    PREEMPT = 1
    ROLL_BACK = 2
    STOP = 3


@dataclass
class Spent:
    """Seconds that this rank has spent outside its steps: waiting for images, and in hooks."""

    waiting: float = 0.0
    hooks: float = 0.0


@dataclass
class Training:
    """A run in progress.

    `generators` hold the weights that leave the run: the EMA ones when there is one. `files` writes to `storage` while
    training goes on. `metrics` are the newest means and `picture` the newest sample grid (PNG), both empty save after
    the steps that made them; `batches` are this rank's newest images. `wish` is what this rank wants next, `verdict`
    what all ranks agreed on after the last step; a rollback trusts the run up to image `sound_until`.
    """

    config: RunConfig
    task: Task
    source: Dataset
    generators: nn.ModuleDict
    state: State
    storage: Storage
    files: BackgroundWriter
    reporter: Reporter
    ranks: Ranks
    device: torch.device
    metrics: dict[str, float] = field(default_factory=dict)
    picture: bytes | None = None
    wish: Verdict = Verdict.GO_ON
    verdict: Verdict = Verdict.GO_ON
    batches: list[Batch] = field(default_factory=list)
    spent: Spent = field(default_factory=Spent)
    sound_until: float = math.inf

    def due(self, interval: int | None) -> bool:
        """Whether the step just done crossed a multiple of `interval` images, or was the last one."""
        before = self.seen - self.config.batch.global_size
        return self.finished or (interval is not None and self.seen // interval > before // interval)

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that writes the run's files."""
        return self.ranks.is_main

    @property
    def seen(self) -> int:
        """How many of the run's images are done."""
        return self.state.seen

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
        """Before the first step: of the run, after a resume or after a rollback."""

    def after_step(self, training: Training) -> None:
        """After each step; `training.seen` counts its images."""

    def finish(self, training: Training) -> None:
        """After the last step: of the run, before it is preempted or before a rollback."""
