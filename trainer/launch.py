"""Runs `fit` on the workers of a Ray cluster: the only module that knows Ray Train."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
import torch
import yaml
from ray.train import RunConfig as RayRunConfig
from ray.train import ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from trainer import registry
from trainer.config import RunConfig, find_config, load_config, with_run_dir
from trainer.errors import ConfigError, LaunchError, TrainerError
from trainer.hooks.base import Update
from trainer.snapshot import FOLDER
from trainer.storage import Storage
from trainer.tasks.build import build_source, check_fit

POLL_SECONDS = 0.5
WORKER_ENVIRONMENT = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5"}


class _Board:
    """Holds the newest report of the workers for the driver to fetch."""

    def __init__(self) -> None:
        self._update = Update()

    def progress(self, seen: int, metrics: dict[str, float]) -> None:
        self._update = Update(seen, metrics, self._update.events)

    def event(self, message: str) -> None:
        self._update = Update(self._update.seen, self._update.metrics, (*self._update.events, message))

    def read(self) -> Update:
        return self._update


class _BoardReporter:
    """The workers' `Reporter`: calls an actor of the driver's and does not wait for the answer."""

    def __init__(self, board: Any) -> None:
        self._board = board

    def progress(self, seen: int, metrics: dict[str, float]) -> None:
        self._board.progress.remote(seen, metrics)

    def event(self, message: str) -> None:
        self._board.event.remote(message)


def train(
    config: RunConfig | str, overrides: Sequence[str] = (), *, show: Callable[[Update], None] | None = None
) -> str:
    """Check everything, train, and return the URI of the run's folder.

    `config` is a YAML file, the name of a shipped config (both with `key.sub=value` overrides), or a `RunConfig`.
    `show` is called about twice a second, from another thread, with what the workers reported.

    Raises:
        TrainerError: the config or the data is wrong, the run's folder is taken, or a worker failed.
    """
    run = load_config(find_config(config), overrides) if isinstance(config, str) else config
    resolved = registry.resolved(run)
    check_fit(run)
    build_source(run)
    storage = Storage(run.run.dir)
    if storage.exists(FOLDER):
        raise ConfigError(f"run.dir {run.run.dir} already holds a run: choose another run.dir or remove it")
    storage.write("config.yaml", yaml.safe_dump(resolved, sort_keys=False).encode())
    launch(with_run_dir(RunConfig.model_validate(resolved), storage.uri), show or (lambda update: None))
    return storage.uri


def launch(config: RunConfig, show: Callable[[Update], None]) -> None:
    """Train with `run.workers` workers and return when all images were seen.

    `show` is called about twice a second, from another thread, with what the workers reported. A local Ray is
    started, and ended afterwards, unless one is connected or the environment's RAY_ADDRESS names one.

    Raises:
        TrainerError: what a worker raised, or `LaunchError` when a worker died or the cluster is too small.
    """
    with local_ray(config.run.workers):
        gpus = _use_gpus(config)
        _check_capacity(config.run.workers, gpus)
        board = ray.remote(num_cpus=0)(_Board).remote()
        storage = tempfile.mkdtemp(prefix="zorse-ray-train-")
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"config": config.model_dump(mode="json"), "board": board},
            scaling_config=ScalingConfig(num_workers=config.run.workers, use_gpu=gpus),
            torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
            run_config=RayRunConfig(name="run", storage_path=storage),
        )
        try:
            with _following(board, show):
                trainer.fit()
        except TrainingFailedError as error:
            raise _cause(error) from error
        finally:
            shutil.rmtree(storage, ignore_errors=True)


def _worker(arguments: dict[str, Any]) -> None:
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    from trainer.loop import fit  # DeepSpeed chooses its accelerator when it is first imported

    fit(RunConfig.model_validate(arguments["config"]), _BoardReporter(arguments["board"]), get_device())


@contextlib.contextmanager
def local_ray(workers: int) -> Iterator[None]:
    """A Ray for `workers` workers: the one connected or named by RAY_ADDRESS, or one of our own."""
    if ray.is_initialized():
        yield
        return
    os.environ.update({"RAY_USAGE_STATS_ENABLED": "0"} | WORKER_ENVIRONMENT)
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False, logging_level="ERROR")
        folder = None
    else:
        folder = tempfile.mkdtemp(prefix="zorse-")
        cpus = max(os.cpu_count() or 1, workers)
        ray.init(
            num_cpus=cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            _temp_dir=folder,
        )
    try:
        yield
    finally:
        ray.shutdown()
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def _use_gpus(config: RunConfig) -> bool:
    if config.run.gpus == "auto":
        return bool(ray.cluster_resources().get("GPU", 0) >= config.run.workers)
    return config.run.gpus


def _check_capacity(workers: int, gpus: bool) -> None:
    kind = "GPU" if gpus else "CPU"
    there = int(ray.cluster_resources().get(kind, 0))
    if there < workers:
        raise LaunchError(
            f"run.workers = {workers} needs {workers} {kind}s and the cluster has {there}: "
            "lower run.workers or add nodes"
        )


@contextlib.contextmanager
def _following(board: Any, show: Callable[[Update], None]) -> Iterator[None]:
    """Poll the board in a thread; `show` gets the final state too."""
    stop = threading.Event()

    def follow() -> None:
        while not stop.wait(POLL_SECONDS):
            show(ray.get(board.read.remote()))

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        show(ray.get(board.read.remote()))


def _cause(error: TrainingFailedError) -> TrainerError:
    """The first of the workers' own errors, or one line about what became of them."""
    failures = getattr(error, "worker_failures", {})
    for failure in failures.values():
        cause = getattr(failure, "_base_exc", failure)
        for candidate in (cause, getattr(cause, "cause", None), cause.__cause__):
            if isinstance(candidate, TrainerError):
                return candidate
    reasons = [f"worker {rank}: {str(failure).strip().splitlines()[-1]}" for rank, failure in failures.items()]
    return LaunchError("training failed: " + ("; ".join(reasons) or str(error).strip().splitlines()[-1]))
