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
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.utils import floatToGoString

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, float("inf"))
"""The upper bounds of the buckets of every histogram, in seconds."""
COUNTERS = {
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

_FILE_BYTES = 2**18
"""The size of a new file, enough for about 60 pairs of route and status."""


def metrics_folder(folder: str | Path) -> Path:
    """Return the folder of the files in the server's `folder`."""
    return Path(folder) / "metrics"


class ModelMetrics:
    """The numbers of one replica of a model. Each method takes 1 to 3 microseconds, and any thread may call it.

    `folder` is the server's. Without a folder the numbers stay in this object.
    """

    def __init__(self, model: str, version: int, folder: str | Path | None = None) -> None:
        self._labels = {"model": model, "version": str(version)}
        self._folder = None if folder is None else metrics_folder(folder)
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
        self._gauges = {name: _key(name, name, self._labels, text) for name, text in (GAUGES | LAST_BATCH).items()}
        self._last_batch = self._gauges[next(iter(LAST_BATCH))]
        self._rows = _counter_key("zorse_rows", self._labels)
        self.open()
        _OPEN.add(self)

    def open(self) -> None:
        """Begin files of this process, with all numbers at zero."""
        self._lock = threading.Lock()
        self._files = _Files(self._folder, f"{os.getpid()}-{secrets.token_hex(4)}")
        weakref.finalize(self, self._files.close)
        names = [name for name in HISTOGRAMS if name != "zorse_request_seconds"]
        self._histograms = {name: _Histogram(self._files.histogram, name, self._labels) for name in names}
        self._requests: dict[tuple[str, int], _Histogram] = {}
        self._rejected: dict[str, str] = {}
        self._batches: dict[int, tuple[str, str]] = {}
        self._set("zorse_replicas", 1)
        self.in_flight(0)
        self.queued(0)

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
            self._histograms["zorse_decode_seconds"].observe(seconds)

    def encode(self, seconds: float) -> None:
        """Record the time that an answer's body took to be made of tensors."""
        with self._lock:
            self._histograms["zorse_encode_seconds"].observe(seconds)

    def batch(self, requests: int, rows: int, waited: Sequence[float], seconds: float) -> None:
        """Record a run of the model with `rows` images of `requests` requests, which had `waited` in the queue."""
        keys = self._batches.get(rows)
        if keys is None:
            labels = self._labels | {"rows": str(rows)}
            keys = self._batches[rows] = (
                _counter_key("zorse_batches", labels),
                _counter_key("zorse_batch_seconds", labels),
            )
        with self._lock:
            self._files.counter.add(self._rows, rows)
            self._files.counter.add(keys[0], 1)
            self._files.counter.add(keys[1], seconds)
            self._histograms["zorse_infer_seconds"].observe(seconds, requests)
            self._histograms["zorse_queue_seconds"].observe_all(waited)
            self._files.last.put(self._last_batch, time.time())

    def rejected(self, reason: str) -> None:
        """Count a request that was refused before any work was done. `reason` is a word of this program."""
        key = self._rejected.get(reason)
        if key is None:
            key = self._rejected[reason] = _counter_key("zorse_rejected", self._labels | {"reason": reason})
        with self._lock:
            self._files.counter.add(key, 1)

    def in_flight(self, requests: int) -> None:
        """State how many requests are not answered yet."""
        self._set("zorse_in_flight", requests)

    def queued(self, images: int) -> None:
        """State how many images wait to be run."""
        self._set("zorse_queued", images)

    def _set(self, gauge: str, value: float) -> None:
        with self._lock:
            self._files.gauge.put(self._gauges[gauge], value)


class _Files:
    """The files of one replica, one for each kind of number. They stay in memory without a folder."""

    def __init__(self, folder: Path | None, replica: str) -> None:
        self._lock: int | None = None
        names = ("counter", "histogram", "gauge_livesum", "gauge_max")
        paths = [None if folder is None else folder / f"{name}_{replica}.db" for name in names]
        if paths[2] is not None:
            self._lock = os.open(paths[2], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.counter, self.histogram, self.gauge, self.last = map(_File, paths)

    def close(self) -> None:
        for file in (self.counter, self.histogram, self.gauge, self.last):
            file.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


class _File:
    """Numbers by key, in a file that other processes can read at any time."""

    def __init__(self, path: Path | None) -> None:
        self._values: defaultdict[str, float] = defaultdict(float)
        self._file: MmapedDict | None = None
        if path is not None:
            # On a full disk this fails at the start, while a write to a mapped hole would kill the process.
            path.write_bytes(bytes(_FILE_BYTES))
            self._file = MmapedDict(str(path))

    def add(self, key: str, amount: float) -> None:
        self.put(key, self._values[key] + amount)

    def put(self, key: str, value: float) -> None:
        self._values[key] = value
        if self._file is not None:
            self._file.write_value(key, value, 0.0)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class _Histogram:
    """One histogram of a file. Each bucket holds its own count; the reader accumulates them."""

    def __init__(self, file: _File, name: str, labels: dict[str, str]) -> None:
        self._file = file
        self._sum = _key(name, f"{name}_sum", labels, HISTOGRAMS[name])
        bounds = [labels | {"le": floatToGoString(bound)} for bound in SECONDS]
        self._buckets = [_key(name, f"{name}_bucket", bound, HISTOGRAMS[name]) for bound in bounds]
        for key in (self._sum, *self._buckets):
            file.add(key, 0)

    def observe(self, seconds: float, times: int = 1) -> None:
        self._file.add(self._sum, seconds * times)
        self._file.add(self._buckets[bisect_left(SECONDS, seconds)], times)

    def observe_all(self, seconds: Iterable[float]) -> None:
        for value in seconds:
            self.observe(value)


def _counter_key(name: str, labels: dict[str, str]) -> str:
    return _key(name, f"{name}_total", labels, COUNTERS[name])


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
