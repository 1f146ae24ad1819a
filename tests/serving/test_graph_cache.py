"""Optimised graphs are kept, and nothing depends on that they are."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from serving import artifacts, graph_cache
from serving.engine import OrtEngine
from serving.service import LocalModel
from tests.serving.tiny import LATENT_DIM, generator_graph


@pytest.fixture
def entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the entries go."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "zorse" / "graphs"


@pytest.fixture
def artifact(repository: Path) -> artifacts.Artifact:
    return artifacts.load(repository / "digits")


def _image(artifact: artifacts.Artifact, **keys: object) -> np.ndarray:
    engine = OrtEngine(artifact.model, "cpu", 1, digest=artifact.digest, **keys)  # type: ignore[arg-type]
    batch = 2 if "axes" in keys else 3
    return engine.run({"latent": np.full((batch, LATENT_DIM), 0.5, dtype=np.float32)})["image"]


def test_the_second_start_takes_the_kept_graph_and_makes_the_same_images(
    entries: Path, artifact: artifacts.Artifact
) -> None:
    first = _image(artifact)
    (entry,) = entries.iterdir()
    os.utime(entry, (1, 1))
    np.testing.assert_array_equal(_image(artifact), first)
    assert [path.stat().st_mtime for path in entries.iterdir()] == [1]


def test_graphs_with_other_axes_are_kept_apart(entries: Path, artifact: artifacts.Artifact) -> None:
    np.testing.assert_array_equal(_image(artifact, axes={"batch": 2}), _image(artifact)[:2])
    assert len(list(entries.iterdir())) == 2


def test_an_entry_that_does_not_load_is_forgotten(entries: Path, artifact: artifacts.Artifact) -> None:
    first = _image(artifact)
    (entry,) = entries.iterdir()
    content = entry.read_bytes()
    entry.write_bytes(bytes(len(content)))
    np.testing.assert_array_equal(_image(artifact), first)
    assert list(entries.iterdir()) == []
    _image(artifact)
    assert entry.read_bytes() == content


def test_an_entry_that_makes_other_images_is_forgotten(
    entries: Path, artifact: artifacts.Artifact, repository: Path
) -> None:
    first = LocalModel.load(artifact.path, "cpu").generate(3)
    (entry,) = entries.iterdir()
    weight = next(tensor for tensor in generator_graph().graph.initializer if tensor.name == "weight").raw_data
    content = bytearray(entry.read_bytes())
    place = content.index(weight)
    content[place : place + len(weight)] = np.full(len(weight) // 4, 3, np.float32).tobytes()
    entry.write_bytes(content)
    np.testing.assert_array_equal(LocalModel.load(artifact.path, "cpu").generate(3), first)
    assert entry.read_bytes() != content


def test_a_damaged_entry_is_made_anew(entries: Path, artifact: artifacts.Artifact) -> None:
    first = _image(artifact)
    (entry,) = entries.iterdir()
    size = entry.stat().st_size
    os.truncate(entry, size // 2)
    np.testing.assert_array_equal(_image(artifact), first)
    assert [path.stat().st_size for path in entries.iterdir()] == [size]


def test_where_nothing_can_be_kept_models_run_all_the_same(
    tmp_path: Path, artifact: artifacts.Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert _image(artifact).shape[0] == 3


def test_the_oldest_entries_and_rests_go(entries: Path, artifact: artifacts.Artifact) -> None:
    (entries / ".staging-dead").mkdir(parents=True)
    os.utime(entries / ".staging-dead", (1, 1))
    for number in range(3):
        entry = entries / f"{number}-0.onnx"
        entry.touch()
        os.truncate(entry, graph_cache.MOST_BYTES // 2 - 1)  # sparse: it takes no room
        os.utime(entry, (number + 1, number + 1))
    _image(artifact)
    left = {path.name for path in entries.iterdir()}
    assert left.isdisjoint({".staging-dead", "0-0.onnx", "1-0.onnx"})
    assert "2-0.onnx" in left
    assert len(left) == 2
