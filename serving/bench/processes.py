"""Sends a load from several processes at the same time."""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Barrier

from serving.bench.load import Load
from serving.bench.samples import Samples, merge
from serving.bench.sender import Target, send_load
from serving.errors import BenchError

START_SECONDS = 60
"""How long the processes wait for one another before the load starts."""
_OTHER_FILES = 64
"""More than the files that a process has open besides its connections."""
_barrier: Barrier | None = None


def measure(target: Target, requests: Sequence[bytes], load: Load) -> Samples:
    """Send `load` to `target` from `load.processes` processes and return the measured requests.

    Raises:
        BenchError: the system lets a process open too few files for the connections.
    """
    _allow_files(-(-load.loop.connections // load.processes) + _OTHER_FILES)
    if load.processes == 1:
        return send_load(target, requests, load, lambda: None)
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(load.processes)
    with ProcessPoolExecutor(load.processes, context, initializer=_keep_barrier, initargs=(barrier,)) as pool:
        # Each process blocks at the barrier until all have started, so no process gets two parts.
        parts = [pool.submit(_send_part, target, requests, load.share(n)) for n in range(load.processes)]
        return merge([part.result() for part in parts])


def _allow_files(needed: int) -> None:
    """Have the system let this process, and those that it starts, open `needed` files.

    Raises:
        BenchError: the hard limit is lower.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise BenchError(
            f"a process may open {hard} files, and the connections of each need {needed}: raise the limit "
            "(ulimit -Hn), give more --processes, or fewer connections"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _keep_barrier(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier


def _send_part(target: Target, requests: Sequence[bytes], load: Load) -> Samples:
    assert _barrier is not None, "the initializer has run"
    barrier = _barrier
    return send_load(target, requests, load, lambda: barrier.wait(START_SECONDS))
