"""Locks a folder of a local disk against other processes, and forces files to the disk."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_ATTEMPTS, _PAUSE_SECONDS = 10, 0.02
_THREADS = 16


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Lock `folder` in the block, and yield whether no other process has the lock, which ends with its process.

    `is_locked` has a shared lock for a moment, so that the lock is tried several times. On a file system without locks
    True is yielded.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield _attempt(descriptor)
    finally:
        os.close(descriptor)


def is_locked(folder: Path) -> bool:
    """Return whether a process has the lock of `folder`. Any number of processes may ask at once."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def flush(files: Sequence[Path], root: Path) -> None:
    """Force `files` below the folder `root` to the disk, and the names in the folders from `root` on.

    Several threads do so at once: a file system writes its journal once for all of them.
    """
    folders = {parent for file in files for parent in file.parents if parent == root or root in parent.parents}
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(flush_one, [*files, *folders]))


def flush_one(path: Path) -> None:
    """Force a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _attempt(descriptor: int) -> bool:
    for _ in range(_ATTEMPTS):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_PAUSE_SECONDS)
        except OSError:
            return True
        else:
            return True
    return False
