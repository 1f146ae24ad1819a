"""Batch jobs whose shards exist already: they are committed, reported and refused without Ray."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serving.artifacts import load
from serving.batch import job
from serving.batch.job import JobOptions
from serving.batch.output import Output
from serving.batch.status import job_status
from serving.errors import BatchError, BatchStoppedError, InvalidKeyError, ServingError
from serving.local_model import LocalModel
from tests.serving.batch.jobs import files_of, make_all, plan_of_command
from tests.serving.tiny import conditional_manifest, generator_graph, write
from zorse_common.contact_sheet import Tile, contact_sheet
from zorse_common.image_writer import encode
from zorse_common.storage import Storage

CPU = JobOptions(device="cpu", shard_size=8)
Finish = Callable[..., Path]


@pytest.fixture
def generated(repository: Path, tmp_path: Path) -> Path:
    """The output of a job of 20 images of seed 7 without its commit."""
    plan = plan_of_command(repository / "digits", {"seed": 7, "first": 0}, 20, CPU)
    make_all(repository / "digits", plan, tmp_path / "out")
    return tmp_path / "out"


def _generate(repository: Path, out: Path, **keys: Any) -> job.JobResult:
    return job.generate(str(repository / "digits"), str(out), 20, CPU, [].append, seed=7, **keys)


def test_job_whose_shards_exist_is_committed_without_ray(repository: Path, generated: Path) -> None:
    status = job_status(str(generated))
    assert (status.state, status.shards_done, status.images_done) == ("unfinished", 3, 20)
    result = _generate(repository, generated)
    assert (result.images, result.errors, result.was_finished) == (20, 0, False)
    assert job_status(str(generated)).state == "finished"
    manifest = json.loads((generated / "manifest.json").read_text())
    assert (manifest["images"], [shard["count"] for shard in manifest["shards"]]) == (20, [8, 8, 4])
    assert not (generated / ".temporary").exists()
    local = LocalModel.load(repository / "digits")
    images = [Image.open(io.BytesIO(local.fetch("generate", n=1, seed=7, first=k).content)) for k in range(20)]
    tiles = [Tile(image, f"7_{k:06d}.png", f"shard {k // 8:06d}") for k, image in enumerate(images)]
    sheet = contact_sheet("digits@1: 20 of 20 images", tiles)
    np.testing.assert_array_equal(np.asarray(Image.open(generated / "contact-sheet.png")), sheet)


def test_finished_job_does_nothing(repository: Path, generated: Path) -> None:
    _generate(repository, generated)
    before = files_of(generated)
    assert _generate(repository, generated).was_finished
    assert files_of(generated) == before


def test_torn_record_is_made_again(repository: Path, generated: Path) -> None:
    plan = Output(Storage(generated)).plan()
    assert plan is not None
    path = generated / "records/000001.json"
    path.write_bytes(path.read_bytes()[:-5])
    assert sorted(Output(Storage(generated)).records(plan)) == [0, 2]


def test_manifest_of_something_else_is_refused_before_anything_is_written(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"images": 3, "errors": 0}')
    with pytest.raises(BatchError, match=r"manifest.json is not of this batch job"):
        _generate(repository, tmp_path)
    assert list(files_of(tmp_path)) == ["manifest.json"]


@pytest.mark.parametrize("keys", [{}, {"truncation": 1}, {"first": 0, "truncation": 1.0}, {"labels": None}])
def test_plan_does_not_depend_on_how_defaults_are_given(keys: dict[str, Any], repository: Path) -> None:
    model = repository / "digits"
    plan = plan_of_command(model, {"seed": 7, **keys}, 20, CPU)
    assert plan.digest() == plan_of_command(model, {"seed": 7, "first": 0}, 20, CPU).digest()
    assert plan.keys == {"seed": 7, "first": 0, "truncation": 1.0}


@pytest.mark.parametrize("label", ["dog", 1, [1], ["dog"]])
def test_plan_has_the_index_of_a_class(label: object, tmp_path: Path) -> None:
    write(tmp_path, generator_graph(classes=3), conditional_manifest())
    assert plan_of_command(tmp_path / "classes", {"labels": label}, 4, CPU).keys["labels"] == 1


def test_plan_has_the_version_that_an_alias_led_to(repository: Path) -> None:
    model = repository / "digits"
    uris = [plan_of_command(name, {}, 4, CPU).passes[0].uri for name in (model, f"{model}@1")]
    assert uris == [f"{model}/1"] * 2


def test_job_that_started_with_other_versions_warns(repository: Path, generated: Path) -> None:
    path = next(generated.glob("plan-*.json"))
    path.write_text(path.read_text().replace('"numpy": "', '"numpy": "0.'))
    lines: list[str] = []
    job.generate(str(repository / "digits"), str(generated), 20, CPU, lines.append, seed=7)
    assert any("other versions, so that bytes may differ: numpy" in line for line in lines)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_outside_the_run_is_a_stop(number: signal.Signals, repository: Path, generated: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    def stop(line: str) -> None:
        signal.raise_signal(number)

    path = next(generated.glob("plan-*.json"))
    path.write_text(path.read_text().replace('"numpy": "', '"numpy": "0.'))  # so that there is a line
    with pytest.raises(BatchStoppedError, match="the same command continues it") as error:
        job.generate(str(repository / "digits"), str(generated), 20, CPU, stop, seed=7)
    assert error.value.exit_code == 75
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert _generate(repository, generated).images == 20


@pytest.mark.parametrize(
    ("keys", "count", "options", "message"),
    [
        ({"seed": -1}, 4, CPU, "seed"),
        ({"sed": 1}, 4, CPU, "unknown key sed"),
        ({"labels": 3}, 4, CPU, "the model has no classes"),
        ({"latents": [[1.0]]}, 4, CPU, "a batch job takes no latents"),
        ({}, 0, CPU, "must be at least 1"),
        ({}, 4, JobOptions(device="cpu", shard_size=0), "shard size"),
        ({}, 1_000_001, JobOptions(device="cpu", shard_size=1), "would have 1,000,001 shards, more than 1,000,000"),
        ({}, 10**30, CPU, "give a larger shard size"),
        ({}, 4, JobOptions(device="cpu", format="tar"), "unknown format 'tar'"),
        ({}, 4, JobOptions(device="cpu", image_format="gif"), "format"),
    ],
)
def test_bad_command_is_refused_before_anything_is_written(
    keys: dict[str, Any], count: int, options: JobOptions, message: str, repository: Path, tmp_path: Path
) -> None:
    with pytest.raises(ServingError, match=message):
        job.generate(str(repository / "digits"), str(tmp_path / "out"), count, options, [].append, **keys)
    assert not (tmp_path / "out").exists()


def test_model_of_the_wrong_kind_is_refused(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(ServingError, match="does not generate"):
        job.generate(str(repository / "invert"), str(tmp_path / "out"), 4, CPU)
    with pytest.raises(ServingError, match="does not translate"):
        job.translate(str(repository / "digits"), str(tmp_path), str(tmp_path / "out"), CPU)
    assert InvalidKeyError.status == 422


def test_finished_translation_does_not_list_its_inputs(repository: Path, tmp_path: Path) -> None:
    photos, out, model = tmp_path / "photos", tmp_path / "out", repository / "invert"
    photos.mkdir()
    (photos / "a.png").write_bytes(encode(np.zeros((20, 24, 3), np.uint8)))
    make_all(model, plan_of_command(model, {}, 1, CPU), out, str(photos))
    assert not job.translate(str(model), str(photos), str(out), CPU, [].append).was_finished
    verify = dataclasses.replace(CPU, verify=True)
    (photos / "a.png").write_bytes(b"of another size")
    with pytest.raises(BatchError, match=r"another job \(the inputs have other names, sizes or times\)"):
        job.translate(str(model), str(photos), str(out), verify, [].append)
    shutil.rmtree(photos)
    lines: list[str] = []
    assert job.translate(str(model), str(photos), str(out), CPU, lines.append).was_finished
    assert lines == ["the job is finished, and its inputs are not listed again: new ones need another output"]
    for options in (dataclasses.replace(CPU, shard_size=9), verify):
        with pytest.raises(BatchError, match="there is nothing at"):
            job.translate(str(model), str(photos), str(out), options, [].append)


@pytest.mark.parametrize("inputs", ["data/shards", "data/shards/*/*.png", "linked"])
def test_inputs_at_the_place_of_the_shards_are_kept(inputs: str, repository: Path, tmp_path: Path) -> None:
    photo = encode(np.zeros((20, 24, 3), np.uint8))
    (tmp_path / "data/shards/000000").mkdir(parents=True)
    (tmp_path / "data/shards/000000/a.png").write_bytes(photo)
    (tmp_path / "linked").symlink_to(tmp_path / "data/shards")
    with pytest.raises(BatchError, match="shards is not of this batch job: choose another output"):
        job.translate(str(repository / "invert"), f"{tmp_path}/{inputs}", f"{tmp_path}/data", CPU)
    assert files_of(tmp_path / "data") == {"shards/000000/a.png": photo}


def test_output_that_cannot_be_read_is_one_line(repository: Path, tmp_path: Path) -> None:
    photos, out, model = tmp_path / "photos", tmp_path / "out", repository / "invert"
    photos.mkdir()
    (photos / "a.png").write_bytes(encode(np.zeros((20, 24, 3), np.uint8)))
    make_all(model, plan_of_command(model, {}, 1, CPU), out, str(photos))
    (out / "manifest.json").mkdir()
    with pytest.raises(BatchError, match=r"out cannot be read: .*directory"):
        job.translate(str(model), str(photos), str(out), CPU, [].append)


def test_translation_into_its_inputs_is_refused_before_anything_is_written(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode(np.zeros((20, 24, 3), np.uint8)))
    with pytest.raises(BatchError, match="would be taken for images the next time"):
        job.translate(str(repository / "invert"), str(tmp_path), str(tmp_path / "out"), CPU)
    assert not (tmp_path / "out").exists()


def test_status_of_a_folder_without_a_job_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BatchError, match="there is no batch job at"):
        job_status(str(tmp_path))


def test_finished_check_does_not_import_ray(repository: Path, generated: Path) -> None:
    import subprocess

    _generate(repository, generated)
    code = (
        "import sys; from serving.batch import job; "
        f"result = job.generate({str(repository / 'digits')!r}, {str(generated)!r}, 20, "
        "job.JobOptions(device='cpu', shard_size=8), seed=7); "
        "print(result.was_finished, 'ray' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout == "True False False\n", done.stderr
    assert load(repository / "digits").manifest.name == "digits"
