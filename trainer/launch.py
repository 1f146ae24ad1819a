"""Runs `fit` on the workers of a Ray cluster: the only module that uses Ray Train."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import ray
from ray.train import ControllerError, FailureConfig, ScalingConfig, TrainingFailedError, get_context
from ray.train import RunConfig as RayRunConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from trainer.cluster import Capacity, cluster, cpus_per_worker, use_gpus
from trainer.errors import PROGRAMMING_ERRORS, LaunchError, Preempted, TrainerError, WatchdogError
from trainer.progress_actor import ProgressActor, RunAction, Update
from trainer.run_config import RunConfig
from zorse_common.errors import ZorseError, first_sentence
from zorse_common.signals import stop_requested
from zorse_common.storage import Storage

POLL_SECONDS = 0.5
STOP_SECONDS = 90.0
"""How long a stopping run waits for silent workers: less than the grace period of the deployment examples."""
LAST_SECONDS = 60.0
"""How long a failed run waits for Ray Train to end, which usually takes seconds. Ray must not be shut down before."""
_RAY_FOLDER = ".ray-train"
"""Ray Train's folder in the run's folder. Ray uses it to check that every node sees the run's storage."""


class _ActorReporter:
    """The workers' `Reporter`: it calls the actor and does not wait for answers."""

    def __init__(self, actor: Any, is_main: bool) -> None:
        self._actor, self._is_main = actor, is_main
        self._stopping = False
        self._answer: Any = None
        self._next = 0.0

    def progress(self, seen: int, figures: dict[str, float]) -> None:
        self._actor.progress.remote(seen, figures)

    def event(self, message: str) -> None:
        self._actor.event.remote(message)

    def stop_reason(self, reason: str) -> None:
        self._actor.set_stop_reason.remote(reason)

    def stop_requested(self) -> bool:
        """Return the newest answer of the actor, to which a request goes twice a second."""
        now = time.monotonic()
        if self._is_main and self._answer is None and now >= self._next:
            self._answer, self._next = self._actor.stopping.remote(), now + POLL_SECONDS
        if self._answer is not None and ray.wait([self._answer], timeout=0)[0]:
            self._stopping, self._answer = ray.get(self._answer), None
        return self._stopping


def launch(config: RunConfig, show: Callable[[Update], None], address: str | None = None) -> None:
    """Train with `run.workers` workers and return when all images were seen.

    `config.run.dir` is a whole path or URI. `show` is called about twice a second with the run's progress. The Ray
    cluster is, in this order: the one already connected; the one at `address` or the environment's RAY_ADDRESS; one
    started here and ended afterwards. On SIGTERM or SIGINT the workers write a checkpoint and stop. A second SIGINT
    aborts the run.

    Raises:
        Preempted: a signal stopped the run.
        TrainerError: a worker raised it.
        LaunchError: workers died too often, or the cluster is too small.
    """
    with stop_requested() as stop, cluster(config.run.most_workers, address):
        # On the driver's node: an actor elsewhere would be lost with its node.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(num_cpus=0, scheduling_strategy=here)(ProgressActor).remote()
        try:
            _RunMonitor(config, actor, show, stop).run()
        except ray.exceptions.RayError as error:
            raise LaunchError(f"the Ray cluster was lost ({_last_line(error)}): continue with --resume") from error
        except BaseException:
            # In a Ray that was running before this call, workers could outlive it.
            actor.stop.remote()
            raise
        finally:
            with contextlib.suppress(OSError):
                Storage(config.run.dir).remove(_RAY_FOLDER)


class _RunMonitor:
    """Runs Ray Train in a thread, polls the actor, and turns signals and failures into one error."""

    def __init__(self, config: RunConfig, actor: Any, show: Callable[[Update], None], stop: threading.Event) -> None:
        self._config, self._actor, self._show, self._stop = config, actor, show, stop
        self._seen = 0

    def run(self) -> None:
        """Train, and restart Ray Train when it gives up although the run makes progress. Raises as `launch`."""
        furthest, left = 0, self._config.run.max_failures
        while error := self._train():
            if self._stop.is_set():
                raise Preempted("the run was stopped, and its workers with it: continue with --resume")
            further, furthest = self._seen > furthest, max(furthest, self._seen)
            # Ray Train has replaced lost workers `max_failures` times, but not workers that died during their start.
            left = self._config.run.max_failures if further else left - 1
            if left <= 0 or _no_room(error) or not (further or isinstance(error, ControllerError)):
                raise _cause(error) from error
            self._show(Update(self._seen, events=(f"restarting the workers: {_last_line(error)}",)))
        action = ray.get(self._actor.action.remote())
        if action is RunAction.STOP:
            raise WatchdogError(f"the watchdog stopped the run: {ray.get(self._actor.stop_reason.remote())}")
        if action is RunAction.PREEMPT:
            raise Preempted("the run stopped on request and wrote a checkpoint: continue with --resume")

    def _train(self) -> Exception | None:
        """Train once the cluster is large enough. Return the error with which Ray Train ended, if any."""
        gpus = self._wait_for_room()
        trainer = _trainer(self._config, self._actor, gpus)
        return self._follow(_in_thread(trainer.fit), Capacity(self._config, gpus))

    def _wait_for_room(self) -> bool:
        """Wait until the cluster can hold the least number of workers. Return whether they use GPUs."""
        capacity = Capacity(self._config, use_gpus(self._config))
        with capacity.requested():
            while not capacity.suffices():
                if self._stop.wait(POLL_SECONDS):
                    raise Preempted("the run was stopped before it started: continue with --resume")
        return use_gpus(self._config)

    def _follow(self, training: Future[None], capacity: Capacity) -> Exception | None:
        """Show the run's progress until `training` ends. Return the error with which it ended, if any."""
        stopped_at: float | None = None
        while True:
            ended = bool(wait([training], POLL_SECONDS).done)
            if self._stop.is_set():
                stopped_at = stopped_at or time.monotonic()
                self._actor.stop.remote()
            try:
                capacity.suffices()
            except LaunchError as error:
                ray.get(self._actor.fail.remote(error))
            actor = self._actor
            answers = [actor.take_update.remote(), actor.failure.remote(), actor.silence.remote()]
            update, failure, silence = ray.get(answers)
            self._seen = update.seen
            self._show(update)
            if failure is not None:
                # Ray Train restarts the workers, which read the failure and end at once. Shutting Ray down meanwhile
                # can crash it, and this process with it.
                wait([training], LAST_SECONDS)
                raise failure
            if ended:
                return _exception(training)
            if stopped_at and min(silence, time.monotonic() - stopped_at) > STOP_SECONDS:
                raise Preempted("the run was stopped while no worker ran: continue with --resume")


def _exception(training: Future[None]) -> Exception | None:
    """Return the error with which `training` ended, if any. Other exceptions, such as SystemExit, are raised."""
    error = training.exception()
    if error is None or isinstance(error, Exception):
        return error
    raise error


def _in_thread(fit: Callable[[], object]) -> Future[None]:
    """Run `fit` in a daemon thread, so that the main thread can answer signals."""
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


def _trainer(config: RunConfig, actor: Any, gpus: bool) -> TorchTrainer:
    workers, cpus = config.run.workers, cpus_per_worker(config)
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    elastic = not isinstance(workers, int)
    # How many seconds workers wait for resources. After the loss of a node Ray Train first tries as many workers as
    # before. Elastic runs then try with fewer; other runs need the resources of the lost workers.
    patience = 15.0 if elastic else max(config.run.wait_for_nodes, 15.0)
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(patience)
    return TorchTrainer(
        _worker,
        train_loop_config={"config": config, "actor": actor, "threads": cpus},
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
    # A worker without a GPU still sees the machine's GPUs.
    os.environ["DS_ACCELERATOR"] = get_device().type
    from trainer.loop import fit  # DeepSpeed chooses its accelerator when it is first imported

    actor = arguments["actor"]
    if ray.get(actor.failure.remote()) is not None:
        # Ray Train restarts workers after any error; an error that the user must fix would only be raised again.
        return
    reporter = _ActorReporter(actor, is_main=get_context().get_world_rank() == 0)
    try:
        action = fit(arguments["config"], reporter, get_device(), arguments["threads"])
    except ZorseError as error:
        ray.get(actor.fail.remote(error))
        raise
    except PROGRAMMING_ERRORS as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{type(error).__name__}: {first_sentence(error)}"
        where = f"{Path(frame.filename).name}, line {frame.lineno}"
        failure = TrainerError(f"a worker failed in {where} ({reason}): correct the component there")
        ray.get(actor.fail.remote(failure))
        raise
    ray.get(actor.end.remote(action))


def _cause(error: Exception) -> TrainerError:
    """Return the error that says in one line how the workers ended."""
    if _no_room(error):
        return LaunchError("the cluster had no room for the workers for run.wait_for_nodes seconds: add nodes")
    failures = getattr(error, "worker_failures", {}) if isinstance(error, TrainingFailedError) else {}
    reasons = [f"worker {rank}: {_last_line(failure)}" for rank, failure in failures.items()]
    return LaunchError("training failed: " + ("; ".join(reasons) or _last_line(error)))


def _no_room(error: Exception) -> bool:
    failure = error.controller_failure if isinstance(error, ControllerError) else None
    return type(failure).__name__ == "WorkerGroupStartupTimeoutError"


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
