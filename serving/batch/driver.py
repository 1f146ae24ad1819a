"""Runs the tasks of a batch job on Ray Data: one row is one shard, and an actor holds the model."""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.data._internal.execution.execution_callback import ExecutionCallback

from serving.batch.plan import Plan
from serving.batch.ray_cluster import Questions, RayShardWorker, RemoteReports, connected, is_private, start_board
from serving.batch.shard import Outcome, Task
from serving.batch.watch import Watch
from serving.batch.worker import OUTCOME, TASK, WorkerSettings, parse_outcome
from serving.cluster_connection import answers
from serving.config import Device
from serving.engine import resolve_device
from serving.errors import BatchError, BatchStoppedError
from zorse_common.errors import first_sentence

_POLL_SECONDS = 0.2
_SILENCE_SECONDS = 15.0
"""How long the cluster's control service (GCS) may be unreachable. Ray itself would wait for a minute."""
_CHECK_SECONDS = 3.0
_END_SECONDS = 5.0
"""How long the end of a job waits for Ray Data to end, which may hang where the cluster is gone."""
_ENDED: ContextVar[threading.Event] = ContextVar("ended")
"""Set when the job has ended whose rows this thread reads."""


@dataclass(frozen=True)
class Scale:
    """Where and how widely a job runs: the address of a cluster, or None for a private Ray, and the pool's size.

    By default there is an actor for each CPU, or `per_gpu` for each GPU. With more `workers` than the cluster has room
    for, an autoscaler adds nodes, and until then the others work.
    """

    workers: int | None = None
    per_gpu: int = 1
    address: str | None = None


@dataclass(frozen=True)
class Resources:
    """The pool of a job: the number of its actors, and what Ray reserves for each."""

    workers: int
    num_cpus: float
    num_gpus: float = 0.0


def pool_of(device: Device, scale: Scale, cpus: float, gpus: float, tasks: int) -> Resources:
    """Return the pool for a cluster that has `cpus` and `gpus` now. There are never more actors than tasks.

    Raises:
        BatchError: `device` is CUDA, the cluster has no GPU, and the number of workers is not given.
    """
    if device == "cpu":
        return Resources(max(1, min(scale.workers or int(cpus), tasks)), 1.0)
    count = scale.workers or int(gpus) * scale.per_gpu
    if not count:
        raise BatchError(
            "CUDA was requested and the cluster has no GPU: use --device cpu, or give --workers to add nodes"
        )
    return Resources(min(count, tasks), 1.0, math.floor(10_000 / scale.per_gpu) / 10_000)


def cluster_device(address: str | None) -> Device:
    """Return CUDA if the Ray where a job runs has GPUs now, else the CPU.

    Raises:
        BatchError: no cluster answers at `address`.
    """
    if is_private(address):
        return resolve_device("auto")
    with connected(address):
        return "cuda" if ray.cluster_resources().get("GPU", 0) else "cpu"


def run_tasks(
    plan: Plan,
    tasks: Sequence[Task],
    settings: WorkerSettings,
    scale: Scale,
    stop: threading.Event,
    show: Callable[[int], Any] = lambda images: None,
) -> Iterator[Outcome]:
    """Yield the outcome of each task, in any order.

    `show` is called about once a second, with the number of images that are done of all shards without an outcome.

    Raises:
        BatchStoppedError: `stop` was set.
        BatchError: a worker failed, Ray does not start, or the cluster no longer answers.
    """
    with connected(scale.address):
        total = ray.cluster_resources()
        pool = pool_of(plan.device, scale, total.get("CPU", 1), total.get("GPU", 0), len(tasks))
        settings = replace(settings, gpu_fraction=pool.num_gpus or 1.0)
        board = start_board()
        watch = Watch(Questions(board).in_hand, show)
        with _executed(_dataset(tasks, settings, pool, board)) as outcomes:
            yield from _received(outcomes, stop, str(ray.get_runtime_context().gcs_address), watch)


def _dataset(tasks: Sequence[Task], settings: WorkerSettings, pool: Resources, board: Any) -> Any:
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = -1  # it would count shards, and the watch counts images
    context.custom_execution_callback_classes = [_EndsWithItsJob]
    # A list has no read tasks, which would take the CPUs of the actors and wait for ever. One block for each row
    # makes each shard a task of its own.
    with DataContext.current(context):
        rows = ray.data.from_items([{TASK: task.to_json()} for task in tasks], override_num_blocks=len(tasks))
        return rows.map_batches(
            RayShardWorker,
            batch_size=1,
            batch_format="numpy",
            fn_constructor_args=(settings, RemoteReports(board)),
            compute=ActorPoolStrategy(min_size=1, max_size=pool.workers, initial_size=pool.workers),
            num_cpus=pool.num_cpus,
            num_gpus=pool.num_gpus or None,
        )


class _EndsWithItsJob(ExecutionCallback):
    """Ends an execution of Ray Data when its job has ended. Ray Data makes it in the thread that reads the rows."""

    def __init__(self) -> None:
        self._ended = _ENDED.get()

    def on_execution_step(self, executor: Any) -> None:
        """Raise an exception, which ends the execution, if the job has ended. It is called many times a second."""
        if self._ended.is_set():
            raise BatchStoppedError("the job has ended")


@contextlib.contextmanager
def _executed(dataset: Any) -> Iterator[queue.Queue[Any]]:
    """Execute `dataset` while the block runs.

    Yields a queue that receives each outcome, and at last None, or the exception that ended the execution. The threads
    of Ray Data have ended after the block: a call of theirs after `ray.shutdown` would connect to any Ray that it
    finds, and end this process where that fails.
    """
    outcomes: queue.Queue[Any] = queue.Queue()
    ended, log = threading.Event(), logging.getLogger("ray.data")
    thread = threading.Thread(target=_consume, args=(dataset, outcomes, ended), daemon=True, name="zorse-batch-rows")
    before = log.level
    log.setLevel(logging.ERROR)
    thread.start()
    try:
        yield outcomes
    finally:
        log.setLevel(logging.CRITICAL)  # it would report its end as a fault
        ended.set()
        thread.join(_END_SECONDS)
        log.setLevel(before)


def _consume(dataset: Any, outcomes: queue.Queue[Any], ended: threading.Event) -> None:
    """Execute `dataset` until `ended` is set, see `_executed`."""
    _ENDED.set(ended)
    try:
        for row in dataset.iter_rows():
            outcomes.put(row[OUTCOME])
        outcomes.put(None)
    except BaseException as error:  # noqa: BLE001  (the other thread raises it)
        if not ended.is_set():  # the error's trace would hold the actors
            outcomes.put(error)


def _received(outcomes: queue.Queue[Any], stop: threading.Event, gcs: str, watch: Watch) -> Iterator[Outcome]:
    checked = heard = time.monotonic()
    while True:
        if stop.is_set():
            raise BatchStoppedError("the job was stopped: the same command continues it")
        now = time.monotonic()
        if now - checked > _CHECK_SECONDS:
            checked = now
            heard = now if answers(gcs) else heard
            if now - heard > _SILENCE_SECONDS:
                raise BatchError("the Ray cluster no longer answers: the same command continues the job")
        watch.check()
        try:
            received = outcomes.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            continue
        if received is None:
            return
        if isinstance(received, BaseException):
            reason = first_sentence(getattr(received, "cause", None) or received)
            raise BatchError(f"the job failed ({reason}): the same command continues it") from received
        outcome = parse_outcome(received)
        watch.done(outcome.record.shard)
        yield outcome
