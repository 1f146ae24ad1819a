"""Inputs that fail after they were decoded become rows, and leave their neighbours."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from export.interface import SOURCE
from serving.artifacts import load
from serving.batch import stages
from serving.batch.formats.base import Item
from serving.batch.inputs import list_inputs
from serving.batch.pipeline import Stopwatch
from serving.batch.runner import Runner
from serving.batching import Tensors
from serving.errors import EngineError
from serving.opening import load_checked_engine
from tests.serving.batch.jobs import make_all, plan_of
from zorse_common.image_writer import encode


class _LimitedEngine:
    """An engine that fails for more values than `most` in one run."""

    def __init__(self, model: Path, most: int) -> None:
        self._engine, self._most = load_checked_engine(load(model), "cpu", 1), most
        self.providers = self._engine.providers

    def run(self, tensors: Tensors) -> dict[str, NDArray[Any]]:
        if tensors[SOURCE].size > self._most:
            raise EngineError("failed to allocate memory")
        return self._engine.run(tensors)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.png").write_bytes(encode(np.full((20, 24, 3), number, np.uint8)))
    (folder / "large.png").write_bytes(encode(np.zeros((90, 90, 3), np.uint8)))
    return folder


def _translated(model: Path, photos: Path, engine: _LimitedEngine) -> list[stages.Result]:
    manifest = load(model).manifest
    inputs = [stages.Input(i, entry.name, entry) for i, entry in enumerate(list_inputs(str(photos)).entries)]
    with ThreadPoolExecutor(1) as pool:
        return list(stages.translate([Runner(manifest, engine, 8)], plan_of(manifest), inputs, pool, Stopwatch()))


def test_input_that_fails_in_the_model_is_a_row_beside_its_neighbours(repository: Path, photos: Path) -> None:
    model = repository / "invert"
    expected = _translated(model, photos, _LimitedEngine(model, 2**30))
    found = _translated(model, photos, _LimitedEngine(model, 2 * 32 * 32 * 3))
    assert found[:5] == expected[:5]
    assert all(isinstance(one, Item) for one in expected)
    assert found[5] == stages.BadItem(5, "large.png", "failed to allocate memory")


def test_model_that_fails_for_every_input_ends_the_job(repository: Path, photos: Path) -> None:
    model = repository / "invert"
    with pytest.raises(EngineError, match="failed to allocate"):
        _translated(model, photos, _LimitedEngine(model, 0))


def test_image_that_the_format_cannot_hold_is_a_row(repository: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "wide.png").write_bytes(encode(np.zeros((8, 16_400, 3), np.uint8)))
    keys = {"tile": True}
    plan = plan_of(load(repository / "invert").manifest, format="images", image_format="webp", keys=keys)
    outcomes = make_all(repository / "invert", plan, tmp_path / "out", str(photos))
    (bad,) = [error for outcome in outcomes for error in outcome.record.errors]
    assert bad.name == "wide.png"
    assert sum(outcome.record.count for outcome in outcomes) == 6
