"""Whether the machine's memory holds the replicas that were asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from serving.errors import StartError

REPLICA_BYTES = 240 * 2**20
"""What a replica of a small model holds, measured: Python, onnxruntime and Ray's worker."""
COPIES = 2
"""How often a model's file lies in the memory of its replica: as read and as onnxruntime keeps it."""


def check_memory(replicas: int, models: Sequence[int], available: int | None = None) -> None:
    """Refuse to start more processes than the memory holds, since the system would kill some of them later.

    `replicas` are the processes of each model, `models` the bytes of the models' files and `available` those of free
    memory (by default what the system says).

    Raises:
        StartError: they need more than there is.
    """
    free = available_memory() if available is None else available
    needed = replicas * sum(REPLICA_BYTES + COPIES * nbytes for nbytes in models)
    if free is not None and needed > free:
        raise StartError(
            f"{len(models)} models with {replicas} replicas each need about {needed / 2**30:.1f} GiB of memory and "
            f"{free / 2**30:.1f} GiB are free: "
            + ("ask for fewer --replicas" if replicas > 1 else "serve a repository with fewer models, or free memory")
        )


def available_memory() -> int | None:
    """Return the bytes of memory that this process may still use, None where the system does not say (macOS)."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kibibytes = next((int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)
    free = None if kibibytes is None else kibibytes * 1024
    group = _group_free()
    return min((value for value in (free, group) if value is not None), default=None)


def _group_free(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return what the control group of a container leaves, None without a limit."""
    try:
        limit, used = ((folder / name).read_text().strip() for name in ("memory.max", "memory.current"))
        if limit == "max":
            return None
        # Files that were read lie in the group's memory until something else needs it.
        lines = (folder / "memory.stat").read_text().splitlines()
        cached = next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)
        return max(0, int(limit) - int(used) + cached)
    except (OSError, ValueError):
        return None
