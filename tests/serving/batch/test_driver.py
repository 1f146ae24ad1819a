"""Batch jobs on Ray: the same bytes as in one process, and errors in one line."""

from __future__ import annotations

import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray

from serving.batch import job
from serving.batch.driver import Resources, Scale, _received, pool_of, run_tasks
from serving.batch.inputs import list_inputs
from serving.batch.job import JobOptions
from serving.batch.output import BadItem, Output, Record
from serving.batch.ray_cluster import connected
from serving.batch.shard import Outcome, tasks_of
from serving.batch.watch import NO_PROGRESS_SECONDS, Watch
from serving.batch.worker import OUTCOME, TASK, ShardWorker, WorkerSettings, outcome_json, parse_outcome
from serving.cluster_connection import answers
from serving.errors import BatchError, BatchStoppedError
from tests.serving.batch.jobs import Reports, files_of, make_all, plan_of_command
from tests.serving.tiny import inverter_manifest, slow_graph, write
from zorse_common.image_writer import encode
from zorse_common.storage import Storage

OPTIONS = JobOptions(device="cpu", shard_size=8)


@pytest.fixture(scope="module")
def one_ray() -> Iterator[None]:
    with connected(None):
        yield
        processes = [one for one in psutil.Process().children(recursive=True) if one.name().startswith("ray::")]
    assert processes
    assert psutil.wait_procs(processes, timeout=60)[1] == []


@pytest.mark.ray
def test_generation_on_ray_writes_what_one_process_writes(repository: Path, tmp_path: Path, one_ray: None) -> None:
    plan = plan_of_command(repository / "digits", {"seed": 7, "first": 0}, 60, OPTIONS)
    make_all(repository / "digits", plan, tmp_path / "alone")
    result = job.generate(str(repository / "digits"), str(tmp_path / "out"), 60, OPTIONS, [].append, seed=7)
    assert (result.images, result.was_finished) == (60, False)
    written = files_of(tmp_path / "out")
    assert {name: written[name] for name in files_of(tmp_path / "alone")} == files_of(tmp_path / "alone")
    assert sorted(name for name in written if "/" not in name) == [
        "contact-sheet.png",
        "errors.jsonl",
        "manifest.json",
        next(name for name in written if name.startswith("plan-")),
        "report.json",
    ]


@pytest.mark.ray
def test_verify_on_ray_repairs_a_damaged_shard(repository: Path, tmp_path: Path, one_ray: None) -> None:
    job.generate(str(repository / "digits"), str(tmp_path), 60, OPTIONS, [].append, seed=7)
    before = files_of(tmp_path)
    (tmp_path / "shards/000003.tar").write_bytes(b"damaged")
    (tmp_path / "records/000005.json").unlink()
    options = JobOptions(device="cpu", shard_size=8, verify=True, workers=1)
    job.generate(str(repository / "digits"), str(tmp_path), 60, options, [].append, seed=7)
    after = files_of(tmp_path)
    assert {k: v for k, v in after.items() if k != "report.json"} == {
        k: v for k, v in before.items() if k != "report.json"
    }


@pytest.mark.ray
def test_shards_that_were_lost_are_made_again_on_ray(repository: Path, tmp_path: Path, one_ray: None) -> None:
    plan = plan_of_command(repository / "digits", {"seed": 7, "first": 0}, 20, OPTIONS)
    make_all(repository / "digits", plan, tmp_path)
    before = files_of(tmp_path / "shards")
    (tmp_path / "shards/000001.tar").unlink()
    (tmp_path / "shards/000000.tar").write_bytes(b"x")
    assert job.generate(str(repository / "digits"), str(tmp_path), 20, OPTIONS, [].append, seed=7).images == 20
    assert files_of(tmp_path / "shards") == before


@pytest.mark.ray
def test_translation_on_ray_leaves_bad_inputs_out(repository: Path, tmp_path: Path, one_ray: None) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(30):
        content = encode(np.full((20, 24, 3), number, np.uint8))
        (photos / f"{number:02d}.png").write_bytes(content if number % 10 else content[:60])
    lines: list[str] = []
    result = job.translate(str(repository / "invert"), str(photos), str(tmp_path / "out"), OPTIONS, lines.append)
    assert (result.images, result.errors) == (27, 3)
    assert (tmp_path / "out/errors.jsonl").read_text().count("\n") == 3


@pytest.mark.ray
def test_failing_storage_ends_the_job_with_one_line(repository: Path, tmp_path: Path, one_ray: None) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/shards").write_text("a file where a folder should be")
    with pytest.raises(BatchError, match="shards") as error:
        job.generate(str(repository / "digits"), str(tmp_path / "out"), 60, OPTIONS, [].append)
    assert "\n" not in str(error.value)


@pytest.mark.ray
def test_stopped_job_continues(repository: Path, tmp_path: Path, one_ray: None) -> None:
    plan = plan_of_command(repository / "digits", {"seed": 7, "first": 0}, 60, OPTIONS)
    stop = threading.Event()
    settings = WorkerSettings(plan, str(tmp_path))
    Output(Storage(tmp_path)).claim(plan)
    outcomes = run_tasks(plan, tasks_of(plan, job.Listing([]), range(plan.shards)), settings, Scale(workers=1), stop)
    next(outcomes)
    stop.set()
    with pytest.raises(BatchStoppedError, match="the job was stopped: the same command continues it"):
        next(outcomes)
    job.generate(str(repository / "digits"), str(tmp_path), 60, OPTIONS, [].append, seed=7)
    assert len(Output(Storage(tmp_path)).recorded()) == plan.shards


def test_stop_drops_the_outcomes_that_wait() -> None:
    every = [Outcome(Record(shard, "plan", 1, 1, 10, "digest"), is_new=True) for shard in range(3)]
    waiting: queue.Queue[Any] = queue.Queue()
    for one in (*map(outcome_json, every), None):
        waiting.put(one)
    stop = threading.Event()
    outcomes = _received(waiting, stop, "127.0.0.1:1", Watch(lambda done: None, lambda images: None))
    assert [next(outcomes), next(outcomes)] == every[:2]
    stop.set()
    with pytest.raises(BatchStoppedError, match="the job was stopped: the same command continues it"):
        next(outcomes)
    assert waiting.qsize() == 2


def test_watch_shows_the_images_of_shards_without_an_outcome() -> None:
    answers: list[dict[int, int] | None] = [{0: 5, 1: 0}, None, {0: 9, 1: 4}, {0: 9, 1: 4}, {1: 6}]
    shown: list[int] = []
    watch = Watch(lambda done: answers.pop(0), shown.append)
    for _ in range(4):
        watch.check()
    watch.done(0)
    watch.check()
    assert shown == [5, 13, 4, 6]


def test_watch_ends_a_job_in_which_no_image_is_done_any_more() -> None:
    now, images = 0.0, 0
    watch = Watch(lambda done: {7: images}, lambda images: None, lambda: now)
    for _ in range(8):
        now += NO_PROGRESS_SECONDS - 1
        images += 1
        watch.check()
    now += NO_PROGRESS_SECONDS - 1
    watch.check()
    now += 2
    with pytest.raises(
        BatchError, match=r"no image was done for 2:00:00 h \(shards in hand: 000007\): the same command"
    ):
        watch.check()


@pytest.mark.ray
def test_progress_of_a_long_shard_is_shown_before_its_end(tmp_path: Path, one_ray: None) -> None:
    model = write(tmp_path / "repository", slow_graph(), inverter_manifest())
    (tmp_path / "photos").mkdir()
    for number in range(60):
        (tmp_path / f"photos/{number:03d}.png").write_bytes(encode(np.full((32, 32, 3), number, np.uint8)))
    listing = list_inputs(str(tmp_path / "photos"))
    plan = plan_of_command(model, {}, 60, JobOptions(device="cpu", shard_size=60))
    settings = WorkerSettings(plan, str(tmp_path / "out"))
    shown: list[int] = []
    tasks = tasks_of(plan, listing, range(plan.shards))
    (outcome,) = run_tasks(plan, tasks, settings, Scale(workers=1), threading.Event(), shown.append)
    assert outcome.record.count == 60
    assert any(0 < images < 60 for images in shown)
    assert shown[-1] == 0


@pytest.mark.ray
def test_stopped_job_ends_its_workers_in_a_ray_that_goes_on(tmp_path: Path, one_ray: None) -> None:
    model = write(tmp_path / "repository", slow_graph(), inverter_manifest())
    for number in range(200):
        (tmp_path / "photos").mkdir(exist_ok=True)
        (tmp_path / f"photos/{number:03d}.png").write_bytes(encode(np.full((32, 32, 3), number, np.uint8)))
    listing = list_inputs(str(tmp_path / "photos"))
    plan = plan_of_command(model, {}, 200, JobOptions(device="cpu", shard_size=1))
    settings, stop = WorkerSettings(plan, str(tmp_path / "out")), threading.Event()
    outcomes = run_tasks(plan, tasks_of(plan, listing, range(plan.shards)), settings, Scale(workers=1), stop)
    next(outcomes)
    stop.set()
    with pytest.raises(BatchError, match="was stopped"):
        list(outcomes)
    # A thread that calls Ray after `ray.shutdown` ends this process.
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(("Streaming", "zorse-"))]
    # A task that needs all CPUs starts when the workers have ended.
    everything = ray.remote(num_cpus=ray.cluster_resources()["CPU"])(lambda: 0)
    assert ray.get(everything.remote(), timeout=60) == 0
    assert len(Output(Storage(tmp_path / "out")).recorded()) < plan.shards


def test_worker_returns_the_reason_of_a_failure(repository: Path, tmp_path: Path) -> None:
    copy = tmp_path / "digits"
    shutil.copytree(repository / "digits", copy)
    plan = plan_of_command(copy, {"seed": 7}, 8, OPTIONS)
    shutil.rmtree(copy)
    worker = ShardWorker(WorkerSettings(plan, str(tmp_path / "out")), Reports())
    (text,) = worker({TASK: ["[0, []]"]})[OUTCOME]
    with pytest.raises(BatchError, match="there is no artifact at"):
        parse_outcome(text)


def test_worker_refuses_a_model_that_was_replaced(repository: Path, tmp_path: Path) -> None:
    plan = plan_of_command(repository / "digits", {"seed": 7}, 8, OPTIONS)
    plan = plan.model_copy(update={"passes": (plan.passes[0].model_copy(update={"digest": "other"}),)})
    worker = ShardWorker(WorkerSettings(plan, str(tmp_path)), Reports())
    with pytest.raises(BatchError, match="is not the one that the job started with"):
        parse_outcome(worker({TASK: ["[0, []]"]})[OUTCOME][0])


def test_outcome_survives_json() -> None:
    record = Record(3, "plan", 1, 1, 10, "digest", (BadItem(4, "a", "damaged"),))
    outcome = Outcome(record, is_new=True, seconds={"run": 1.5}, warnings=frozenset({"numpy 3 instead of 2"}))
    assert parse_outcome(outcome_json(outcome)) == outcome


def test_pool_has_an_actor_for_each_cpu_or_gpu() -> None:
    assert pool_of("cpu", Scale(), 8, 0, 100) == Resources(8, 1.0)
    assert pool_of("cpu", Scale(), 0, 0, 100) == Resources(1, 1.0)
    assert pool_of("cpu", Scale(), 8, 0, 3) == Resources(3, 1.0)
    assert pool_of("cpu", Scale(workers=2), 8, 0, 100) == Resources(2, 1.0)
    assert pool_of("cuda", Scale(), 16, 2, 100) == Resources(2, 1.0, 1.0)
    assert pool_of("cuda", Scale(per_gpu=3), 16, 2, 100) == Resources(6, 1.0, 0.3333)
    assert pool_of("cuda", Scale(workers=8), 0, 0, 100) == Resources(8, 1.0, 1.0)
    with pytest.raises(BatchError, match="no GPU"):
        pool_of("cuda", Scale(), 8, 0, 100)


def test_address_where_nothing_listens_does_not_answer() -> None:
    assert not answers("127.0.0.1:1")


def test_worker_with_other_libraries_warns(repository: Path, tmp_path: Path) -> None:
    plan = plan_of_command(repository / "digits", {"seed": 7}, 8, OPTIONS)
    other = plan.model_copy(update={"environment": {**plan.environment, "numpy": "0"}})
    worker = ShardWorker(WorkerSettings(other, str(tmp_path)), Reports())
    outcome = parse_outcome(worker({TASK: ["[0, []]"]})[OUTCOME][0])
    (warning,) = outcome.warnings
    assert warning == f"numpy {plan.environment['numpy']} instead of 0"


def test_worker_without_zorse_as_a_package_works(repository: Path, tmp_path: Path) -> None:
    # Ray sends zorse to the nodes as files. No package of this name is installed there.
    plan = plan_of_command(repository / "digits", {"seed": 7}, 8, OPTIONS)
    code = (
        "import sys; from importlib.metadata import MetadataPathFinder as Finder; find = Finder.find_distributions; "
        "Finder.find_distributions = lambda context: [] if context.name == 'zorse' else find(context); "
        "from serving.batch.worker import *; from tests.serving.batch.jobs import Reports; "
        "worker = ShardWorker(WorkerSettings(Plan.from_json(sys.argv[1], 'plan'), sys.argv[2]), Reports()); "
        "print(worker({TASK: ['[0, []]']})[OUTCOME][0])"
    )
    command = [sys.executable, "-c", code, plan.to_json(), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    outcome = parse_outcome(done.stdout)
    assert (outcome.record.count, outcome.warnings) == (8, frozenset())
