"""Small snapshots of real models, and one export of each that the tests read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from export.pipeline import export
from trainer import registry
from trainer.config import ModelComponent
from trainer.snapshot import Network, Snapshot, write_snapshot
from trainer.storage import Storage

GENERATOR = {"type": "dcgan_generator", "latent_dim": 8, "size": 16, "width": 4}
TRANSLATOR = {"type": "resnet_generator", "width": 4, "blocks": 0}
MakeSnapshot = Callable[..., str]


@pytest.fixture(scope="session")
def make_snapshot(tmp_path_factory: pytest.TempPathFactory) -> MakeSnapshot:
    """Writes a snapshot of freshly made networks, every weight multiplied by `scale`, and returns its place."""

    def make(task: str = "gan", scale: float = 1.0, **networks: Network) -> str:
        torch.manual_seed(0)
        weights = {}
        for name, network in networks.items():
            module: torch.nn.Module = registry.build(ModelComponent.model_validate(network.model))
            weights[name] = {
                key: tensor * scale if tensor.is_floating_point() else tensor
                for key, tensor in module.state_dict().items()
            }
        config: dict[str, Any] = {"run": {"seed": 0}}
        place = Storage(tmp_path_factory.mktemp("run"))
        return write_snapshot(place, Snapshot("toy", task, 640, True, 16, networks, config, weights))

    return make


@pytest.fixture(scope="session")
def gan(make_snapshot: MakeSnapshot) -> str:
    """The place of a snapshot with one generator."""
    return make_snapshot(generator=Network(GENERATOR))


@pytest.fixture(scope="session")
def cyclegan(make_snapshot: MakeSnapshot) -> str:
    """The place of a snapshot with two translators."""
    return make_snapshot("cyclegan", A2B=Network(TRANSLATOR, "AtoB"), B2A=Network(TRANSLATOR, "BtoA"))


@pytest.fixture(scope="session")
def generator(gan: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact of a generator."""
    (artifact,) = export(gan, str(tmp_path_factory.mktemp("repository")))
    return artifact
