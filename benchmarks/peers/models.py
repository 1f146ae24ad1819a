"""Exports the two models that the serving benchmarks use: DCGAN for 32 px and ResNet-9 at 128 px, weights random.

The weights are seeded, so every machine serves the same models. The networks are the project's own, and the project's
exporter proves them. Other servers load the same ONNX files.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from export.pipeline import export
from trainer import registry
from trainer.snapshot import Network, Snapshot, write_snapshot
from zorse_common.storage import Storage

DCGAN, RESNET = "dcgan32", "resnet9-AtoB"
SIZE = 128
"""Height and width, in pixels, of the images that ResNet-9 translates."""
NETWORKS: dict[str, tuple[str, dict[str, Any], int]] = {
    DCGAN: ("gan", {"type": "dcgan_generator", "latent_dim": 64, "channels": 1, "size": 32, "width": 16}, 32),
    RESNET: ("cyclegan", {"type": "resnet_generator", "width": 64, "blocks": 9}, SIZE),
}


def export_models(repository: Path) -> Path:
    """Export the models that `repository` lacks, and return `repository`."""
    for name in NETWORKS:
        if not model_file(repository, name).exists():
            with tempfile.TemporaryDirectory() as folder:
                export(_write_snapshot(Path(folder) / "run", name), str(repository), name=name.partition("-")[0])
    return repository


def model_file(repository: Path, name: str) -> Path:
    """Return the ONNX file of the model `name`."""
    return repository / name / "1" / "model.onnx"


def _write_snapshot(run: Path, name: str) -> str:
    """Write a snapshot of the untrained network `name` below the folder `run` and return its path."""
    task, model, size = NETWORKS[name]
    torch.manual_seed(0)
    network = registry.build(registry.resolve("model", model))
    networks = {"G": Network(model, "AtoB" if task == "cyclegan" else None, size)}
    return write_snapshot(Storage(run), Snapshot(name, task, 0, False, networks, {}, {"G": network.state_dict()}))
