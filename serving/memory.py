"""Checks whether the machine has enough memory for the replicas of a server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from serving.errors import StartError

REPLICA_BYTES = 140 * 2**20
"""The memory of a replica of a small model, with room for requests: Python, onnxruntime and Ray's worker.

Thirty of them add 109 MiB each to what is used (`benchmarks/results/serve_models.json`). Their resident memory is 205
MiB, of which libraries are shared.
"""
COPIES = 2
"""How many copies of a model's files a replica holds: the files as read, and the graph of onnxruntime."""


def check_memory(replicas: int, models: Sequence[int], available: int | None = None) -> None:
    """Refuse replicas that need more memory than is free, since the system would kill some of them later.

    The activations of runs are not counted, because only a run shows them: 1.4 KB for each source pixel of a batch in
    ResNet-9, for example. `Batching.max_pixels` and the model's largest size bound them.

    `replicas` is the number of processes of each model, and `models` the sizes of the models with their weights in
    bytes. `available` is the free memory in bytes (by default what the system states).

    Raises:
        StartError: the replicas need more memory than is free.
    """
    free = available_memory() if available is None else available
    needed = replicas * sum(REPLICA_BYTES + COPIES * nbytes for nbytes in models)
    if free is not None and needed > free:
        raise StartError(
            f"{len(models)} models with {replicas} replicas each need about {needed / 2**30:.1f} GiB of memory and "
            f"{free / 2**30:.1f} GiB are free: "
            + ("use fewer --replicas" if replicas > 1 else "serve a repository with fewer models, or free memory")
        )


def available_memory() -> int | None:
    """Return the bytes of memory that this process may still use, or None if the system does not state it (macOS)."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kibibytes = next((int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)
    free = None if kibibytes is None else kibibytes * 1024
    group = _control_group_memory()
    return min((value for value in (free, group) if value is not None), default=None)


def _control_group_memory(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the bytes of memory that a container's control group still allows, or None without a limit."""
    try:
        limit, used = ((folder / name).read_text().strip() for name in ("memory.max", "memory.current"))
        if limit == "max":
            return None
        # The page cache counts as used, but the kernel frees it on demand.
        lines = (folder / "memory.stat").read_text().splitlines()
        cached = next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)
        return max(0, int(limit) - int(used) + cached)
    except (OSError, ValueError):
        return None
