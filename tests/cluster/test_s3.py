"""A run on an object store equals one on disk, also after damage and a resume, and can be exported."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from tests.cluster.toys import BATCH, config, newest_tensors, toy
from tests.s3 import s3_server
from trainer.cluster import cluster
from trainer.errors import Preempted
from trainer.metric_lines import read_parts
from trainer.progress_actor import Update
from trainer.run import train
from zorse.cli import app, run_guarded
from zorse_common.storage import Storage

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

TOTAL = 1280
BUCKET = "s3://zorse-runs"
RUN = f"{BUCKET}/toys/run"


@pytest.fixture(scope="module", autouse=True)
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A local S3 server with the bucket."""
    with s3_server(tmp_path_factory.mktemp("s3"), BUCKET):
        yield


@pytest.fixture(scope="module")
def one_ray(object_store: None) -> Iterator[None]:
    """One Ray for all runs here."""
    with cluster(workers=2):
        yield


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, one_ray: None) -> Path:
    """The run on the disk."""
    folder = tmp_path_factory.mktemp("disk") / "run"
    train(config(toy("gan", folder, total_images=TOTAL)))
    return folder


@pytest.fixture(scope="module")
def run(one_ray: None) -> Storage:
    """The same run on the object store: stopped, its newest checkpoint damaged by a bit, and resumed."""
    data = toy("gan", "run", storage=f"{BUCKET}/toys", total_images=TOTAL, sample_images=TOTAL // 2)

    def stop(update: Update) -> None:
        if update.seen >= 3 * data["run"]["checkpoint_images"]:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Preempted):
        train(config(data), show=stop)
    run = Storage(RUN)
    assert json.loads(run.read("run.json"))["state"] == "preempted"
    before, newest = _checkpoints(run)[-2:]
    assert int(newest) < TOTAL
    file = f"checkpoints/{newest}/state.safetensors"
    content = bytearray(run.read(file))
    content[len(content) // 2] ^= 1
    run.write(file, bytes(content))
    assert train(config(data), resume=True) == RUN
    assert _events(run)[-3:] == [
        "resumed",
        f"checkpoint {RUN}/checkpoints/{newest} is damaged: state.safetensors is not what was written",
        f"training from image {int(before)} on with 2 workers on cpu",
    ]
    return run


def _checkpoints(run: Storage) -> list[str]:
    return (run / "checkpoints").folders()


def _events(run: Storage) -> list[str]:
    """Return the events of a run without those on its data and its speed."""
    events = [json.loads(line)["event"] for line in run.read("events.jsonl").decode().splitlines()]
    return [event for event in events if not event.startswith(("speed: ", "data: "))]


def test_run_on_s3_damaged_and_resumed_equals_an_undisturbed_run_on_disk(run: Storage, undisturbed: Path) -> None:
    here = load(run.read(f"checkpoints/{_checkpoints(run)[-1]}/state.safetensors"))
    there = newest_tensors(undisturbed)
    assert here.keys() == there.keys()
    assert [name for name in here if not torch.equal(here[name], there[name])] == []


def test_run_on_s3_has_all_files_there(run: Storage, undisturbed: Path) -> None:
    assert json.loads(run.read("run.json"))["state"] == "finished"
    assert (run / "snapshots").folders() == sorted(path.name for path in (undisturbed / "snapshots").iterdir())
    assert all(run.exists(f"samples/{images:010d}.png") for images in (0, TOTAL // 2, TOTAL))
    lines = [line["images"] for _, part in read_parts(run) for line in part]
    assert lines == list(range(BATCH, TOTAL + 1, BATCH))
    assert {path.name for path in undisturbed.iterdir()} == {*run.folders(), *run.files()}


def test_run_on_s3_can_be_exported(run: Storage, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as end:
        run_guarded(app, ["export", RUN, "--to", str(tmp_path)])
    assert end.value.code == 0
    assert (tmp_path / "run" / "1" / "model.onnx").is_file()


def test_missing_bucket_is_one_clear_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run_guarded(app, ["train", "digits", "run.storage=s3://no-such-bucket/runs"])
    assert end.value.code == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert "no-such-bucket" in line
