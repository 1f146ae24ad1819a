"""Writes snapshots at the start, every `run.snapshot_images` images and at the end."""

from __future__ import annotations

from concurrent.futures import Future
from typing import ClassVar

from trainer import registry
from trainer.hooks.base import Hook, Stage, Training
from trainer.snapshot import Network, Snapshot, write_snapshot


class Snapshots(Hook):
    """Copies the generators to the CPU; a thread writes them. The first snapshot holds the untrained generators."""

    stage: ClassVar[Stage] = Stage.SAVE

    def start(self, training: Training) -> None:
        """Write the snapshot of the untrained generators."""
        self._writing: Future[str] | None = None
        if training.seen == 0:
            self._save(training)

    def after_step(self, training: Training) -> None:
        """Write a snapshot when it is due.

        Raises:
            trainer.errors.SnapshotError: an earlier snapshot could not be written.
        """
        if training.due(training.config.run.snapshot_images):
            self._save(training)

    def finish(self, training: Training) -> None:
        """Wait until the last snapshot is written. Raises as `after_step`."""
        self._wait()

    def _save(self, training: Training) -> None:
        if not training.is_main:
            return
        self._wait()
        domains = training.dataset.spec.domains
        networks = {
            name: Network(
                model=export.model.model_dump(mode="json"),
                direction=export.direction,
                source=export.source,
                size=domains[export.source or export.target].size or 0,
            )
            for name, export in training.task.exports().items()
        }
        snapshot = Snapshot(
            name=training.storage.name,
            task=registry.type_of(training.config.task),
            images_seen=training.seen,
            ema=training.config.ema is not None,
            networks=networks,
            config=training.config.model_dump(mode="json"),
            weights={
                name: {
                    key: tensor.to("cpu", copy=True) for key, tensor in training.generators[name].state_dict().items()
                }
                for name in networks
            },
        )
        self._writing = training.files.submit(write_snapshot, training.storage, snapshot)

    def _wait(self) -> None:
        writing, self._writing = self._writing, None
        if writing:
            writing.result()
