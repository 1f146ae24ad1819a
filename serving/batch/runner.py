"""Runs a model for a batch job: feeds of any sizes, merged to as large batches as the plan allows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from export.feeds import Feeds
from export.interface import SOURCE, Interface
from export.manifest import Manifest
from serving import artifacts, feeds
from serving.answers import Origin
from serving.batching import Key, Tensors, capacity, chunks, group_key, merge, rows, split
from serving.config import Batching, Device
from serving.engine import Engine
from serving.opening import load_checked_engine


class Runner:
    """A model in this process."""

    def __init__(self, manifest: Manifest, engine: Engine, batch: int) -> None:
        """Use `engine` for the model of `manifest`; up to `batch` rows run together."""
        self.manifest = manifest
        self._engine, self._batching = engine, Batching(max_size=batch)

    @classmethod
    def load(cls, uri: str, device: Device, batch: int, gpu_fraction: float = 1.0) -> Runner:
        """Open the model at `uri`. A run uses one CPU thread: several processes are faster than several threads.

        `gpu_fraction` is the part of the GPU's memory that the process may use.

        Raises:
            ArtifactError: there is no sound artifact.
            EngineError: the graph does not run on `device`.
        """
        artifact = artifacts.load(uri)
        return cls(artifact.manifest, load_checked_engine(artifact, device, 1, gpu_fraction), batch)

    @property
    def interface(self) -> Interface:
        """The model's inputs and outputs."""
        return self.manifest.interface

    @cached_property
    def origin(self) -> Origin:
        """The facts of the model in its images."""
        return Origin.of(self.manifest)

    def run(self, every: Sequence[Feeds]) -> list[Tensors]:
        """Return the outputs for each of `every`. Feeds of equal padded shapes run together.

        Raises:
            EngineError: the graph fails.
        """
        padded = [feeds.pad(self.interface, self.manifest.buckets, one) for one in every]
        groups: dict[Key, list[int]] = {}
        for position, one in enumerate(padded):
            groups.setdefault(group_key(one), []).append(position)
        outputs: dict[int, Tensors] = {}
        for key, positions in groups.items():
            together = merge([padded[position] for position in positions])
            parts = [self._engine.run(part) for part in chunks(together, capacity(key, self._batching))]
            counts = [rows(padded[position]) for position in positions]
            outputs |= zip(positions, split(merge(parts), counts), strict=True)
        return [feeds.crop(self.interface, one, outputs[position]) for position, one in enumerate(every)]

    def run_smallest(self) -> None:
        """Run a translator with an image of one pixel, which is padded to the smallest legal size.

        Raises:
            EngineError: the graph fails.
        """
        channels = feeds.source_channels(self.interface)
        self.run([{SOURCE: np.zeros((1, 1, 1, channels), np.uint8)}])
