"""Snapshots at the start, every `run.snapshot_images` images and at the end."""

from __future__ import annotations

from trainer import registry
from trainer.hooks.base import Training
from trainer.snapshot import Network, Snapshot, write_snapshot


class Snapshots:
    """Writes the generators; the one at 0 images is the untrained reference."""

    def start(self, training: Training) -> None:
        """Write the untrained generators."""
        if training.seen == 0:
            self._write(training)

    def after_step(self, training: Training) -> None:
        """Write when due."""
        if training.due(training.config.run.snapshot_images):
            self._write(training)

    def finish(self, training: Training) -> None:
        """The last snapshot is written."""

    def _write(self, training: Training) -> None:
        if not training.is_main:
            return
        config = registry.resolved(training.config)
        model = config["task"]["generator"]
        networks = {
            name: Network(model=model, direction=direction) for name, direction in training.task.generators.items()
        }
        snapshot = Snapshot(
            name=training.storage.name,
            task=training.config.task.type,
            images_seen=training.seen,
            ema=training.config.ema is not None,
            size=training.source.size,
            networks=networks,
            config=config,
            weights={name: training.generators[name].state_dict() for name in networks},
        )
        write_snapshot(training.storage, snapshot)
