"""Counts and times what the replicas of a model do, in files from which any process of the server can sum them.

Each replica writes files of its own, in the format of prometheus_client's multiprocess mode. The counts of a replica
that has died remain. Its gauges do not: a replica holds a lock on the file of its gauges, which ends with the process.

prometheus_client's own values need an environment variable that Ray's processes would obey too; so this module writes
the files itself, which is also faster.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import threading
import time
import weakref
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.utils import floatToGoString

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, float("inf"))
"""The upper bounds of the buckets of every histogram, in seconds."""
COUNTERS = {
    "zorse_updates": "Versions that were started while the server ran, by outcome: done or refused.",
    "zorse_rejected": "Requests refused before any work was done, by reason.",
    "zorse_rows": "Images made: rows of all batches.",
    "zorse_batches": "Runs of the model, by rows of the batch.",
    "zorse_batch_seconds": "Seconds that runs of the model took, by rows of the batch.",
}
HISTOGRAMS = {
    "zorse_request_seconds": "Seconds from a request's arrival to its answer, by route and HTTP status.",
    "zorse_queue_seconds": "Seconds that a request waited to be run.",
    "zorse_decode_seconds": "Seconds to turn a request's body into tensors.",
    "zorse_infer_seconds": "Seconds that the run took in which a request took part.",
    "zorse_encode_seconds": "Seconds to turn output tensors into an answer's body.",
}
GAUGES = {
    "zorse_replicas": "Replicas that live now.",
    "zorse_in_flight": "Requests that are not answered yet.",
    "zorse_queued": "Images that wait to be run.",
}
LAST_BATCH = {"zorse_last_batch_timestamp_seconds": "When the model ran last, in seconds since 1970."}
"""A gauge that remains when a replica dies; of several replicas the greatest counts."""

COUNTER, HISTOGRAM, LIVING, GREATEST = "counter", "histogram", "gauge_livesum", "gauge_max"
"""The kinds of numbers: those of `LIVING` end with their process, and of `GREATEST` the greatest one counts."""
Numbers = dict[str, dict[str, float]]
"""Numbers by their kind and by a key, which has the names of metric and sample, the labels, and the text of help."""
_FILE_BYTES = 2**18
"""The size of a new file, enough for about 60 pairs of route and status."""


def metrics_folder(folder: str | Path) -> Path:
    """Return the folder of the files in the server's `folder`."""
    return Path(folder) / "metrics"


class ModelMetrics:
    """The numbers of one replica of a model. Each method takes a microsecond, and any thread may call it.

    `folder` is the server's. Without a folder the numbers stay in this object.
    """

    def __init__(self, model: str, version: int, folder: str | Path | None = None) -> None:
        self._labels = {"model": model, "version": str(version)}
        self._folder = None if folder is None else metrics_folder(folder)
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
        self.open()
        _OPEN.add(self)

    def open(self) -> None:
        """Begin files of this process, with all numbers at zero."""
        self._lock = threading.Lock()
        self._files = _Files(self._folder, f"{os.getpid()}-{secrets.token_hex(4)}")
        weakref.finalize(self, self._files.close)
        names = ("zorse_queue_seconds", "zorse_decode_seconds", "zorse_infer_seconds", "zorse_encode_seconds")
        self._queue, self._decode, self._infer, self._encode = (
            _Histogram(self._files.histogram, name, self._labels) for name in names
        )
        self._requests: dict[tuple[str, int], _Histogram] = {}
        self._rejected: dict[str, int] = {}
        self._batches: dict[int, tuple[int, int]] = {}
        self._rows = self._counter("zorse_rows", self._labels)
        self._gauges = {
            name: self._files.gauge.index(_key(name, name, self._labels, text)) for name, text in GAUGES.items()
        }
        ((name, text),) = LAST_BATCH.items()
        self._last_batch = self._files.last.index(_key(name, name, self._labels, text))
        self._set("zorse_replicas", 1)
        self.in_flight(0)
        self.queued(0)

    def numbers(self) -> Numbers:
        """Return all numbers at this moment."""
        with self._lock:
            return self._files.numbers()

    def close(self) -> None:
        """Close the files of this process, which remain. No other method may follow but `open`."""
        self._files.close()

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count an answer. `route` is the name of a route, never a text of the client: each is a row of the table."""
        histogram = self._requests.get((route, status))
        with self._lock:
            if histogram is None:
                labels = self._labels | {"route": route, "status": str(status)}
                histogram = _Histogram(self._files.histogram, "zorse_request_seconds", labels)
                self._requests[route, status] = histogram
            histogram.observe(seconds)

    def decode(self, seconds: float) -> None:
        """Record the time that a request's body took to become tensors."""
        with self._lock:
            self._decode.observe(seconds)

    def encode(self, seconds: float) -> None:
        """Record the time that an answer's body took to be made of tensors."""
        with self._lock:
            self._encode.observe(seconds)

    def batch(self, requests: int, rows: int, waited: Sequence[float], seconds: float) -> None:
        """Record a run of the model with `rows` images of `requests` requests, which had `waited` in the queue."""
        counters = self._batches.get(rows)
        if counters is None:
            labels = self._labels | {"rows": str(rows)}
            with self._lock:
                counters = self._counter("zorse_batches", labels), self._counter("zorse_batch_seconds", labels)
            self._batches[rows] = counters
        with self._lock:
            values = self._files.counter.values
            values[self._rows] += rows
            values[counters[0]] += 1
            values[counters[1]] += seconds
            self._infer.observe(seconds, requests)
            for queued in waited:
                self._queue.observe(queued)
            self._files.last.values[self._last_batch] = time.time()

    def run_seconds(self) -> float:
        """Return the seconds of all runs of this process together."""
        return float(sum(self._files.counter.values[seconds] for _, seconds in list(self._batches.values())))

    def rejected(self, reason: str) -> None:
        """Count a request that was refused before any work was done. `reason` is a word of this program."""
        with self._lock:
            counter = self._rejected.get(reason)
            if counter is None:
                counter = self._rejected[reason] = self._counter("zorse_rejected", self._labels | {"reason": reason})
            self._files.counter.values[counter] += 1

    def in_flight(self, requests: int) -> None:
        """State how many requests are not answered yet."""
        self._set("zorse_in_flight", requests)

    def queued(self, images: int) -> None:
        """State how many images wait to be run."""
        self._set("zorse_queued", images)

    def _set(self, gauge: str, value: float) -> None:
        with self._lock:
            self._files.gauge.values[self._gauges[gauge]] = value

    def _counter(self, name: str, labels: dict[str, str]) -> int:
        """Return the index of a counter, which is made if it is new."""
        return self._files.counter.index(_key(name, f"{name}_total", labels, COUNTERS[name]))


class UpdateCounts:
    """Counts the versions of models that a server starts while it runs.

    `folder` is the server's. Without a folder the numbers stay in this object.
    """

    def __init__(self, folder: str | Path | None) -> None:
        path = None
        if folder is not None:
            metrics_folder(folder).mkdir(parents=True, exist_ok=True)
            path = metrics_folder(folder) / f"{COUNTER}_{os.getpid()}-{secrets.token_hex(4)}.db"
        self._file = _File(path)
        weakref.finalize(self, self._file.close)

    def numbers(self) -> Numbers:
        """Return all numbers at this moment."""
        return {COUNTER: self._file.numbers()}

    def add(self, model: str, outcome: str) -> None:
        """Count a version of `model` that is `done`, or `refused`."""
        labels = {"model": model, "outcome": outcome}
        index = self._file.index(_key("zorse_updates", "zorse_updates_total", labels, COUNTERS["zorse_updates"]))
        self._file.values[index] += 1


class _Files:
    """The files of one replica, one for each kind of number. They stay in memory without a folder."""

    def __init__(self, folder: Path | None, replica: str) -> None:
        self._lock: int | None = None
        names = (COUNTER, HISTOGRAM, LIVING, GREATEST)
        paths = [None if folder is None else folder / f"{name}_{replica}.db" for name in names]
        if paths[2] is not None:
            self._lock = os.open(paths[2], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.counter, self.histogram, self.gauge, self.last = map(_File, paths)

    def numbers(self) -> Numbers:
        files = {COUNTER: self.counter, HISTOGRAM: self.histogram, LIVING: self.gauge, GREATEST: self.last}
        return {kind: file.numbers() for kind, file in files.items()}

    def close(self) -> None:
        for file in (self.counter, self.histogram, self.gauge, self.last):
            file.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


class _File:
    """Numbers in a file that other processes can read at any time. Without a `path` they stay in memory.

    `values` holds each number at the index that `index` returned for its key. Adding to it there takes a tenth of the
    time that prometheus_client's method to write takes.
    """

    def __init__(self, path: Path | None) -> None:
        self._indexes: dict[str, int] = {}
        self._file: MmapedDict | None = None
        self.values: Any = array("d")
        if path is not None:
            # On a full disk this fails at the start, while a write to a mapped hole would kill the process.
            path.write_bytes(bytes(_FILE_BYTES))
            self._file = MmapedDict(str(path))

    def index(self, key: str) -> int:
        """Return the index of the number of `key`, which begins at 0."""
        index = self._indexes.get(key)
        if index is None:
            index = self._indexes[key] = self._new(key)
        return index

    def numbers(self) -> dict[str, float]:
        """Return the numbers by their keys."""
        return {key: self.values[index] for key, index in self._indexes.items()}

    def _new(self, key: str) -> int:
        if self._file is None:
            self.values.append(0.0)
            return len(self.values) - 1
        self._file.write_value(key, 0.0, 0.0)
        # The file may have grown, and be mapped anew.
        self.values = memoryview(self._file._m).cast("d")
        return int(self._file._positions[key] // self.values.itemsize)

    def close(self) -> None:
        if self._file is not None:
            self.values = array("d")
            self._file.close()
            self._file = None


class _Histogram:
    """One histogram of a file. Each bucket holds its own count; the reader accumulates them."""

    def __init__(self, file: _File, name: str, labels: dict[str, str]) -> None:
        self._file = file
        self._sum = file.index(_key(name, f"{name}_sum", labels, HISTOGRAMS[name]))
        bounds = [labels | {"le": floatToGoString(bound)} for bound in SECONDS]
        self._buckets = [file.index(_key(name, f"{name}_bucket", bound, HISTOGRAMS[name])) for bound in bounds]

    def observe(self, seconds: float, times: int = 1) -> None:
        values = self._file.values
        values[self._sum] += seconds * times
        values[self._buckets[bisect_left(SECONDS, seconds)]] += times


def _key(metric: str, sample: str, labels: dict[str, str], text: str) -> str:
    return mmap_key(metric, sample, list(labels), list(labels.values()), text)


_OPEN: weakref.WeakSet[ModelMetrics] = weakref.WeakSet()


def _reopen() -> None:
    for metrics in list(_OPEN):
        # Without the copy of the file, the lock would last as long as this process and not only its parent.
        metrics.close()
        metrics.open()


# Two processes that write to one file would overwrite each other's numbers.
os.register_at_fork(after_in_child=_reopen)
