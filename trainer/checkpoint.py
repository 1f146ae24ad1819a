"""Checkpoints: everything needed to resume training, in files that any number of workers can read.

A checkpoint is a folder `checkpoints/<images seen>/` of the run with `state.safetensors` (whole named tensors),
`checkpoint.json` and `MANIFEST.json`, which holds the digests of the other two. The manifest is written last and so
publishes the checkpoint, because object stores cannot rename a folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from trainer.errors import CheckpointError, DataError
from zorse_common.storage import Storage

SCHEMA_VERSION = 1
FOLDER = "checkpoints"
STATE_FILE, INFO_FILE, MANIFEST_FILE = "state.safetensors", "checkpoint.json", "MANIFEST.json"


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run.

    Attributes:
        images_seen: the number of images that the run had seen.
        tensors: whole tensors by name, on the CPU. They do not depend on the sharding or the number of workers.
        rollback_count: the number of rollbacks before.
        score: the figure by which the best checkpoint is kept, if the run has one.
        counts: the number of training images of each domain, on which the order of images depends.
        data_digest: the dataset's `digest`.
    """

    images_seen: int
    tensors: dict[str, Tensor]
    rollback_count: int = 0
    score: float | None = None
    counts: dict[str, int] = field(default_factory=dict)
    data_digest: str = ""


class _DamagedError(CheckpointError):
    """The files are missing, incomplete or changed."""


@dataclass(frozen=True)
class NewestCheckpoint:
    """The result of a search for a good checkpoint.

    Attributes:
        images_seen: the images seen of the newest good checkpoint; None if there is none.
        damaged: one line for each newer checkpoint that is damaged.
    """

    images_seen: int | None = None
    damaged: list[str] = field(default_factory=list)


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, run: Storage) -> None:
        self._folder = run / FOLDER

    def write(self, checkpoint: Checkpoint) -> None:
        """Write and publish `checkpoint`.

        Raises:
            CheckpointError: the storage is full or cannot be written. Older checkpoints stay intact.
        """
        name = _name(checkpoint.images_seen)
        info = asdict(replace(checkpoint, tensors={})) | {"schema_version": SCHEMA_VERSION}
        del info["tensors"]
        contents = {STATE_FILE: save(checkpoint.tensors), INFO_FILE: _json(info)}
        entries = {file: {"sha256": _digest(content), "nbytes": len(content)} for file, content in contents.items()}
        try:
            self._remove(name)
            for file, content in contents.items():
                self._folder.write(f"{name}/{file}", content)
            self._folder.write(f"{name}/{MANIFEST_FILE}", _json({"files": entries}))
        except OSError as error:
            with contextlib.suppress(OSError):
                self._remove(name)
            newest = self.find_newest().images_seen
            kept = "there is no older one" if newest is None else f"the one of {newest} images is intact"
            raise CheckpointError(
                f"checkpoint {self._folder.uri}/{name} cannot be written ({error}): "
                f"free space or fix the storage, then continue with --resume; {kept}"
            ) from error

    def find_newest(self, until: float = math.inf) -> NewestCheckpoint:
        """Verify the checkpoints of at most `until` images, newest first, until one is good.

        Raises:
            CheckpointError: an intact checkpoint has another schema version.
        """
        damaged: list[str] = []
        for name in reversed(self._names()):
            if int(name) > until:
                continue
            try:
                self._verify(name)
            except _DamagedError as error:
                damaged.append(str(error))
            else:
                return NewestCheckpoint(int(name), damaged)
        return NewestCheckpoint(None, damaged)

    def read(self, images_seen: int) -> Checkpoint:
        """Read the checkpoint of `images_seen` images, which `find_newest` has verified.

        Raises:
            CheckpointError: the checkpoint breaks the format, or has another schema version.
        """
        name = _name(images_seen)
        info = self._info(name)
        try:
            tensors = load(self._folder.read(f"{name}/{STATE_FILE}"))
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"checkpoint {self._folder.uri}/{name}: {STATE_FILE} cannot be read ({error})"
            ) from error
        return Checkpoint(
            images_seen, tensors, info["rollback_count"], info["score"], info["counts"], info["data_digest"]
        )

    def forget_after(self, images_seen: int) -> None:
        """Remove the checkpoints of more than `images_seen` images, which a rollback makes invalid."""
        for name in self._names():
            if int(name) > images_seen:
                self._remove(name)

    def prune(self, keep: int, better: Callable[[float, float], bool] | None = None) -> None:
        """Remove all checkpoints but the newest `keep` and, if scores are compared by `better`, the best.

        Unpublished folders are neither counted nor removed; the next checkpoint of the same name replaces them.
        """
        names = [name for name in self._names() if self._folder.exists(f"{name}/{MANIFEST_FILE}")]
        best = self._best(names, better) if better else None
        for name in names[:-keep]:
            if name != best:
                self._remove(name)

    def _remove(self, name: str) -> None:
        # The manifest is removed first, so that a partly removed checkpoint counts as unpublished.
        self._folder.remove(f"{name}/{MANIFEST_FILE}")
        self._folder.remove(name)

    def _names(self) -> list[str]:
        return [name for name in self._folder.folders() if name.isdecimal()]

    def _best(self, names: list[str], better: Callable[[float, float], bool]) -> str | None:
        best: tuple[str, float] | None = None
        for name in names:
            try:
                score = self._info(name)["score"]
            except CheckpointError:
                continue
            if score is not None and math.isfinite(score) and (best is None or better(score, best[1])):
                best = name, score
        return best[0] if best else None

    def _verify(self, name: str) -> None:
        where = f"checkpoint {self._folder.uri}/{name}"
        try:
            manifest = json.loads(self._folder.read(f"{name}/{MANIFEST_FILE}"))
            entries = {file: (entry["sha256"], entry["nbytes"]) for file, entry in manifest["files"].items()}
        except FileNotFoundError as error:
            raise _DamagedError(f"{where} is incomplete: it has no {MANIFEST_FILE}") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise _DamagedError(f"{where} is damaged: {MANIFEST_FILE} cannot be read ({error})") from error
        if set(entries) != {STATE_FILE, INFO_FILE}:
            raise _DamagedError(f"{where} is damaged: {MANIFEST_FILE} names {', '.join(sorted(entries))}")
        for file, expected in entries.items():
            try:
                content = self._folder.read(f"{name}/{file}")
            except OSError as error:
                raise _DamagedError(f"{where} is damaged: {file} cannot be read ({error})") from error
            if (_digest(content), len(content)) != expected:
                raise _DamagedError(f"{where} is damaged: {file} is not what was written")
        self._info(name)

    def _info(self, name: str) -> dict[str, Any]:
        try:
            info: dict[str, Any] = json.loads(self._folder.read(f"{name}/{INFO_FILE}"))
        except (OSError, ValueError) as error:
            raise _DamagedError(
                f"checkpoint {self._folder.uri}/{name}: {INFO_FILE} cannot be read ({error})"
            ) from error
        if info.get("schema_version") != SCHEMA_VERSION:
            raise CheckpointError(
                f"checkpoint {self._folder.uri}/{name} has schema version {info.get('schema_version')!r} "
                f"and this zorse reads {SCHEMA_VERSION}"
            )
        return info


def changed_images(checkpoint: Checkpoint, counts: dict[str, int], data_digest: str, *, allowed: bool) -> str | None:
    """Return a short description of how the training images differ from those of `checkpoint`; None if they do not.

    Raises:
        DataError: they differ, and `allowed` is false.
    """
    if (counts, data_digest) == (checkpoint.counts, checkpoint.data_digest):
        return None
    change = "as many, but other files" if counts == checkpoint.counts else f"{checkpoint.counts} -> {counts}"
    if not allowed:
        raise DataError(
            f"the training images are not those of the checkpoint ({change}): restore them, or resume with "
            "--allow-new-data"
        )
    return change


def _name(images_seen: int) -> str:
    return f"{images_seen:012d}"


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
