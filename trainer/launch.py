"""Runs `fit` on the workers of a Ray cluster: the only module that knows Ray Train."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.train import ControllerError, FailureConfig, ScalingConfig, TrainingFailedError, get_context
from ray.train import RunConfig as RayRunConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from trainer.cluster import Capacity, cluster, cpus_per_worker, use_gpus
from trainer.errors import LaunchError, Preempted, TrainerError, WatchdogError
from trainer.hooks.base import Update, Verdict
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


class _Board:
    """The actor between the driver and the workers: what they report, and what it asks of them."""

    def __init__(self) -> None:
        self._update = Update()
        self._stopping = False
        self._failure: ZorseError | None = None
        self._verdict: Verdict | None = None
        self._heard = time.monotonic()

    def progress(self, seen: int, metrics: dict[str, float]) -> None:
        self._update = Update(seen, metrics, self._update.events)

    def event(self, message: str) -> None:
        self._update = Update(self._update.seen, self._update.metrics, (*self._update.events, message))

    def read(self) -> Update:
        return self._update

    def stop(self) -> None:
        self._stopping = True

    def stopping(self) -> bool:
        self._heard = time.monotonic()
        return self._stopping

    def silence(self) -> float:
        return time.monotonic() - self._heard

    def fail(self, failure: ZorseError) -> None:
        self._failure = self._failure or failure

    def failure(self) -> ZorseError | None:
        return self._failure

    def end(self, verdict: Verdict) -> None:
        self._verdict = verdict

    def verdict(self) -> Verdict | None:
        return self._verdict


class _BoardReporter:
    """The workers' `Reporter`: calls the board and does not wait for the answer."""

    def __init__(self, board: Any, is_main: bool) -> None:
        self._board, self._is_main = board, is_main
        self._stopping = False
        self._asked: Any = None
        self._next = 0.0

    def progress(self, seen: int, metrics: dict[str, float]) -> None:
        self._board.progress.remote(seen, metrics)

    def event(self, message: str) -> None:
        self._board.event.remote(message)

    def stop_requested(self) -> bool:
        """The newest answer of the board, which is asked twice a second."""
        now = time.monotonic()
        if self._is_main and self._asked is None and now >= self._next:
            self._asked, self._next = self._board.stopping.remote(), now + POLL_SECONDS
        if self._asked is not None and ray.wait([self._asked], timeout=0)[0]:
            self._stopping, self._asked = ray.get(self._asked), None
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
        board = ray.remote(num_cpus=0, scheduling_strategy=here)(_Board).remote()
        ray.get([board.event.remote(message) for message in news])
        try:
            _Driver(config, board, show, stop).run()
        except ray.exceptions.RayError as error:
            raise LaunchError(f"the Ray cluster was lost ({_last_line(error)}): go on with --resume") from error
        except BaseException:
            # Workers that outlive this call, in a Ray that was here before it, end too.
            board.stop.remote()
            raise
        finally:
            with contextlib.suppress(OSError):
                Storage(config.run.dir).remove(_RAY_FOLDER)


class _Driver:
    """Stands between the run and the outside until it has ended."""

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
        verdict = ray.get(self._board.verdict.remote())
        if verdict is Verdict.STOP:
            told = [event for event in self._update.events if event.startswith("watchdog: ")]
            raise WatchdogError(f"the watchdog stopped the run: {told[-1].removeprefix('watchdog: ')}")
        if verdict is Verdict.PREEMPT:
            raise Preempted("the run stopped as it was asked to and wrote a checkpoint: go on with --resume")

    def _train(self) -> Exception | None:
        """Train once the cluster is large enough, and return what Ray ended with, if not well."""
        gpus = self._wait_for_room()
        return self._follow(_Fitting(_trainer(self._config, self._board, gpus)), Capacity(self._config, gpus))

    def _wait_for_room(self) -> bool:
        """Wait until the cluster can hold the workers there must be; whether they use GPUs."""
        capacity = Capacity(self._config, use_gpus(self._config))
        with capacity.asked_for():
            while not capacity.suffices():
                if self._stop.wait(POLL_SECONDS):
                    raise Preempted("the run was asked to stop before it started: go on with --resume")
        return use_gpus(self._config)

    def _follow(self, fitting: _Fitting, capacity: Capacity) -> Exception | None:
        """Show what comes in until Ray Train has ended; what it ended with, if not well."""
        ended = False
        asked: float | None = None
        while not ended:
            ended = fitting.done(POLL_SECONDS)
            if self._stop.is_set():
                asked = asked or time.monotonic()
                self._board.stop.remote()
            try:
                capacity.suffices()
            except LaunchError as error:
                ray.get(self._board.fail.remote(error))
            board = self._board
            answers = [board.read.remote(), board.failure.remote(), board.silence.remote()]
            self._update, failure, silence = ray.get(answers)
            self._show(self._update)
            if failure is not None:
                # Ray starts the workers again, which ask the board and end at once. To shut it down meanwhile can
                # crash it, and this process with it.
                fitting.done(LAST_SECONDS)
                raise failure
            if asked and not ended and min(silence, time.monotonic() - asked) > STOP_SECONDS:
                raise Preempted("the run was stopped while no worker ran: go on with --resume")
        return fitting.error


class _Fitting:
    """Ray Train in a thread of its own, so that the main one can answer signals."""

    def __init__(self, trainer: TorchTrainer) -> None:
        self.error: Exception | None = None
        self._trainer = trainer
        self._thread = threading.Thread(target=self._run, daemon=True, name="ray-train")
        self._thread.start()

    def done(self, timeout: float) -> bool:
        """Whether training has ended, after up to `timeout` seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._trainer.fit()
        except SystemExit:
            # Ray was shut down under it: the main thread has raised already.
            return
        except Exception as error:  # noqa: BLE001 - the main thread raises what it means
            self.error = error


def _trainer(config: RunConfig, board: Any, gpus: bool) -> TorchTrainer:
    workers = config.run.workers
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    elastic = not isinstance(workers, int)
    # How long workers wait for a place. After the loss of a node Ray first tries with as many as before: elastic ones
    # then try again with fewer, others need what lost workers leave.
    patience = 15.0 if elastic else max(config.run.wait_for_nodes, 15.0)
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(patience)
    return TorchTrainer(
        _worker,
        train_loop_config={"config": config, "board": board},
        scaling_config=ScalingConfig(
            num_workers=workers if isinstance(workers, int) else (workers.min, workers.max),
            use_gpu=gpus,
            resources_per_worker={"CPU": cpus_per_worker(config)} | ({"GPU": 1} if gpus else {}),
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
        # Ray tries again whatever the error was; one that the user must mend would come again.
        return
    reporter = _BoardReporter(board, is_main=get_context().get_world_rank() == 0)
    try:
        verdict = fit(arguments["config"], reporter, get_device())
    except ZorseError as error:
        ray.get(board.fail.remote(error))
        raise
    ray.get(board.end.remote(verdict))


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
