"""The Ray of a batch job: connects to a cluster or starts a private Ray, ends in bounded time, and has the board."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import serving
from serving.batch.board import Board, Reports
from serving.batch.worker import ShardWorker, WorkerSettings
from serving.cluster_connection import connect, kept_handlers
from serving.engine import cpu_cores
from serving.errors import BatchError
from zorse_common.errors import first_sentence
from zorse_common.private_ray import ray_environment, ray_files, ray_folder

ALONE = {
    # A private Ray has no dashboard. Without an address Ray would look for that of any other Ray on the machine.
    "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:1",
    # Ray would print its own complaints about every stop and failure between our lines.
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    # Ray's idle work takes from the model: these three are a fifth of it. Nothing reads what they collect.
    "RAY_enable_metrics_collection": "0",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_event_stats": "0",
}
"""Environment variables for a private Ray."""
_PACKAGES = ("serving", "export", "zorse_common")
_SHUTDOWN_SECONDS = 10.0
_ASK_SECONDS = 1.0
_OBJECT_STORE_BYTES = 128 * 2**20
"""Workers return records alone, which are small."""


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Provide Ray in the block: the one connected, the one at `address` or RAY_ADDRESS, or a private one.

    Raises:
        BatchError: no cluster answers at the address.
    """
    if ray.is_initialized():
        yield
        return
    address = _address(address)
    with contextlib.ExitStack() as stack:
        folder = None
        if address is None:
            stack.enter_context(ray_environment(ALONE))
            folder = stack.enter_context(ray_folder())
        stack.callback(_shut_down)
        _connect(address, folder)
        yield


def is_private(address: str | None) -> bool:
    """Return whether `connected` starts a private Ray."""
    return not ray.is_initialized() and _address(address) is None


class RemoteReports:
    """Sends a worker's reports to the actor of the board."""

    def __init__(self, board: Any) -> None:
        """`board` is the handle of the actor."""
        self._board = board

    def begin(self, shard: int) -> int:
        """See `Reports`."""
        deaths: int = ray.get(self._board.begin.remote(shard, ray.get_runtime_context().get_node_id()))
        return deaths

    def report(self, shard: int, images: int) -> None:
        """See `Reports`. It does not wait for the actor."""
        self._board.report.remote(shard, images)


class Questions:
    """Asks a board about once a second what is in hand, and does not wait for the answers."""

    def __init__(self, board: Any) -> None:
        self._board, self._asked = board, 0.0
        self._answer: Any = None

    def in_hand(self, done: list[int]) -> dict[int, int] | None:
        """Return an answer if there is a new one. `done` are shards that are not in hand any more; it is emptied."""
        if self._answer is None and time.monotonic() - self._asked > _ASK_SECONDS:
            self._asked, self._answer = time.monotonic(), self._board.in_hand.remote(list(done))
            done.clear()
        elif self._answer is not None and ray.wait([self._answer], timeout=0)[0]:
            answer, self._answer = self._answer, None
            try:
                found: dict[int, int] = ray.get(answer)
            except ray.exceptions.RayError:
                return None  # the actor is being restarted
            return found
        return None


class RayShardWorker(ShardWorker):
    """A `ShardWorker` in an actor, whose process ends with its Python code.

    Ray's own code at the end of a process (2.60) sometimes crashes, or waits for itself for ever and leaves the process
    behind. Ray's other processes have been told of the end before.
    """

    def __init__(self, settings: WorkerSettings, board: Reports) -> None:
        super().__init__(settings, board)
        atexit.register(_end_process)


def _end_process() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)


def start_board() -> Any:
    """Start the actor of a board on this node, and return its handle."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
    return ray.remote(**options)(Board).remote(_is_node_alive)


def _address(address: str | None) -> str | None:
    return address or os.environ.get("RAY_ADDRESS") or None


def _connect(address: str | None, folder: str | None) -> None:
    if address is not None:
        # The cluster's nodes must have zorse's dependencies installed; zorse itself is sent to them.
        root = Path(serving.__file__).parents[1]
        packages = [str(root / package) for package in _PACKAGES]
        connect(address, BatchError, runtime_env={"py_modules": packages})
        return
    assert folder is not None, "a private Ray has a folder"
    try:
        with _no_stderr(), kept_handlers():
            ray.init(
                "local",
                num_cpus=cpu_cores(),
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                log_to_driver=False,
                logging_level="ERROR",
                _temp_dir=ray_files(folder),
            )
    except Exception as error:
        raise BatchError(
            f"Ray does not start here ({first_sentence(error)}): check --address, RAY_ADDRESS and zorse doctor"
        ) from error


@contextlib.contextmanager
def _no_stderr() -> Iterator[None]:
    """Drop what is written to standard error in the block: Ray's line about the log level in `ALONE`."""
    before = os.dup(2)
    try:
        with open(os.devnull, "wb") as null:  # noqa: PTH123  (a file descriptor is needed)
            os.dup2(null.fileno(), 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


def _shut_down() -> None:
    """End the connection, and a private Ray. It has a time limit: without a GCS it would wait for a minute."""

    def attempt() -> None:
        with contextlib.suppress(Exception):
            ray.shutdown()

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(_SHUTDOWN_SECONDS)


def _is_node_alive(node: str) -> bool:
    return any(each["NodeID"] == node and each["Alive"] for each in ray.nodes())
