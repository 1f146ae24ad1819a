"""The Ray cluster of a run: connects to one or starts one, and checks that it is large enough."""

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
from zorse_common.private_ray import ray_environment, ray_files, ray_folder

ALONE = {
    # Nodes are only drained in clusters of several machines.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Ray Train queries the dashboard about its controller, but a private Ray has no dashboard. Without an address Ray
    # would look for the dashboard of any other Ray on the machine, and wait for it at the end of every run.
    "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:1",
}
"""Environment variables for a Ray that zorse starts: they switch off features that need a cluster."""


@contextlib.contextmanager
def cluster(workers: int, address: str | None = None) -> Iterator[None]:
    """Provide Ray in the block: the one connected, the one at `address` or RAY_ADDRESS, or a private one.

    A private Ray has a CPU for each of `workers`, and ends with the block.

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
            # The cluster's nodes must have zorse's dependencies installed; zorse itself is sent to them.
            packages = [str(Path(package).parent) for package in (__file__, zorse_common.__file__)]
            ray.init(address, runtime_env={"py_modules": packages}, **options)
        else:
            assert folder is not None, "a private Ray has a folder"
            ray.init("local", num_cpus=cpus, include_dashboard=False, _temp_dir=ray_files(folder), **options)
    except SystemExit as error:
        # Ray raises SystemExit if a SIGTERM arrives while it starts.
        raise Preempted("the run was stopped before it started: continue with --resume") from error
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        what = f"no Ray cluster answers at {address}" if address else "Ray does not start here"
        raise LaunchError(f"{what} ({reason}): check --address, RAY_ADDRESS and zorse doctor") from error
    if threading.current_thread() is threading.main_thread():
        # Ray replaces the handlers by its own, which end the process at once.
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _check_address(address: str) -> None:
    """Check in seconds that a server listens at `address`; Ray would try for minutes.

    Raises:
        ValueError: the address has the wrong form.
        OSError: no server listens.
    """
    host, _, port = address.rpartition(":")
    if "://" in address or (address not in ("auto", "local") and not port.isdecimal()):
        raise ValueError("give auto, or host:port of the cluster's head; Ray Client is not used")
    if port.isdecimal():
        socket.create_connection((host, int(port)), timeout=5).close()


def cluster_address(address: str | None = None) -> str | None:
    """Return `address`, or else the environment's RAY_ADDRESS; None if a private Ray is to be started."""
    return address or os.environ.get("RAY_ADDRESS") or None


def use_gpus(config: RunConfig) -> bool:
    """Return `run.gpus`. "auto" is true if the cluster has a GPU for each of the least number of workers."""
    if config.run.gpus == "auto":
        return bool(ray.cluster_resources().get("GPU", 0) >= config.run.fewest_workers)
    return config.run.gpus


def cpus_per_worker(config: RunConfig) -> int:
    """Return `run.cpus_per_worker`. "auto" divides the CPUs of a single node; else it is 1, since nodes come and go."""
    cpus, workers = config.run.cpus_per_worker, config.run.workers
    if cpus != "auto":
        return cpus
    if isinstance(workers, int) and len(ray.nodes()) == 1:
        return max(1, int(ray.cluster_resources().get("CPU", 1)) // workers)
    return 1


class Capacity:
    """Checks whether the cluster's total resources suffice for the least number of workers."""

    def __init__(self, config: RunConfig, gpus: bool) -> None:
        self._kind, self._each = ("GPU", 1) if gpus else ("CPU", cpus_per_worker(config))
        self._workers, self._patience = config.run.fewest_workers, config.run.wait_for_nodes
        self._short_since: float | None = None

    def suffices(self) -> bool:
        """Return whether the resources suffice now.

        Raises:
            LaunchError: they have not sufficed for `run.wait_for_nodes` seconds.
        """
        total, now = int(ray.cluster_resources().get(self._kind, 0)), time.monotonic()
        if total >= self._workers * self._each:
            self._short_since = None
            return True
        if self._short_since is None:
            self._short_since = now
        if now - self._short_since > self._patience:
            raise LaunchError(
                f"run.workers = {self._workers} needs {self._workers * self._each} {self._kind}s and after "
                f"{self._patience:g} s (run.wait_for_nodes) the cluster has {total}: lower run.workers or add nodes"
            )
        return False

    @contextlib.contextmanager
    def requested(self) -> Iterator[None]:
        """Request the resources from the cluster's autoscaler, if there is one, while the block runs."""
        if self.suffices():
            yield
            return
        request_resources(bundles=[{self._kind: self._each}] * self._workers)
        try:
            yield
        finally:
            # A request holds until it is replaced. From now on Ray Train makes its own requests.
            request_resources(bundles=[])
