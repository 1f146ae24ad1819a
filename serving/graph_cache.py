"""Graphs as onnxruntime has optimised them, kept on disk so that the next process need not do it again."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from zorse_common.cache import cache_folder

LARGEST = 2**30
"""Larger files are not kept: the work saved is small beside reading them."""
MOST_BYTES = 4 * 2**30
"""Of the entries together; the oldest go first."""
_STAGING, _STAGING_SECONDS = ".staging-", 3600
T = TypeVar("T")


def forget(key: str) -> bool:
    """Remove what is kept under `key`, and say whether there was anything."""
    found: list[Path] = []
    with contextlib.suppress(OSError, RuntimeError):  # a cache that cannot be written, or no home
        for entry in _folder().glob(f"{_name(key)}-*.onnx"):
            found.append(entry)
            entry.unlink()
    return bool(found)


def start(model: Path, key: str, load: Callable[[Path, Path | None], T]) -> T:
    """What `load` makes of the graph `model`, or of its optimised form when that is kept under `key`.

    `load(path, keep)` starts a session on the file `path` and, where `keep` is given, writes the optimised graph there.
    An entry that is not whole is forgotten. Where nothing can be kept, nothing is.
    """
    if model.stat().st_size > LARGEST or Path(f"{model}.data").exists():
        return load(model, None)
    try:
        return _start_kept(model, _name(key), load)
    except Exception:  # noqa: BLE001 - no home, a full disk, a damaged entry: onnxruntime's errors do not tell them apart
        return load(model, None)


def _name(key: str) -> str:
    return hashlib.sha256(f"{key} {_processor()}".encode()).hexdigest()


def _start_kept(model: Path, name: str, load: Callable[[Path, Path | None], T]) -> T:
    folder = _folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for entry in folder.glob(f"{name}-*.onnx"):
        # No digest: to take one costs more than optimising anew, and a golden sample tells what matters.
        if entry.stem.partition("-")[2] == str(entry.stat().st_size):
            try:
                return load(entry, None)
            except Exception:
                entry.unlink(missing_ok=True)
                raise
        entry.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=_STAGING) as work:
        staged = Path(work) / "graph.onnx"
        started = load(model, staged)
        with contextlib.suppress(OSError):
            staged.replace(folder / f"{name}-{staged.stat().st_size}.onnx")
            _prune(folder)
        return started


def _prune(folder: Path) -> None:
    """Forget the oldest entries above `MOST_BYTES`, and what killed processes left."""
    newest = sorted(folder.glob("*.onnx"), key=lambda entry: entry.stat().st_mtime, reverse=True)
    sums = itertools.accumulate(entry.stat().st_size for entry in newest)
    for entry, total in zip(newest, list(sums), strict=True):
        if total > MOST_BYTES and entry != newest[0]:
            entry.unlink(missing_ok=True)
    for rest in folder.glob(f"{_STAGING}*"):
        if time.time() - rest.stat().st_mtime > _STAGING_SECONDS:
            shutil.rmtree(rest, ignore_errors=True)


def _folder() -> Path:
    return cache_folder("graphs")


def _processor() -> str:
    """What the optimised graph depends on of this machine: the layouts in it are for one instruction set."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())
