"""Runs `fit` on the workers of a Ray cluster: the only module that knows Ray Train."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from typing import Any

import ray
from ray.train import ControllerError, FailureConfig, ScalingConfig, TrainingFailedError, get_context
from ray.train import RunConfig as RayRunConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from trainer.board import Board, RunAction, Update
from trainer.cluster import Capacity, cluster, cpus_per_worker, use_gpus
from trainer.errors import LaunchError, Preempted, TrainerError, WatchdogError
from trainer.run_config import RunConfig
from zorse_common.errors import ZorseError
from zorse_common.signals import stop_requested
from zorse_common.storage import Storage

POLL_SECONDS = 0.5
STOP_SECONDS = 90.0
"""How long a stopping run waits for workers that say nothing: less than the deployment examples leave it."""
LAST_SECONDS = 60.0
"""How long a failed run waits for Ray Train to end, which takes seconds; Ray may not be shut down before."""
_RAY_FOLDER = ".ray-train"
"""Ray Train's own folder in the run's; it is also how Ray finds out that every node sees the run's storage."""


class _BoardReporter:
    """The workers' `Reporter`: it calls the board and does not wait for the answer."""

    def __init__(self, board: Any, is_main: bool) -> None:
        self._board, self._is_main = board, is_main
        self._stopping = False
        self._answer: Any = None
        self._next = 0.0

    def progress(self, seen: int, figures: dict[str, float]) -> None:
        self._board.progress.remote(seen, figures)

    def event(self, message: str) -> None:
        self._board.event.remote(message)

    def stop_requested(self) -> bool:
        """Return the newest answer of the board, which is asked twice a second."""
        now = time.monotonic()
        if self._is_main and self._answer is None and now >= self._next:
            self._answer, self._next = self._board.stopping.remote(), now + POLL_SECONDS
        if self._answer is not None and ray.wait([self._answer], timeout=0)[0]:
            self._stopping, self._answer = ray.get(self._answer), None
        return self._stopping


def launch(
    config: RunConfig, show: Callable[[Update], None], news: Sequence[str] = (), address: str | None = None
) -> None:
    """Train with `run.workers` workers and return when all images were seen.

    `config.run.dir` is a whole path or URI. `show` is called about twice a second with what the workers reported, after
    the events `news`. Ray is the one already connected, that at `address` (or of the environment's RAY_ADDRESS), or one
    started here and ended afterwards. On SIGTERM or SIGINT the workers write a checkpoint and stop; on a second SIGINT
    the run is aborted.

    Raises:
        Preempted: the run was asked to stop and did.
        TrainerError: what a worker raised, or `LaunchError` when workers died too often or the cluster is too small.
    """
    with stop_requested() as stop, cluster(config.run.most_workers, address):
        # Beside the driver: a board on another node would be lost with it.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        board = ray.remote(num_cpus=0, scheduling_strategy=here)(Board).remote()
        ray.get([board.event.remote(message) for message in news])
        try:
            _RunMonitor(config, board, show, stop).run()
        except ray.exceptions.RayError as error:
            raise LaunchError(f"the Ray cluster was lost ({_last_line(error)}): go on with --resume") from error
        except BaseException:
            # Workers that outlive this call, in a Ray that was here before it, end too.
            board.stop.remote()
            raise
        finally:
            with contextlib.suppress(OSError):
                Storage(config.run.dir).remove(_RAY_FOLDER)


class _RunMonitor:
    """Runs the trainer in a thread, polls the board, and turns signals and failures into one error."""

    def __init__(self, config: RunConfig, board: Any, show: Callable[[Update], None], stop: threading.Event) -> None:
        self._config, self._board, self._show, self._stop = config, board, show, stop
        self._update = Update()

    def run(self) -> None:
        """Have Ray train, again where it gave up on a run that gets further. Raises as `launch`."""
        furthest, left = 0, self._config.run.max_failures
        while error := self._train():
            if self._stop.is_set():
                raise Preempted("the run was stopped, its workers with it: go on with --resume")
            further, furthest = self._update.seen > furthest, max(furthest, self._update.seen)
            # Ray has replaced lost workers `max_failures` times, but none that died as they started.
            left = self._config.run.max_failures if further else left - 1
            if left <= 0 or _no_place(error) or not (further or isinstance(error, ControllerError)):
                raise _cause(error) from error
            self._board.event.remote(f"starting the workers anew: {_last_line(error)}")
        action = ray.get(self._board.action.remote())
        if action is RunAction.STOP:
            warnings = [event for event in self._update.events if event.startswith("watchdog: ")]
            raise WatchdogError(f"the watchdog stopped the run: {warnings[-1].removeprefix('watchdog: ')}")
        if action is RunAction.PREEMPT:
            raise Preempted("the run stopped as it was asked to and wrote a checkpoint: go on with --resume")

    def _train(self) -> Exception | None:
        """Train once the cluster is large enough, and return what Ray ended with, if not well."""
        gpus = self._wait_for_room()
        trainer = _trainer(self._config, self._board, gpus)
        return self._follow(_in_thread(trainer.fit), Capacity(self._config, gpus))

    def _wait_for_room(self) -> bool:
        """Wait until the cluster can hold the workers there must be; whether they use GPUs."""
        capacity = Capacity(self._config, use_gpus(self._config))
        with capacity.asked_for():
            while not capacity.suffices():
                if self._stop.wait(POLL_SECONDS):
                    raise Preempted("the run was asked to stop before it started: go on with --resume")
        return use_gpus(self._config)

    def _follow(self, training: Future[None], capacity: Capacity) -> Exception | None:
        """Show the workers' reports until `training` ends; return the error with which it ended, if any."""
        stopped_at: float | None = None
        while True:
            ended = bool(wait([training], POLL_SECONDS).done)
            if self._stop.is_set():
                stopped_at = stopped_at or time.monotonic()
                self._board.stop.remote()
            try:
                capacity.suffices()
            except LaunchError as error:
                ray.get(self._board.fail.remote(error))
            board = self._board
            answers = [board.update.remote(), board.failure.remote(), board.silence.remote()]
            self._update, failure, silence = ray.get(answers)
            self._show(self._update)
            if failure is not None:
                # Ray starts the workers again, which read the failure and end at once. Shutting Ray down meanwhile can
                # crash it, and this process with it.
                wait([training], LAST_SECONDS)
                raise failure
            if ended:
                return _exception(training)
            if stopped_at and min(silence, time.monotonic() - stopped_at) > STOP_SECONDS:
                raise Preempted("the run was stopped while no worker ran: go on with --resume")


def _exception(training: Future[None]) -> Exception | None:
    """Return the error with which `training` ended; what is no ordinary error (SystemExit) is raised."""
    error = training.exception()
    if error is None or isinstance(error, Exception):
        return error
    raise error


def _in_thread(fit: Callable[[], object]) -> Future[None]:
    """Run `fit` in a thread, so that the main one can answer signals. The process does not wait for it at its end."""
    future: Future[None] = Future()

    def run() -> None:
        try:
            fit()
        except BaseException as error:  # noqa: BLE001 - the main thread raises it
            future.set_exception(error)
        else:
            future.set_result(None)

    threading.Thread(target=run, daemon=True, name="ray-train").start()
    return future


def _trainer(config: RunConfig, board: Any, gpus: bool) -> TorchTrainer:
    workers, cpus = config.run.workers, cpus_per_worker(config)
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    elastic = not isinstance(workers, int)
    # How long workers wait for a place. After the loss of a node Ray first tries with as many as before: elastic ones
    # then try again with fewer, others need what lost workers leave.
    patience = 15.0 if elastic else max(config.run.wait_for_nodes, 15.0)
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(patience)
    return TorchTrainer(
        _worker,
        train_loop_config={"config": config, "board": board, "threads": cpus},
        scaling_config=ScalingConfig(
            num_workers=workers if isinstance(workers, int) else (workers.min, workers.max),
            use_gpu=gpus,
            resources_per_worker={"CPU": cpus} | ({"GPU": 1} if gpus else {}),
        ),
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        run_config=RayRunConfig(
            name=_RAY_FOLDER,
            storage_path=config.run.dir,
            failure_config=FailureConfig(
                max_failures=config.run.max_failures,
                controller_failure_limit=-1 if elastic else 0,
            ),
        ),
    )


def _worker(arguments: dict[str, Any]) -> None:
    # Ray shows a worker without a GPU the machine's GPUs all the same.
    os.environ["DS_ACCELERATOR"] = get_device().type
    from trainer.loop import fit  # DeepSpeed chooses its accelerator when it is first imported

    board = arguments["board"]
    if ray.get(board.failure.remote()) is not None:
        # Ray tries again whatever the error was; an error that the user must fix would come again.
        return
    reporter = _BoardReporter(board, is_main=get_context().get_world_rank() == 0)
    try:
        action = fit(arguments["config"], reporter, get_device(), arguments["threads"])
    except ZorseError as error:
        ray.get(board.fail.remote(error))
        raise
    ray.get(board.end.remote(action))


def _cause(error: Exception) -> TrainerError:
    """One line about what became of the workers."""
    if _no_place(error):
        return LaunchError("the cluster had no free place for the workers for run.wait_for_nodes seconds: add nodes")
    failures = getattr(error, "worker_failures", {}) if isinstance(error, TrainingFailedError) else {}
    reasons = [f"worker {rank}: {_last_line(failure)}" for rank, failure in failures.items()]
    return LaunchError("training failed: " + ("; ".join(reasons) or _last_line(error)))


def _no_place(error: Exception) -> bool:
    failure = error.controller_failure if isinstance(error, ControllerError) else None
    return type(failure).__name__ == "WorkerGroupStartupTimeoutError"


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
