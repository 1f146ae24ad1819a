"""What an importer is, and the registry of them: one file beside this one adds one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from export.errors import ImporterError
from trainer.snapshot import Snapshot
from zorse_common.registry import Registry


@dataclass(frozen=True)
class Importer:
    """A foreign format.

    `read` turns such a file into a snapshot of our own architectures that computes what the file's network computes
    in evaluation mode. It runs no code from the file, and raises ImporterError where the file is not of the format.
    """

    name: str
    read: Callable[[Path], Snapshot]


_registry = Registry[Importer]("export.importers", "format", ImporterError)
names, find = _registry.names, _registry.find


def register(importer: Importer) -> None:
    """Make `importer` known by its name."""
    _registry.register(importer.name, importer)
