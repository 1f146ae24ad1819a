"""Inputs that kill the process become rows, and leave their neighbours."""

from __future__ import annotations

import contextlib
import json
import platform
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from export.manifest import GOLDEN_FILE, golden_key
from serving.artifacts import load
from serving.batch import job
from serving.batch.alone import Alone
from serving.batch.board import Board
from serving.batch.inputs import list_inputs
from serving.batch.job import JobOptions
from serving.batch.output import BadItem
from serving.batch.pipeline import Stopwatch
from serving.batch.plan import Plan
from serving.batch.shard import Outcome, tasks_of
from serving.batch.worker import OUTCOME, TASK, ShardWorker, WorkerSettings, parse_outcome
from serving.errors import BatchError
from serving.local_model import LocalModel
from tests.serving.batch.jobs import Reports, files_of, images_of, plan_of_command
from tests.serving.tiny import deadly_graph, inverter_manifest, sample_feeds, write, write_manifest
from zorse_common.image_writer import encode

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="divides integers without a signal")

OPTIONS = JobOptions(device="cpu", shard_size=6, format="images")
DEADLY = {4: "04.png", 5: "05.png", 13: "13.png"}
IMAGES = 18


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write(tmp_path / "repository", deadly_graph(), inverter_manifest())


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of images, three of which are black."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(IMAGES):
        grey = 0 if number in DEADLY else 10 + number
        (folder / f"{number:02d}.png").write_bytes(encode(np.full((20, 24 + number % 3, 3), grey, np.uint8)))
    return folder


def _plan(model: Path, photos: Path) -> Plan:
    listing = list_inputs(str(photos))
    plan = plan_of_command(model, {}, len(listing.entries), OPTIONS)
    return plan.model_copy(update={"inputs": job.inputs_digest(listing), "place": str(photos)})


def _made(plan: Plan, photos: Path, output: Path, reports: Reports, shard: int) -> Outcome:
    worker = ShardWorker(WorkerSettings(plan, str(output)), reports)
    (task,) = tasks_of(plan, list_inputs(str(photos)), [shard])
    return parse_outcome(worker({TASK: [task.to_json()]})[OUTCOME][0])


def test_shard_with_which_processes_died_is_made_alone_and_has_a_row(model: Path, photos: Path, tmp_path: Path) -> None:
    outcome = _made(_plan(model, photos), photos, tmp_path / "out", Reports(2), 0)
    reason = "the process died with it (SIGFPE)"
    assert outcome.record.errors == tuple(BadItem(n, DEADLY[n], reason) for n in (4, 5))
    single = LocalModel.load(model)
    names = [f"{number:02d}.png" for number in range(6) if number not in DEADLY]
    expected = {name: single.fetch("translate", (photos / name).read_bytes()).content for name in names}
    assert images_of(tmp_path / "out/shards/000000") == expected


def test_shard_made_alone_has_the_bytes_of_one_made_together(model: Path, photos: Path, tmp_path: Path) -> None:
    for number, name in DEADLY.items():
        (photos / name).write_bytes(encode(np.full((20, 24, 3), 10 + number, np.uint8)))
    (photos / "02.png").write_bytes(b"damaged")
    plan = _plan(model, photos)
    alone = _made(plan, photos, tmp_path / "alone", Reports(2), 0)
    together = _made(plan, photos, tmp_path / "together", Reports(1), 0)
    assert alone.record == together.record
    assert alone.record.errors[0].name == "02.png"
    assert files_of(tmp_path / "alone") == files_of(tmp_path / "together")


def test_generated_shard_made_alone_has_the_bytes_of_one_made_together(repository: Path, tmp_path: Path) -> None:
    plan = plan_of_command(repository / "digits", {"seed": 7}, 12, JobOptions(device="cpu", shard_size=6))
    for name, deaths in (("alone", 2), ("together", 0)):
        worker = ShardWorker(WorkerSettings(plan, str(tmp_path / name)), Reports(deaths))
        parse_outcome(worker({TASK: ["[1, []]"]})[OUTCOME][0])
    assert files_of(tmp_path / "alone") == files_of(tmp_path / "together")


def test_process_that_dies_with_the_model_ends_the_job(model: Path, photos: Path, tmp_path: Path) -> None:
    manifest = load(model).manifest
    black = np.zeros_like(sample_feeds(manifest)["source"])
    arrays = {golden_key("input", 0, "source"): black, golden_key("output", 0, "image"): 255 - black}
    np.savez(model / GOLDEN_FILE, allow_pickle=False, **arrays)
    write_manifest(model, manifest)
    with pytest.raises(BatchError, match=r"the process dies with invert@1 .*SIGFPE\): check the memory"):
        _made(_plan(model, photos), photos, tmp_path / "out", Reports(2), 0)


def test_shard_is_given_up_after_more_deaths(model: Path, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(BatchError, match=r"5 processes died with shard 000001 \(06.png to 11.png\)") as error:
        _made(_plan(model, photos), photos, tmp_path / "out", Reports(5), 1)
    assert "\n" not in str(error.value)


def test_alone_process_ends_when_it_is_closed(repository: Path) -> None:
    plan = plan_of_command(repository / "digits", {"seed": 7}, 12, JobOptions(device="cpu"))
    alone = Alone(plan, 1.0)
    (result,) = alone.results(range(3, 4), (), Stopwatch())
    assert not isinstance(result, BadItem)
    assert result.name == "7_000003"
    alone.close()
    assert alone._child is None


def test_alone_process_ends_with_the_one_that_started_it(repository: Path) -> None:
    plan = plan_of_command(repository / "digits", {"seed": 7}, 12, JobOptions(device="cpu"))
    code = (
        "import multiprocessing, os, signal, sys; from serving.batch.alone import *; "
        "alone = Alone(Plan.from_json(sys.argv[1], 'plan'), 1.0); next(alone.results(range(3), (), Stopwatch())); "
        "print(multiprocessing.active_children()[0].pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, plan.to_json()], capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(done.stdout)).wait(timeout=60)


def test_board_counts_deaths_of_processes_and_not_those_of_nodes() -> None:
    lost: set[str] = set()
    board = Board(lambda node: node not in lost)
    assert [board.begin(3, node) for node in ("a", "a", "b")] == [0, 1, 2]
    lost.add("b")
    assert board.begin(3, "a") == 2
    assert board.begin(3, "a") == 3
    assert board.begin(4, "a") == 0


def test_board_has_the_images_in_hand_until_a_shard_is_done() -> None:
    board = Board(lambda node: True)
    board.begin(3, "a")
    board.begin(4, "a")
    board.report(3, 20)
    board.report(5, 1)
    assert board.in_hand([]) == {3: 20, 4: 0}
    board.begin(3, "a")
    assert board.in_hand([4]) == {3: 0}


@pytest.mark.ray
@pytest.mark.slow
def test_job_with_inputs_that_kill_ends_with_rows_and_all_others(model: Path, photos: Path, tmp_path: Path) -> None:
    result = job.translate(str(model), str(photos), str(tmp_path / "out"), OPTIONS, [].append)
    assert (result.images, result.errors) == (IMAGES - len(DEADLY), len(DEADLY))
    rows = [json.loads(line) for line in (tmp_path / "out/errors.jsonl").read_text().splitlines()]
    assert {row["number"]: row["name"] for row in rows} == DEADLY
    names = [f"{number:02d}.png" for number in range(IMAGES) if number not in DEADLY]
    assert [Path(path).name for path in sorted(images_of(tmp_path / "out/shards"))] == names
