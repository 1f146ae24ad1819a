"""Writes checkpoints every `run.checkpoint_images` images, at the end, and when the run is preempted."""

from __future__ import annotations

import operator
from concurrent.futures import Future
from typing import ClassVar

from trainer.checkpoint import Checkpoint, Checkpoints
from trainer.errors import CheckpointError
from trainer.finite import first_not_finite
from trainer.hooks.base import Hook, Stage, Training
from trainer.progress_actor import RunAction


class CheckpointWriter(Hook):
    """Copies the state to the CPU between two steps. A thread writes it while training continues."""

    stage: ClassVar[Stage] = Stage.SAVE

    def start(self, training: Training) -> None:
        """Prepare without writing: the state before the first step follows from the config."""
        self._checkpoints = Checkpoints(training.storage)
        self._writing: Future[None] | None = None
        self._losses: dict[str, float] = {}
        self._logged: set[str] = set()
        self._saved = training.seen

    def after_step(self, training: Training) -> None:
        """Write a checkpoint when it is due.

        Raises:
            trainer.errors.CheckpointError: an earlier checkpoint could not be written.
        """
        self._losses |= training.losses
        self._logged |= training.figures.keys()
        if self._writing and self._writing.done():
            self._wait()
        if training.due(training.config.run.checkpoint_interval):
            self._save(training)

    def finish(self, training: Training) -> None:
        """Write a checkpoint if the run is preempted, and wait for the last write. Raises as `after_step`."""
        if training.agreed_action is RunAction.PREEMPT and self._saved != training.seen:
            self._save(training)
        self._wait()

    def _save(self, training: Training) -> None:
        self._saved = training.seen
        tensors = training.state.state_dict(training.ranks)
        if not training.is_main:
            return
        dataset = training.dataset
        counts = {domain: dataset.count(domain) for domain in dataset.spec.domains}
        self._wait()
        checkpoint = Checkpoint(
            training.seen, tensors, training.state.rollback_count, self._score(training), counts, dataset.digest
        )
        self._writing = training.files.submit(self._publish, training, checkpoint)

    def _score(self, training: Training) -> float | None:
        """Return the figure of `run.best`: a score of this very step, or the newest mean of a loss.

        Without either the checkpoint has no score: an evaluation of other weights says nothing of it.

        Raises:
            trainer.errors.CheckpointError: the run is at its end and has logged no such figure.
        """
        best = training.config.run.best
        if best is None:
            return None
        if training.finished and best.metric not in self._logged:
            raise CheckpointError(
                f"run.best.metric {best.metric!r} is not one of the run's figures: {', '.join(sorted(self._logged))}"
            )
        return training.scores.get(best.metric, self._losses.get(best.metric))

    def _publish(self, training: Training, checkpoint: Checkpoint) -> None:
        broken = first_not_finite(checkpoint.tensors.items())
        if broken:
            training.reporter.event(f"no checkpoint at {checkpoint.images_seen} images: {broken} is not finite")
            return
        self._checkpoints.write(checkpoint)
        run = training.config.run
        better = None if run.best is None else operator.lt if run.best.mode == "min" else operator.gt
        self._checkpoints.prune(run.keep_checkpoints, better)

    def _wait(self) -> None:
        writing, self._writing = self._writing, None
        if writing:
            writing.result()
