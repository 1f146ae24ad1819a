"""Reads the numbers of all replicas: for Prometheus, for the protocol's statistics, and for `zorse serve status`."""

from __future__ import annotations

import fcntl
import json
import os
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from serving.metrics import metrics_folder

MEMORY = "zorse_resident_memory_bytes"


@dataclass(frozen=True)
class Readings:
    """The numbers of a server at one moment."""

    samples: tuple[Sample, ...]

    def only(self, label: str, values: Collection[str]) -> Readings:
        """Return the samples whose `label` has one of `values`."""
        return Readings(tuple(sample for sample in self.samples if sample.labels.get(label) in values))

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of the samples `name` that have these labels, 0 if there is none."""
        return sum(sample.value for sample in self._select(name, labels))

    def by(self, label: str, name: str, **labels: str) -> dict[str, float]:
        """Return the sums of the samples `name` that have these labels, for each value of `label`."""
        sums: dict[str, float] = defaultdict(float)
        for sample in self._select(name, labels):
            sums[sample.labels[label]] += sample.value
        return dict(sums)

    def quantile(self, name: str, share: float, **labels: str) -> float | None:
        """Return the value of the histogram `name` below which `share` of the observations are, or None without any.

        The value is interpolated in a bucket, as Prometheus does. It is the last finite bound for what is above it.
        """
        counts = sorted((float(bound), count) for bound, count in self.by("le", f"{name}_bucket", **labels).items())
        if not counts or not counts[-1][1]:
            return None
        rank = share * counts[-1][1]
        for (low, before), (high, count) in pairwise([(0.0, 0.0), *counts]):
            if count >= rank and count > before:
                return low if high == float("inf") else low + (high - low) * (rank - before) / (count - before)
        return None

    def _select(self, name: str, labels: dict[str, str]) -> Iterable[Sample]:
        wanted = labels.items()
        return (sample for sample in self.samples if sample.name == name and wanted <= sample.labels.items())


def read(folder: str | Path | None) -> Readings:
    """Return the sums over the files of all replicas of the server with this `folder`, or nothing without a folder."""
    families = [] if folder is None else _families(metrics_folder(folder))
    return Readings(tuple(sample for family in families for sample in family.samples))


def parse(text: str) -> Readings:
    """Return the numbers of a page of Prometheus's text format. Raises ValueError if `text` is no such page."""
    return Readings(tuple(sample for family in text_string_to_metric_families(text) for sample in family.samples))


def expose(folder: str | Path | None) -> bytes:
    """Return the sums over the files of all replicas of the server with this `folder`, in Prometheus's text format."""
    registry = CollectorRegistry(auto_describe=False)
    if folder is not None:
        registry.register(_Folder(metrics_folder(folder)))
    return generate_latest(registry)


class _Folder(Collector):
    """Collects the metrics of a folder for prometheus_client."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        """Return the metrics at this moment."""
        return _families(self._folder)


def _families(folder: Path) -> list[Metric]:
    """Return the metrics of all replicas, summed. The gauges are those of the replicas that live."""
    # A file that has just been made is empty.
    files = [file for file in sorted(folder.glob("*.db")) if file.stat().st_size]
    living = [file for file in files if file.name.startswith("gauge_live") and _is_locked(file)]
    kept = [file for file in files if not file.name.startswith("gauge_live")]
    families: list[Metric] = list(MultiProcessCollector.merge(map(str, [*kept, *living])))
    memory = GaugeMetricFamily(MEMORY, "Resident memory of a replica.", labels=["model", "version", "process"])
    for file in living:
        process = file.name.split("_")[2].partition("-")[0]
        nbytes = _resident_bytes(process)
        first = next(MmapedDict.read_all_values_from_file(str(file)), None)
        if nbytes is not None and first is not None:
            labels = json.loads(first[0])[2]
            memory.add_metric([labels["model"], labels["version"], process], nbytes)
    return [*families, memory]


def _is_locked(file: Path) -> bool:
    """Return whether the process that writes to `file` lives: it holds a lock on the file."""
    with file.open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _resident_bytes(process: str) -> int | None:
    """Return the memory of a process, or None where the system does not state it."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
