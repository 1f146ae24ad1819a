"""Reads the numbers of all replicas: for Prometheus, for the protocol's statistics, and for `zorse serve status`."""

from __future__ import annotations

import fcntl
import json
import os
import platform
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

from serving.metrics import GREATEST, LIVING, Numbers, metrics_folder

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


@dataclass(frozen=True)
class Process:
    """The numbers of one process of a node at one moment.

    Its gauges count while it `is_alive`; its other numbers remain. `memory` are its bytes, or None where the system
    does not state them.
    """

    name: str
    node: str
    numbers: Numbers
    is_alive: bool
    memory: int | None = None


def parse(text: str) -> Readings:
    """Return the numbers of a page of Prometheus's text format. Raises ValueError if `text` is no such page."""
    return Readings(tuple(sample for family in text_string_to_metric_families(text) for sample in family.samples))


def readings_of(families: Iterable[Metric]) -> Readings:
    """Return the numbers of `families`."""
    return Readings(tuple(sample for family in families for sample in family.samples))


def expose(families: Iterable[Metric]) -> bytes:
    """Return `families` in Prometheus's text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(families))
    return generate_latest(registry)


class _Families(Collector):
    """Gives metrics to prometheus_client."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """Return the metrics."""
        return self._families


def families_of(processes: Iterable[Process]) -> list[Metric]:
    """Return the metrics of all processes, summed. The gauges are those of the processes that live."""
    labels = ["model", "version", "node", "process"]
    memory = GaugeMetricFamily(MEMORY, "Resident memory of a replica.", labels=labels)
    sums: Numbers = {}
    for process in processes:
        add(sums, {k: v for k, v in process.numbers.items() if process.is_alive or k != LIVING})
        gauges = process.numbers.get(LIVING)
        if process.is_alive and process.memory is not None and gauges:
            model = json.loads(next(iter(gauges)))[2]
            memory.add_metric([model["model"], model["version"], process.node, process.name], process.memory)
    return [*(family for kind, numbers in sums.items() for family in _families(kind, numbers)), memory]


def add(sums: Numbers, numbers: Mapping[str, Mapping[str, float]]) -> None:
    """Add the numbers of a process to `sums`. Of some kinds the greatest number counts."""
    for kind, values in numbers.items():
        totals = sums.setdefault(kind, {})
        for key, value in values.items():
            if key not in totals:
                totals[key] = value
            else:
                totals[key] = max(totals[key], value) if kind == GREATEST else totals[key] + value


def _families(kind: str, numbers: Mapping[str, float]) -> Iterable[Metric]:
    """Return the metrics of one kind. Each bucket of a histogram then counts those below it too."""
    families: dict[str, Metric] = {}
    buckets: dict[tuple[str, tuple[tuple[str, str], ...]], dict[float, float]] = defaultdict(dict)
    for key, value in numbers.items():
        name, sample, labels, text = json.loads(key)
        family = families.setdefault(name, Metric(name, text, kind.partition("_")[0]))
        bound = labels.pop("le", None)
        if bound is None:
            family.add_sample(sample, labels, value)
        else:
            buckets[name, tuple(labels.items())][float(bound)] = value
    for (name, pairs), counts in buckets.items():
        total = 0.0
        for bound in sorted(counts):
            total += counts[bound]
            families[name].add_sample(f"{name}_bucket", {**dict(pairs), "le": floatToGoString(bound)}, total)
        families[name].add_sample(f"{name}_count", dict(pairs), total)
    return families.values()


def processes_of(folder: str | Path) -> list[Process]:
    """Return the numbers in the files of all processes of the server with this `folder`."""
    found: dict[str, Process] = {}
    node = platform.node()
    for file in sorted(metrics_folder(folder).glob("*.db")):
        kind, _, name = file.stem.rpartition("_")
        process = found.setdefault(name, Process(name.partition("-")[0], node, {}, is_alive=False))
        if kind == LIVING and _is_locked(file):
            found[name] = replace(process, is_alive=True, memory=resident_bytes(process.name))
        # A file that has just been made is empty.
        if file.stat().st_size:
            process.numbers[kind] = {key: number for key, number, *_ in MmapedDict.read_all_values_from_file(str(file))}
    return list(found.values())


def _is_locked(file: Path) -> bool:
    """Return whether the process that writes to `file` lives: it holds a lock on the file."""
    with file.open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def resident_bytes(process: str = "self") -> int | None:
    """Return the memory of a process of this machine, or None where the system does not state it."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
