"""Runs `fit` on the workers of a Ray cluster: the only module that knows Ray Train."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray
from ray.train import FailureConfig, ScalingConfig, TrainingFailedError, get_context
from ray.train import RunConfig as RayRunConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from trainer.config import RunConfig
from trainer.errors import LaunchError, Preempted, TrainerError, WatchdogError
from trainer.hooks.base import Update, Verdict
from trainer.storage import Storage

POLL_SECONDS = 0.5
_RAY_FOLDER = ".ray-train"
"""Ray Train's own folder in the run's; it is also how Ray finds out that every node sees the run's storage."""


class _Board:
    """The actor between the driver and the workers: what they report, and what it asks of them."""

    def __init__(self) -> None:
        self._update = Update()
        self._stopping = False
        self._failure: TrainerError | None = None
        self._verdict: Verdict | None = None

    def progress(self, seen: int, metrics: dict[str, float]) -> None:
        self._update = Update(seen, metrics, self._update.events)

    def event(self, message: str) -> None:
        self._update = Update(self._update.seen, self._update.metrics, (*self._update.events, message))

    def read(self) -> Update:
        return self._update

    def stop(self) -> None:
        self._stopping = True

    def stopping(self) -> bool:
        return self._stopping

    def fail(self, failure: TrainerError) -> None:
        self._failure = self._failure or failure

    def failure(self) -> TrainerError | None:
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


def launch(config: RunConfig, show: Callable[[Update], None], address: str | None = None) -> None:
    """Train with `run.workers` workers and return when all images were seen.

    `config.run.dir` is a whole path or URI. `show` is called about twice a second with what the workers reported.
    Ray is the one already connected, that at `address` (or of the environment's RAY_ADDRESS), or one started here
    and ended afterwards. On SIGTERM or SIGINT the workers write a checkpoint and stop; a second SIGINT aborts.

    Raises:
        Preempted: the run was asked to stop and did.
        TrainerError: what a worker raised, or `LaunchError` when workers died too often or the cluster is too small.
    """
    with _until_signal() as stop, cluster(config.run.most_workers, address):
        gpus = _use_gpus(config)
        capacity = _Capacity(config, gpus)
        while not capacity.suffices():
            if stop.wait(POLL_SECONDS):
                raise Preempted("the run was asked to stop before it started: go on with --resume")
        # Beside the driver: a board on another node would be lost with it.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        board = ray.remote(num_cpus=0, scheduling_strategy=here)(_Board).remote()
        try:
            _follow(_Fitting(_trainer(config, board, gpus)), board, capacity, show, stop)
        except ray.exceptions.RayError as error:
            raise LaunchError(f"the Ray cluster was lost ({_last_line(error)}): go on with --resume") from error
        finally:
            Storage(config.run.dir).remove(_RAY_FOLDER)


def _follow(
    fitting: _Fitting, board: Any, capacity: _Capacity, show: Callable[[Update], None], stop: threading.Event
) -> None:
    """Stand between the run and the outside until it has ended. Raises as `launch`."""
    ended = False
    while not ended:
        ended = fitting.done(POLL_SECONDS)
        if stop.is_set():
            board.stop.remote()
        try:
            capacity.suffices()
        except LaunchError as error:
            ray.get(board.fail.remote(error))
        update, failure, verdict = ray.get([board.read.remote(), board.failure.remote(), board.verdict.remote()])
        show(update)
        if failure is not None:
            # Without waiting for Ray, which starts the workers again; they ask the board and end at once.
            raise failure
    if fitting.error is not None:
        raise _cause(fitting.error) from fitting.error
    if verdict is Verdict.STOP:
        raise WatchdogError(f"the watchdog stopped the run: {update.events[-1]}")
    if verdict is Verdict.PREEMPT:
        raise Preempted("the run stopped as it was asked to and wrote a checkpoint: go on with --resume")


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
        except Exception as error:  # noqa: BLE001 - the main thread raises what it means
            self.error = error


def _trainer(config: RunConfig, board: Any, gpus: bool) -> TorchTrainer:
    workers = config.run.workers
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.5"
    return TorchTrainer(
        _worker,
        train_loop_config={"config": config.model_dump(mode="json"), "board": board},
        scaling_config=ScalingConfig(
            num_workers=workers if isinstance(workers, int) else (workers.min, workers.max),
            use_gpu=gpus,
            resources_per_worker={"CPU": _cpus_per_worker(config)} | ({"GPU": 1} if gpus else {}),
        ),
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        run_config=RayRunConfig(
            name=_RAY_FOLDER,
            storage_path=config.run.dir,
            failure_config=FailureConfig(
                max_failures=config.run.max_failures,
                # Workers that die as they start are the controller's failures to Ray.
                controller_failure_limit=config.run.max_failures,
            ),
        ),
    )


def _cpus_per_worker(config: RunConfig) -> int:
    """`run.cpus_per_worker`; by default all there are, shared out, or 1 where workers or nodes come and go."""
    given, workers = config.run.cpus_per_worker, config.run.workers
    if given != "auto":
        return given
    if isinstance(workers, int) and len(ray.nodes()) == 1:
        return max(1, int(ray.cluster_resources()["CPU"]) // workers)
    return 1


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
        verdict = fit(RunConfig.model_validate(arguments["config"]), reporter, get_device())
    except TrainerError as error:
        ray.get(board.fail.remote(error))
        raise
    ray.get(board.end.remote(verdict))


@contextlib.contextmanager
def _until_signal() -> Iterator[threading.Event]:
    """An event that SIGTERM or the first SIGINT sets; the second SIGINT is a KeyboardInterrupt."""
    stop = threading.Event()

    def ask(number: int, frame: object) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def cluster(workers: int, address: str | None = None) -> Iterator[None]:
    """A Ray for `workers` workers: the one connected, that at `address` or of RAY_ADDRESS, or one of our own.

    Raises:
        LaunchError: no cluster answers at the address.
    """
    if ray.is_initialized():
        yield
        return
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    address = cluster_address(address)
    # Ray's sockets lie in its folder and a socket's path may have 107 characters at most.
    folder = None if address else tempfile.mkdtemp(prefix="zorse-", dir="/tmp")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        if address:
            # The nodes need zorse's dependencies, but not zorse.
            ray.init(address, runtime_env={"py_modules": [str(Path(__file__).parent)]}, **options)
        else:
            cpus = max(os.cpu_count() or 1, workers)
            ray.init(num_cpus=cpus, include_dashboard=False, _temp_dir=folder, **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        what = f"no Ray cluster answers at {address}" if address else "Ray cannot start here"
        raise LaunchError(f"{what} ({reason}): check --address, RAY_ADDRESS and zorse doctor") from error
    if threading.current_thread() is threading.main_thread():
        # Ray puts its own in their place, which end the process at once.
        for number, handler in handlers.items():
            signal.signal(number, handler)
    try:
        yield
    finally:
        ray.shutdown()
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def cluster_address(given: str | None = None) -> str | None:
    """The address of the cluster to use: `given`, or the environment's; None to start one here."""
    return given or os.environ.get("RAY_ADDRESS") or None


def _use_gpus(config: RunConfig) -> bool:
    """`run.gpus`; by default whether the cluster has one for each worker there must be."""
    if config.run.gpus == "auto":
        return bool(ray.cluster_resources().get("GPU", 0) >= config.run.fewest_workers)
    return config.run.gpus


class _Capacity:
    """Whether the cluster has room for the workers that there must be."""

    def __init__(self, config: RunConfig, gpus: bool) -> None:
        self._kind, self._each = ("GPU", 1) if gpus else ("CPU", _cpus_per_worker(config))
        self._workers, self._patience = config.run.fewest_workers, config.run.wait_for_nodes
        self._short_since: float | None = None

    def suffices(self) -> bool:
        """Look once.

        Raises:
            LaunchError: it has not sufficed for `run.wait_for_nodes` seconds.
        """
        there, now = int(ray.cluster_resources().get(self._kind, 0)), time.monotonic()
        if there >= self._workers * self._each:
            self._short_since = None
            return True
        if self._short_since is None:
            self._short_since = now
        if now - self._short_since > self._patience:
            raise LaunchError(
                f"run.workers = {self._workers} needs {self._workers * self._each} {self._kind}s and after "
                f"{self._patience:g} s (run.wait_for_nodes) the cluster has {there}: lower run.workers or add nodes"
            )
        return False


def _cause(error: Exception) -> TrainerError:
    """One line about what became of the workers."""
    failures = getattr(error, "worker_failures", {}) if isinstance(error, TrainingFailedError) else {}
    reasons = [f"worker {rank}: {_last_line(failure)}" for rank, failure in failures.items()]
    return LaunchError("training failed: " + ("; ".join(reasons) or _last_line(error)))


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
