"""Measures how well projection reconstructs 20 held-out images of a GAN's dataset, beside 20 images of the GAN.

    python -m benchmarks.projection RUN

RUN is the folder of a run, for example that of `zorse train digits`; its newest snapshot is used. The figures are the
PSNR of each reconstruction, the length of the latents over √dim, and the seconds of the search. Writes
`benchmarks/results/projection.json`.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.report import write_report
from trainer import registry
from trainer.data.tensors import denormalize
from trainer.errors import DataError, SnapshotError
from trainer.models.base import Generator
from trainer.projection import ProjectionSettings, project
from trainer.snapshot import Snapshot, read_snapshot
from zorse_common.random import normal

IMAGES = 20


def main() -> None:
    """Project both sets of images and write the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", help="a run of an unconditional GAN, or one of its snapshots")
    snapshot = read_snapshot(parser.parse_args().run)
    generator, settings = _generator(snapshot), ProjectionSettings()
    results = {
        "run": {"name": snapshot.name, "images_seen": snapshot.images_seen, "weights": snapshot.digest},
        "settings": dataclasses.asdict(settings),
        "held_out": _measure(generator, _held_out(snapshot), settings),
        "generated": _measure(generator, _generated(generator), settings),
    }
    write_report("projection", results)


def _generator(snapshot: Snapshot) -> Generator:
    for name in snapshot.networks:
        network = snapshot.build(name)
        if isinstance(network, Generator) and network.classes is None:
            return network
    raise SnapshotError(f"snapshot {snapshot.name} has no unconditional generator")


def _held_out(snapshot: Snapshot) -> NDArray[np.uint8]:
    """Return the first held-out images of the run's dataset: uint8 [20, size, size, channels]."""
    dataset = registry.build(registry.resolve("data", snapshot.config["data"]), seed=snapshot.config["run"]["seed"])
    (domain,) = dataset.spec.domains
    images = dataset.held_out(domain, IMAGES)
    if len(images) < IMAGES:
        raise DataError(f"the dataset holds out {len(images)} images and this benchmark needs {IMAGES}")
    return np.stack(images)


def _generated(generator: Generator) -> NDArray[np.uint8]:
    """Return images of latents that no search starts from: uint8 [20, size, size, channels]."""
    with torch.no_grad():
        images = generator(torch.from_numpy(normal(0, "benchmark/projection", range(IMAGES), generator.latent_dim)))
    return denormalize(images).permute(0, 2, 3, 1).numpy()


def _measure(generator: Generator, images: NDArray[np.uint8], settings: ProjectionSettings) -> dict[str, Any]:
    start = time.perf_counter()
    projection = project(generator, images, settings)
    seconds = time.perf_counter() - start
    lengths = np.linalg.norm(projection.latents, axis=1) / np.sqrt(generator.latent_dim)
    return {
        "psnr": {name: round(float(getattr(projection.psnr, name)()), 2) for name in ("mean", "min", "max")},
        "psnr_by_image": [round(float(value), 2) for value in projection.psnr],
        "mean_length_over_root_dim": round(float(lengths.mean()), 3),
        "seconds": round(seconds, 1),
    }


if __name__ == "__main__":
    main()
