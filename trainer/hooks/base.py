"""The base class of hooks, what hooks see of a run, and the order in which they are called."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer.background import BackgroundWriter
from trainer.data.base import Dataset
from trainer.progress_actor import RunAction
from trainer.ranks import Ranks
from trainer.run_config import RunConfig
from trainer.state import State
from trainer.tasks.base import Batch, Task
from trainer.tasks.build import make_batch
from zorse_common.storage import Storage


class Reporter(Protocol):
    """How workers talk to the run's driver. All calls return at once."""

    def progress(self, seen: int, figures: dict[str, float]) -> None:
        """Report that `seen` images of the run are done, with the newest figures."""

    def event(self, message: str) -> None:
        """Report something that a user should read."""

    def stop_reason(self, reason: str) -> None:
        """Report why the run stops before its end."""

    def stop_requested(self) -> bool:
        """Return whether the run should write a checkpoint and end."""


@dataclass
class TimeSpent:
    """Seconds that this rank has spent outside its steps: waiting for images, and in hooks."""

    waiting: float = 0.0
    hooks: float = 0.0


@dataclass
class Training:
    """A run in progress on one rank.

    Attributes:
        generators: the networks that leave the run, with the averaged weights if the run has an EMA.
        storage: the run's folder.
        files: writes to `storage` in the background.
        losses: the means of what the task logged since the means before; empty after steps that log nothing.
        scores: what hooks logged after the last step, such as an evaluation's figures.
        realness: by discriminator, the mean `real_probability` of real and of generated images since the figures
            before; empty after steps that log nothing.
        performance: this rank's speed, waits and memory since the figures before; empty after steps that log nothing.
        picture: the sample grid, a PNG file, drawn after the last step; None if none was drawn.
        requested_action: the action that this rank requests. Of the ranks' requests the highest is taken.
        agreed_action: the highest request of the ranks at their last agreement.
        last_healthy_image: a rollback may use checkpoints of up to this number of images.
        time_spent: the seconds that this rank has spent outside its steps.
    """

    config: RunConfig
    task: Task
    dataset: Dataset
    generators: nn.ModuleDict
    state: State
    storage: Storage
    files: BackgroundWriter
    reporter: Reporter
    ranks: Ranks
    device: torch.device
    losses: dict[str, float] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    realness: dict[str, tuple[float, float]] = field(default_factory=dict)
    performance: dict[str, float] = field(default_factory=dict)
    picture: bytes | None = None
    requested_action: RunAction = RunAction.CONTINUE
    agreed_action: RunAction = RunAction.CONTINUE
    last_healthy_image: float = math.inf
    time_spent: TimeSpent = field(default_factory=TimeSpent)

    def log(self, name: str, value: float) -> None:
        """Add a score of the last step's weights. Hooks of the stage `MEASURE` call this method on rank 0."""
        self.scores[name] = value

    def report(self, message: str) -> None:
        """Report an event that all ranks know of: only the call on rank 0 has an effect."""
        if self.is_main:
            self.reporter.event(message)

    def due(self, interval: int | None) -> bool:
        """Return whether the last step reached a multiple of `interval` images, or was the last step of the run."""
        before = self.seen - self.config.batch.global_size
        return self.finished or (interval is not None and self.seen // interval > before // interval)

    def make_batch(
        self, images: dict[str, Tensor], numbers: NDArray[np.int64], labels: NDArray[np.int64] | None = None
    ) -> Batch:
        """Call `trainer.tasks.build.make_batch` with this run's task, seed and device.

        Without `labels`, the classes of the dataset, if it has any, take turns: number n has label n mod classes.
        """
        classes = self.dataset.spec.classes
        if labels is None and classes is not None:
            labels = numbers % classes
        return make_batch(self.task, images, numbers, labels, seed=self.config.run.seed, device=self.device)

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[nn.ModuleDict]:
        """Yield the generators in evaluation mode, without gradients, and restore their mode afterwards."""
        was_training = self.generators.training
        self.generators.eval()
        try:
            with torch.no_grad():
                yield self.generators
        finally:
            self.generators.train(was_training)

    @property
    def figures(self) -> dict[str, float]:
        """The losses and scores logged after the last step."""
        return self.losses | self.scores

    @property
    def all_figures(self) -> dict[str, float]:
        """The figures, realness and performance of the last step in one mapping, for terminals and plots."""
        probabilities = {
            f"{name}({kind})": value
            for name, pair in self.realness.items()
            for kind, value in zip(("real", "fake"), pair, strict=True)
        }
        return self.figures | probabilities | self.performance

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that writes the run's files."""
        return self.ranks.is_main

    @property
    def seen(self) -> int:
        """The number of the run's images that are done."""
        return self.state.seen

    @property
    def step(self) -> int:
        """The number of steps that are done."""
        return self.seen // self.config.batch.global_size

    @property
    def finished(self) -> bool:
        """Whether the run has seen all its images."""
        return self.seen >= self.config.run.total_images


class Stage(IntEnum):
    """The order in which hooks are called after a step. Hooks of one stage do not depend on each other."""

    MEASURE = 0
    """Adds figures or pictures to the step."""
    RECORD = 1
    """Writes the step's figures and pictures."""
    SAVE = 2
    """Saves weights."""
    JUDGE = 3
    """Requests the run's next action."""


class Hook:
    """One side concern of the loop. Hooks run on every rank and must not change what a step computes."""

    stage: ClassVar[Stage]

    def start(self, training: Training) -> None:
        """Prepare: called before the first step of the run, after a resume and after a rollback."""

    def after_step(self, training: Training) -> None:
        """Act after each step; `training.seen` counts its images."""

    def finish(self, training: Training) -> None:
        """Finish: called after the last step of the run, before it is preempted or before a rollback."""
