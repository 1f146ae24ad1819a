"""Checkpoints: round trip, damage, pruning, full disks and changed images."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import operator
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainer.checkpoint import (
    INFO_FILE,
    MANIFEST_FILE,
    STATE_FILE,
    Checkpoint,
    Checkpoints,
    NewestCheckpoint,
    changed_images,
)
from trainer.errors import CheckpointError, DataError
from zorse_common.storage import Storage

FILES = (STATE_FILE, INFO_FILE, MANIFEST_FILE)


def _checkpoint(seen: int, **fields: Any) -> Checkpoint:
    return Checkpoint(
        seen, {"networks/G.weight": torch.full((3, 4), float(seen)), "ema/steps": torch.tensor(7)}, **fields
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with checkpoints of 100 and of 200 images."""
    checkpoints = Checkpoints(Storage(tmp_path))
    for seen in (100, 200):
        checkpoints.write(_checkpoint(seen, rollback_count=1, score=0.5, counts={"image": 6}, data_digest="abc"))
    return tmp_path


def test_checkpoint_round_trip(run: Path) -> None:
    checkpoints = Checkpoints(Storage(run))
    assert checkpoints.find_newest() == NewestCheckpoint(200, [])
    assert checkpoints.find_newest(until=150) == NewestCheckpoint(100, [])
    read, written = checkpoints.read(200), _checkpoint(200, rollback_count=1, score=0.5)
    assert (read.images_seen, read.rollback_count, read.score) == (200, 1, 0.5)
    assert (read.counts, read.data_digest) == ({"image": 6}, "abc")
    assert read.tensors.keys() == written.tensors.keys()
    assert all(torch.equal(read.tensors[key], written.tensors[key]) for key in written.tensors)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied", "removed"])
def test_find_newest_names_a_damaged_checkpoint_and_returns_the_one_before(run: Path, file: str, damage: str) -> None:
    path = run / "checkpoints" / f"{200:012d}" / file
    content = bytearray(path.read_bytes())
    if damage == "removed":
        path.unlink()
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes({"truncated": content[:-1], "flipped": content, "emptied": b""}[damage])
    newest = Checkpoints(Storage(run)).find_newest()
    assert newest.images_seen == 100
    assert len(newest.damaged) == 1
    assert f"{200:012d}" in newest.damaged[0]
    assert file in newest.damaged[0]


@pytest.mark.parametrize("file", FILES)
def test_find_newest_detects_any_single_flipped_bit(run: Path, file: str) -> None:
    path = run / "checkpoints" / f"{200:012d}" / file
    content = path.read_bytes()
    checkpoints = Checkpoints(Storage(run))
    for bit in np.random.default_rng(0).choice(8 * len(content), size=200, replace=False).tolist():
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        assert checkpoints.find_newest().images_seen == 100, (bit, flipped)


def test_find_newest_returns_none_if_all_are_damaged(run: Path) -> None:
    for seen in (100, 200):
        (run / "checkpoints" / f"{seen:012d}" / STATE_FILE).write_bytes(b"")
    newest = Checkpoints(Storage(run)).find_newest()
    assert newest.images_seen is None
    assert len(newest.damaged) == 2


def test_write_replaces_a_damaged_checkpoint(run: Path) -> None:
    (run / "checkpoints" / f"{200:012d}" / STATE_FILE).write_bytes(b"")
    checkpoints = Checkpoints(Storage(run))
    checkpoints.write(_checkpoint(200))
    assert checkpoints.find_newest() == NewestCheckpoint(200, [])


@pytest.mark.parametrize(("mode", "kept"), [("min", [200, 400, 500]), ("max", [300, 400, 500])])
def test_prune_keeps_the_newest_and_the_best(run: Path, mode: str, kept: list[int]) -> None:
    checkpoints = Checkpoints(Storage(run))
    for seen, score in ((100, 0.6), (200, 0.1), (300, 0.9), (400, 0.5), (500, None)):
        checkpoints.write(_checkpoint(seen, score=score))
    checkpoints.prune(2, operator.lt if mode == "min" else operator.gt)
    assert [int(path.name) for path in sorted((run / "checkpoints").iterdir())] == kept


def test_prune_does_not_count_unpublished_checkpoints(run: Path) -> None:
    checkpoints = Checkpoints(Storage(run))
    (run / "checkpoints" / f"{200:012d}" / MANIFEST_FILE).unlink()
    checkpoints.write(_checkpoint(150))
    checkpoints.prune(1)
    assert checkpoints.find_newest().images_seen == 150


def test_prune_never_takes_a_score_that_is_not_finite_for_the_best(run: Path) -> None:
    checkpoints = Checkpoints(Storage(run))
    for seen, score in ((100, math.nan), (200, 0.3), (300, 0.5), (400, 0.4)):
        checkpoints.write(_checkpoint(seen, score=score))
    checkpoints.prune(1, operator.lt)
    assert [int(path.name) for path in sorted((run / "checkpoints").iterdir())] == [200, 400]


def test_forget_after_removes_later_checkpoints_and_snapshots(run: Path) -> None:
    checkpoints = Checkpoints(Storage(run))
    checkpoints.forget_after(100)
    assert [path.name for path in (run / "checkpoints").iterdir()] == [f"{100:012d}"]


class _FullStorage(Storage):
    """A disk with room for small files only."""

    def write(self, name: str, content: bytes) -> None:
        if len(content) > 100:
            super().write(name, content[:100])
            raise OSError(errno.ENOSPC, "No space left on device")
        super().write(name, content)


def test_write_to_a_full_disk_is_one_clear_error_and_older_checkpoints_stay(run: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot be written .*No space left.*the one of 200 images is intact"):
        Checkpoints(_FullStorage(run)).write(_checkpoint(300))
    assert Checkpoints(Storage(run)).find_newest().images_seen == 200
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [f"{100:012d}", f"{200:012d}"]


def test_find_newest_refuses_another_schema_version(run: Path) -> None:
    folder = run / "checkpoints" / f"{200:012d}"
    text = (folder / INFO_FILE).read_text().replace('"schema_version": 1', '"schema_version": 99')
    (folder / INFO_FILE).write_text(text)
    entry = json.loads((folder / MANIFEST_FILE).read_text())
    entry["files"][INFO_FILE] = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "nbytes": len(text)}
    (folder / MANIFEST_FILE).write_text(json.dumps(entry))
    with pytest.raises(CheckpointError, match=r"schema version 99 and this zorse reads 1"):
        Checkpoints(Storage(run)).find_newest()


def test_changed_images_are_refused_unless_allowed() -> None:
    saved = Checkpoint(100, {}, counts={"A": 6, "B": 7}, data_digest="one")
    assert changed_images(saved, {"A": 6, "B": 7}, "one", allowed=False) is None
    for counts, digest, change in (
        ({"A": 6, "B": 7}, "two", "as many, but other files"),
        ({"A": 6, "B": 8}, "two", "{'A': 6, 'B': 7} -> {'A': 6, 'B': 8}"),
    ):
        with pytest.raises(DataError, match=rf"\({re.escape(change)}\): restore them, or resume with --allow-new-data"):
            changed_images(saved, counts, digest, allowed=False)
        assert changed_images(saved, counts, digest, allowed=True) == change
