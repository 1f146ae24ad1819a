"""The Ray cluster of a run: the one that is there or one of our own, and whether it is large enough."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources

import zorse_common
from trainer.errors import LaunchError, Preempted
from trainer.run_config import RunConfig
from zorse_common.private_ray import ray_environment, ray_folder

ALONE = {
    # No node of a Ray on this machine alone is ever drained.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Ray Train asks the dashboard whether its controller lives. There is none: without an address Ray looks for one of
    # any Ray on the machine, and waits for it at the end of every run.
    "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:1",
}
"""Variables of a Ray of our own: what Ray Train need not do there."""


@contextlib.contextmanager
def cluster(workers: int, address: str | None = None) -> Iterator[None]:
    """A Ray for `workers` workers: the one connected, that at `address` or of RAY_ADDRESS, or one of our own.

    Raises:
        LaunchError: no cluster answers at the address.
    """
    if ray.is_initialized():
        yield
        return
    with contextlib.ExitStack() as stack:
        address, folder = cluster_address(address), None
        if not address:
            stack.enter_context(ray_environment(ALONE))
            folder = stack.enter_context(ray_folder())
        stack.callback(ray.shutdown)
        _connect(address, max(os.cpu_count() or 1, workers), folder)
        yield


def _connect(address: str | None, cpus: int, folder: str | None) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        if address:
            _check_address(address)
            # The nodes need zorse's dependencies, but not zorse.
            packages = [str(Path(package).parent) for package in (__file__, zorse_common.__file__)]
            ray.init(address, runtime_env={"py_modules": packages}, **options)
        else:
            ray.init("local", num_cpus=cpus, include_dashboard=False, _temp_dir=folder, **options)
    except SystemExit as error:
        # Ray's own answer to a SIGTERM while it starts.
        raise Preempted("the run was stopped before it started: continue with --resume") from error
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        what = f"no Ray cluster answers at {address}" if address else "Ray does not start here"
        raise LaunchError(f"{what} ({reason}): check --address, RAY_ADDRESS and zorse doctor") from error
    if threading.current_thread() is threading.main_thread():
        # Ray puts its own in their place, which end the process at once.
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _check_address(address: str) -> None:
    """Find out in seconds that nothing listens, for which Ray takes minutes."""
    host, _, port = address.rpartition(":")
    if "://" in address or (address not in ("auto", "local") and not port.isdecimal()):
        raise ValueError("give auto, or host:port of the cluster's head; Ray Client is not used")
    if port.isdecimal():
        socket.create_connection((host, int(port)), timeout=5).close()


def cluster_address(address: str | None = None) -> str | None:
    """The address of the cluster to use: `address`, or the environment's; None to start one here."""
    return address or os.environ.get("RAY_ADDRESS") or None


def use_gpus(config: RunConfig) -> bool:
    """`run.gpus`; by default whether the cluster has one for each worker there must be."""
    if config.run.gpus == "auto":
        return bool(ray.cluster_resources().get("GPU", 0) >= config.run.fewest_workers)
    return config.run.gpus


def cpus_per_worker(config: RunConfig) -> int:
    """`run.cpus_per_worker`; by default all there are, shared out, or 1 where workers or nodes come and go."""
    cpus, workers = config.run.cpus_per_worker, config.run.workers
    if cpus != "auto":
        return cpus
    if isinstance(workers, int) and len(ray.nodes()) == 1:
        return max(1, int(ray.cluster_resources().get("CPU", 1)) // workers)
    return 1


class Capacity:
    """Whether the cluster is large enough for the workers that there must be, whoever uses it now."""

    def __init__(self, config: RunConfig, gpus: bool) -> None:
        self._kind, self._each = ("GPU", 1) if gpus else ("CPU", cpus_per_worker(config))
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

    @contextlib.contextmanager
    def requested(self) -> Iterator[None]:
        """Have the cluster's autoscaler, if it has one, make room while the block runs."""
        if self.suffices():
            yield
            return
        request_resources(bundles=[{self._kind: self._each}] * self._workers)
        try:
            yield
        finally:
            # A request stands until it is replaced; Ray Train makes its own.
            request_resources(bundles=[])
