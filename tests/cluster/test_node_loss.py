"""An elastic run continues on the remaining nodes when a node leaves the cluster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster

from tests.cluster.nodes import two_nodes_cluster
from tests.cluster.toys import config, events, newest_tensors, toy
from tests.trainer.fitting import Job, fit_ranks
from trainer.progress_actor import Update
from trainer.run import train

pytestmark = [pytest.mark.ray, pytest.mark.slow]

TOTAL = 1600


@pytest.fixture
def two_nodes() -> Iterator[Cluster]:
    with two_nodes_cluster() as cluster:
        yield cluster


@pytest.mark.timeout(400)
def test_elastic_run_survives_the_loss_of_a_node(tmp_path: Path, two_nodes: Cluster) -> None:
    def sgd(name: str) -> dict[str, Any]:
        data = toy("gan", tmp_path / name, total_images=TOTAL, workers={"min": 1, "max": 2})
        optimizer = {"type": "sgd", "lr": 0.001}
        return data | {"task": data["task"] | {f"{p}_optimizer": optimizer for p in ("generator", "discriminator")}}

    node = next(iter(two_nodes.worker_nodes))
    lost = False

    def lose(update: Update) -> None:
        nonlocal lost
        if update.seen >= TOTAL // 4 and not lost:
            lost = True
            two_nodes.remove_node(node, allow_graceful=False)

    fit_ranks([Job(sgd("alone"))], 2)
    train(config(sgd("disturbed")), show=lose)
    assert lost
    starts = [event for event in events(tmp_path / "disturbed") if event.startswith("training from")]
    assert starts[0] == "training from image 0 on with 2 workers on cpu"
    assert starts[-1].endswith(" on with 1 workers on cpu")
    assert "from image 0 " not in starts[-1]
    one, two = newest_tensors(tmp_path / "alone"), newest_tensors(tmp_path / "disturbed")
    weights = [name for name in one if name.startswith(("networks/", "ema/")) and one[name].is_floating_point()]
    differences = {name: float((one[name] - two[name]).norm() / one[name].norm().clamp_min(1e-6)) for name in weights}
    assert max(differences.values()) < 1e-3, differences
