"""Shards: the same bytes by any batch and repetition, and the pictures of online requests."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from serving.artifacts import load
from serving.batch.formats.base import FORMATS
from serving.batch.output import BadItem
from serving.batch.shard import Task
from serving.batch.sources.base import Entry
from serving.batch.stages import Input
from serving.local_model import LocalModel
from tests.serving.batch.jobs import files_of, images_of, make_all, plan_of
from tests.serving.tiny import conditional_manifest, generator_graph, write
from zorse_common.image_writer import encode


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with images of four sizes, a large one, and two that are damaged."""
    folder, random = tmp_path / "photos", np.random.default_rng(0)
    (folder / "zoo").mkdir(parents=True)
    for number in range(13):
        pixels = random.integers(0, 256, (20 + 4 * (number % 4), 33, 3), dtype=np.uint8)
        (folder / f"zoo/{number:02d}.png").write_bytes(encode(pixels))
    (folder / "large.png").write_bytes(encode(np.zeros((400, 30, 3), np.uint8)))
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "zoo/07.png").write_bytes((folder / "zoo/08.png").read_bytes()[:300])
    return folder


@pytest.mark.parametrize("name", FORMATS.names())
def test_generated_shard_is_the_same_for_any_batch(name: str, repository: Path, tmp_path: Path) -> None:
    plan = plan_of(load(repository / "digits").manifest, format=name)
    for batch in (4, 1, 3):
        make_all(repository / "digits", plan.model_copy(update={"batch": batch}), tmp_path / f"{batch}")
        assert files_of(tmp_path / f"{batch}/shards") == files_of(tmp_path / "4/shards")
    make_all(repository / "digits", plan, tmp_path / "again")
    assert files_of(tmp_path / "again") == files_of(tmp_path / "4")


def test_generated_files_are_those_of_single_requests(repository: Path, tmp_path: Path) -> None:
    plan = plan_of(load(repository / "digits").manifest, format="images", keys={"seed": 5, "first": 100})
    make_all(repository / "digits", plan, tmp_path)
    model = LocalModel.load(repository / "digits")
    for number in (0, 9, 19):
        file = tmp_path / f"shards/{number // 8:06d}/5_{100 + number:06d}.png"
        assert file.read_bytes() == model.fetch("generate", n=1, seed=5, first=100 + number).content


@pytest.mark.parametrize("image_format", ["jpeg", "webp", "npy"])
def test_generated_files_have_any_format_of_the_verb(image_format: str, repository: Path, tmp_path: Path) -> None:
    plan = plan_of(load(repository / "digits").manifest, format="images", image_format=image_format, count=1)
    make_all(repository / "digits", plan, tmp_path)
    expected = LocalModel.load(repository / "digits").fetch("generate", n=1, seed=7, format=image_format)
    content = (tmp_path / f"shards/000000/7_000000.{image_format}").read_bytes()
    assert (
        np.array_equal(expected.value(), np.load(io.BytesIO(content)))
        if image_format == "npy"
        else (content == expected.content)
    )


def test_conditional_shard_has_the_classes(tmp_path: Path) -> None:
    write(tmp_path, generator_graph(classes=3), conditional_manifest())
    plan = plan_of(load(tmp_path / "classes").manifest)
    make_all(tmp_path / "classes", plan, tmp_path / "out")
    with tarfile.open(tmp_path / "out/shards/000000.tar") as archive:
        labels = [archive.extractfile(name) for name in archive.getnames() if name.endswith(".cls")]
        assert [label.read() for label in labels if label] == [b"0", b"1", b"2", b"0", b"1", b"2", b"0", b"1"]


def test_existing_shard_is_not_made_again(repository: Path, tmp_path: Path) -> None:
    plan = plan_of(load(repository / "digits").manifest)
    first = make_all(repository / "digits", plan, tmp_path)
    (tmp_path / "records/000001.json").unlink()
    again = make_all(repository / "digits", plan, tmp_path)
    assert [outcome.is_new for outcome in first] == [True, True, True]
    assert [outcome.is_new for outcome in again] == [False, True, False]
    assert [outcome.record for outcome in first] == [outcome.record for outcome in again]


def test_verify_makes_a_damaged_shard_again(repository: Path, tmp_path: Path) -> None:
    plan = plan_of(load(repository / "digits").manifest)
    make_all(repository / "digits", plan, tmp_path)
    before = files_of(tmp_path)
    (tmp_path / "shards/000001.tar").write_bytes(b"damaged")
    (tmp_path / "shards/000002.tar").unlink()
    again = make_all(repository / "digits", plan, tmp_path, verify=True)
    assert [outcome.is_new for outcome in again] == [False, True, True]
    assert files_of(tmp_path) == before


def test_verify_removes_files_that_are_not_of_the_shard(repository: Path, tmp_path: Path) -> None:
    plan = plan_of(load(repository / "digits").manifest, format="images")
    make_all(repository / "digits", plan, tmp_path)
    before = files_of(tmp_path)
    (tmp_path / "shards/000001/stray.png").write_bytes(b"stray")
    (tmp_path / "shards/000002.tar").write_bytes(b"stray")
    again = make_all(repository / "digits", plan, tmp_path, verify=True)
    assert [outcome.is_new for outcome in again] == [False, True, True]
    assert files_of(tmp_path) == before
    assert not any(outcome.is_new for outcome in make_all(repository / "digits", plan, tmp_path, verify=True))


def test_verify_withdraws_the_commit_before_a_repair(repository: Path, tmp_path: Path) -> None:
    plan = plan_of(load(repository / "digits").manifest)
    make_all(repository / "digits", plan, tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    make_all(repository / "digits", plan, tmp_path, verify=True)
    assert (tmp_path / "manifest.json").exists()
    (tmp_path / "shards/000001.tar").unlink()
    (tmp_path / "shards/000001.tar").mkdir()
    with pytest.raises(OSError, match="000001"):
        make_all(repository / "digits", plan, tmp_path, verify=True)
    assert not (tmp_path / "manifest.json").exists()
    assert not (tmp_path / "records/000001.json").exists()


def test_translated_files_are_those_of_single_requests(repository: Path, photos: Path, tmp_path: Path) -> None:
    plan = plan_of(load(repository / "invert").manifest, format="images")
    outcomes = make_all(repository / "invert", plan, tmp_path / "out", str(photos))
    model = LocalModel.load(repository / "invert")
    files = images_of(tmp_path / "out/shards")
    assert len(files) == 12
    for name, content in files.items():
        source = photos / name.partition("/")[2]
        assert content == model.fetch("translate", source.read_bytes()).content
    assert sum(outcome.record.count for outcome in outcomes) == 12


def test_bad_inputs_become_rows_and_leave_their_neighbours(repository: Path, photos: Path, tmp_path: Path) -> None:
    plan = plan_of(load(repository / "invert").manifest)
    outcomes = make_all(repository / "invert", plan, tmp_path, str(photos))
    errors = [error for outcome in outcomes for error in outcome.record.errors]
    assert [(error.number, error.name) for error in errors] == [(0, "empty.jpg"), (1, "large.png"), (9, "zoo/07.png")]
    assert "empty" in errors[0].reason
    assert "larger than" in errors[1].reason
    assert all("\n" not in error.reason for error in errors)
    assert all(isinstance(error, BadItem) for error in errors)


def test_large_input_is_translated_in_tiles(repository: Path, photos: Path, tmp_path: Path) -> None:
    plan = plan_of(load(repository / "invert").manifest, format="images", keys={"tile": True, "overlap": 16})
    make_all(repository / "invert", plan, tmp_path / "out", str(photos))
    expected = LocalModel.load(repository / "invert").fetch(
        "translate", (photos / "large.png").read_bytes(), tile=True, overlap=16
    )
    assert (tmp_path / "out/shards/000000/large.png").read_bytes() == expected.content


def test_translated_shards_are_the_same_for_any_batch(repository: Path, photos: Path, tmp_path: Path) -> None:
    plan = plan_of(load(repository / "invert").manifest, format="parquet")
    make_all(repository / "invert", plan, tmp_path / "a", str(photos))
    make_all(repository / "invert", plan.model_copy(update={"batch": 7}), tmp_path / "b", str(photos))
    assert files_of(tmp_path / "a/shards") == files_of(tmp_path / "b/shards")


def test_task_survives_json() -> None:
    entry = Entry("a.png", 3, "tar", "/x.tar", "a.png", (512, 3))
    task = Task(4, (Input(32, "a", entry),))
    restored = Task.from_json(task.to_json())
    assert restored.shard == 4
    assert list(restored.inputs) == list(task.inputs)
