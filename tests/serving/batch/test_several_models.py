"""Jobs with several models: each makes what it makes alone, and the way back measures the cycle."""

from __future__ import annotations

import dataclasses
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

from export.interface import AxisLimits, SizeLimits
from serving.artifacts import load
from serving.batch import job
from serving.batch.inputs import list_inputs
from serving.batch.job import JobOptions
from serving.batch.output import Output
from serving.batch.passes import model_passes, partners
from serving.batch.plan import Plan
from serving.batch.shard import tasks_of
from serving.batch.status import job_status
from serving.batch.worker import OUTCOME, TASK, ShardWorker, WorkerSettings, parse_outcome
from serving.errors import BatchError, ServingError
from serving.local_model import LocalModel
from tests.serving.batch.jobs import Reports, files_of, images_of, invoke, make_all
from tests.serving.tiny import (
    Pixels,
    inverter_graph,
    inverter_manifest,
    upscaler_manifest,
    with_interface,
    write,
)
from zorse_common.image_writer import encode
from zorse_common.storage import Storage

OPTIONS = JobOptions(device="cpu", format="images", shard_size=4)
DARKER = Pixels("uint8", 0, 245)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with `invert` and `restore`, which inverts again and makes images darker by 10, and `small`."""
    folder = tmp_path_factory.mktemp("repository")
    write(folder, inverter_graph(), inverter_manifest())
    write(folder, inverter_graph(DARKER), dataclasses.replace(inverter_manifest("restore"), direction="BtoA"))
    axis = AxisLimits(4, 16, 32)
    write(folder, inverter_graph(), with_interface(inverter_manifest("small"), size=SizeLimits(axis, axis)))
    write(folder, inverter_graph(scale=2), upscaler_manifest())
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with nine images of three sizes, one of which is larger than `small` takes, and a damaged one."""
    folder, random = tmp_path / "photos", np.random.default_rng(0)
    (folder / "zoo").mkdir(parents=True)
    for number in range(9):
        pixels = random.integers(12, 200, (20 + 8 * (number % 3), 31, 3), dtype=np.uint8)
        (folder / f"zoo/{number}.png").write_bytes(encode(pixels))
    (folder / "damaged.png").write_bytes(b"no image")
    return folder


def _plan(models: Path, names: list[str], options: JobOptions = OPTIONS, *, both: bool = False, **keys: Any) -> Plan:
    there = [load(models / name) for name in names]
    return job._plan("translate", there, partners(there, None) if both else [], keys, 1, options)


def _make(models: Path, plan: Plan, folder: Path, photos: Path) -> dict[str, str]:
    """Make all shards, and return the reason for each bad input."""
    outcomes = make_all([models / one.model for one in plan.passes], plan, folder, str(photos))
    return {error.name: error.reason for outcome in outcomes for error in outcome.record.errors}


def test_models_of_one_job_write_what_each_writes_alone(models: Path, photos: Path, tmp_path: Path) -> None:
    assert list(_make(models, _plan(models, ["invert", "restore"]), tmp_path / "two", photos)) == ["damaged.png"]
    both = images_of(tmp_path / "two/shards")
    for name in ("invert", "restore"):
        _make(models, _plan(models, [name]), tmp_path / name, photos)
        alone = images_of(tmp_path / name / "shards")
        assert alone == {file.replace(f"{name}/", ""): content for file, content in both.items() if f"/{name}/" in file}
        assert len(alone) == 9


@pytest.mark.parametrize("deaths", [0, 2])
def test_worker_makes_what_is_made_here(deaths: int, models: Path, photos: Path, tmp_path: Path) -> None:
    plan = _plan(models, ["invert", "restore"], dataclasses.replace(OPTIONS, shard_size=20), both=True)
    _make(models, plan, tmp_path / "here", photos)
    listing = list_inputs(str(photos))
    made = Output(Storage(tmp_path / "here")).plan()
    assert made is not None
    worker = ShardWorker(WorkerSettings(made, str(tmp_path / "worker")), Reports(deaths))
    (task,) = tasks_of(made, listing, [0])
    outcome = parse_outcome(worker({TASK: [task.to_json()]})[OUTCOME][0])
    assert outcome.record.count == 9
    assert files_of(tmp_path / "worker/shards") == files_of(tmp_path / "here/shards")


def test_input_that_one_model_cannot_translate_is_a_row(models: Path, photos: Path, tmp_path: Path) -> None:
    bad = _make(models, _plan(models, ["invert", "small"]), tmp_path / "out", photos)
    assert sorted(bad) == ["damaged.png", "zoo/2.png", "zoo/5.png", "zoo/8.png"]
    assert "larger than the 32×32" in bad["zoo/2.png"]
    tiled = _plan(models, ["invert", "small"], tile=True, overlap=8)
    assert list(_make(models, tiled, tmp_path / "tiled", photos)) == ["damaged.png"]


@pytest.mark.parametrize("keys", [{}, {"size": "24x20"}])
def test_way_back_has_the_error_of_the_verb_cycle(
    keys: dict[str, str], models: Path, photos: Path, tmp_path: Path
) -> None:
    plan = _plan(models, ["invert"], dataclasses.replace(OPTIONS, format="parquet"), both=True, **keys)
    _make(models, plan, tmp_path / "out", photos)
    table = parquet.read_table(sorted((tmp_path / "out/shards").iterdir()))
    assert table.column_names == ["invert", "invert-back", "number", "source", "invert-l1"]
    model, partner = LocalModel.load(models / "invert"), LocalModel.load(models / "restore")
    for row in table.to_pylist():
        photo = (photos / row["source"]).read_bytes()
        (error,) = model.fetch("cycle", photo, format="json", **keys).value()["errors"]
        assert row["invert-l1"] == error["l1"] == pytest.approx(10, abs=1)  # resizing makes some pixels darker than 10
        assert row["invert"]["bytes"] == model.fetch("translate", photo, **keys).content
        assert row["invert-back"]["bytes"] == partner.fetch("translate", row["invert"]["bytes"]).content


def test_error_of_a_cycle_is_in_every_format(models: Path, photos: Path, tmp_path: Path) -> None:
    for name in ("webdataset", "images", "zip"):
        options = dataclasses.replace(OPTIONS, format=name, shard_size=20)
        _make(models, _plan(models, ["invert"], options, both=True), tmp_path / name, photos)
    with tarfile.open(tmp_path / "webdataset/shards/000000.tar") as archive:
        names = archive.getnames()
        assert names[:3] == ["zoo/0.invert.png", "zoo/0.invert-back.png", "zoo/0.json"]
        assert json.load(archive.extractfile("zoo/0.json")) == {"source": "zoo/0.png", "invert-l1": 10.0}  # type: ignore[arg-type]
    with zipfile.ZipFile(tmp_path / "zip/shards/000000.zip") as bundle:
        table = bundle.read("metadata.jsonl")
    assert table == (tmp_path / "images/shards/000000/metadata.jsonl").read_bytes()
    first, *_ = map(json.loads, table.splitlines())
    files = {"invert_file_name": "invert/zoo/0.png", "invert-back_file_name": "invert-back/zoo/0.png"}
    assert first == {**files, "number": 1, "source": "zoo/0.png", "invert-l1": 10.0}


def test_way_back_of_tiled_images_is_tiled(models: Path, photos: Path, tmp_path: Path) -> None:
    large = np.random.default_rng(1).integers(12, 200, (30, 700, 3), dtype=np.uint8)
    (photos / "large.png").write_bytes(encode(large))
    bad = _make(models, _plan(models, ["invert"], both=True, tile=True), tmp_path / "out", photos)
    assert list(bad) == ["damaged.png"]
    files = images_of(tmp_path / "out/shards/000000")
    local = LocalModel.load(models / "restore")
    assert files["invert-back/large.png"] == local.fetch("translate", files["invert/large.png"], tile=True).content


def test_command_with_several_models_and_both_ways_is_one_job(models: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    plan = _plan(models, ["invert", "restore"], both=True, size="24")
    assert [(one.column, one.model, one.translates) for one in plan.passes] == [
        ("invert", "invert", None),
        ("invert-back", "restore", 0),
        ("restore", "restore", None),
        ("restore-back", "invert", 2),
    ]
    _make(models, plan, out, photos)
    command = ["translate", models / "invert", models / "restore", "--both", "--input", photos, "--output", out]
    command += ["--format", "images", "--device", "cpu", "--shard-size", 4, "--max-errors", 1]
    result = invoke(*command, "--size", 24)
    assert result.exit_code == 0, result.output
    assert len(images_of(out / "shards")) == 4 * 9
    assert job_status(str(out)).models == "invert@1, restore@1"
    assert (out / "contact-sheet.png").exists()
    before = files_of(out)
    assert "as before" in invoke(*command, "--size", 24).output
    assert files_of(out) == before
    refused = invoke(*command, "--size", 28)
    assert 'belongs to another job (size "28x28" instead of "24x24")' in str(refused.exception)


def test_contact_sheet_of_parquet_and_webdataset_has_all_models(models: Path, photos: Path, tmp_path: Path) -> None:
    sheets = []
    for name in ("images", "parquet", "webdataset", "zip"):
        options = dataclasses.replace(OPTIONS, format=name, shard_size=20)
        out = tmp_path / name
        _make(models, _plan(models, ["invert", "restore"], options), out, photos)
        job.translate([str(models / "invert"), str(models / "restore")], str(photos), str(out), options, [].append)
        sheets.append((out / "contact-sheet.png").read_bytes())
    assert len(set(sheets)) == 2  # names are those of the files: a tar has others
    assert sheets[0] == sheets[1] == sheets[3]


def test_versions_of_one_model_are_told_apart_and_equal_ones_refused(models: Path, tmp_path: Path) -> None:
    for version in (1, 2):
        write(tmp_path, inverter_graph(), inverter_manifest(version=version))
    passes = model_passes([load(f"{tmp_path}/invert/{version}") for version in (1, 2)])
    assert [one.column for one in passes] == ["invert@1", "invert@2"]
    with pytest.raises(BatchError, match="invert@1 would be the name of two models' images"):
        model_passes([load(models / "invert")] * 2)


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["invert", "restore"], {"both": True, "partner": "restore"}, "a partner is for one model"),
        (["invert"], {"partner": "restore"}, "a partner is for both ways"),
        (["upscale"], {"both": True, "partner": "restore"}, "they do not cycle"),
        (["invert"], {"both": True, "partner": "nobody"}, "nobody"),
        (["small"], {"both": True}, "does: name it with partner"),
        ([], {}, "give models"),
    ],
)
def test_models_that_do_not_fit_are_refused(
    names: list[str], options: dict[str, Any], message: str, models: Path, photos: Path, tmp_path: Path
) -> None:
    paths = [str(models / name) for name in names]
    if names == ["small"]:  # in a repository without a partner
        paths = [str(write(tmp_path / "alone", inverter_graph(), inverter_manifest("small")))]
    with pytest.raises(ServingError, match=message):
        job.translate(paths, str(photos), str(tmp_path / "out"), OPTIONS, [].append, **options)
    assert not (tmp_path / "out").exists()
