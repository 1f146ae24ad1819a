"""Snapshots: round trip, and refusal of damaged files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from trainer import registry
from trainer.errors import SnapshotError
from trainer.snapshot import Network, Snapshot, read_snapshot, write_snapshot
from zorse_common.storage import Storage

MODEL = {"type": "dcgan_generator", "latent_dim": 4, "channels": 1, "size": 16, "width": 4}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    module = registry.build(registry.resolve("model", MODEL))
    for seen in (10, 20):
        snapshot = Snapshot(
            name="run",
            task="gan",
            images_seen=seen,
            ema=True,
            networks={"G": Network(MODEL, None, 16)},
            config={"run": {"seed": 0}},
            weights={"G": module.state_dict()},
        )
        write_snapshot(Storage(tmp_path), snapshot)
    return tmp_path


def test_snapshot_that_is_newest_is_read_and_built(run: Path) -> None:
    snapshot = read_snapshot(str(run))
    assert (snapshot.images_seen, snapshot.ema, snapshot.config) == (20, True, {"run": {"seed": 0}})
    image = snapshot.build("G")(torch.zeros(2, 4))
    assert image.shape == (2, 1, 16, 16)


@pytest.mark.parametrize("part", ["weights.safetensors", "snapshot.json"])
def test_read_snapshot_refuses_changed_and_torn_files(run: Path, part: str) -> None:
    path = run / "snapshots" / "0000000020" / part
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(SnapshotError):
        read_snapshot(str(path.parent))


def test_read_snapshot_refuses_another_schema(run: Path) -> None:
    path = run / "snapshots" / "0000000020" / "snapshot.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99}))
    with pytest.raises(SnapshotError, match="schema version 99"):
        read_snapshot(str(run))


def test_read_snapshot_without_a_snapshot_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="neither a snapshot nor a run"):
        read_snapshot(str(tmp_path))
