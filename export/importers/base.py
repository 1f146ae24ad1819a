"""The importers of foreign state dicts: what one is, and their registry. A file beside this one adds one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from export.errors import OTHER_WAY, ImporterError
from export.state_dicts.foreign import read_state_dict
from trainer.snapshot import Snapshot
from zorse_common.registry import Registry


@dataclass(frozen=True)
class Importer:
    """A foreign format.

    `read` returns a snapshot of one of our architectures that computes the same as the file's network in evaluation
    mode. It runs no code from the file, and raises ImporterError if the file is not of the format. `fits` returns
    whether a file's tensors are of this format and of no other.
    """

    name: str
    read: Callable[[Path], Snapshot]
    fits: Callable[[Mapping[str, Tensor]], bool]


_registry = Registry[Importer]("export.importers", "format", ImporterError)
names, find = _registry.names, _registry.find


def register(importer: Importer) -> None:
    """Make `importer` known by its name."""
    _registry.register(importer.name, importer)


def recognise(path: Path) -> Importer:
    """Return the importer whose generators have tensors such as those in `path`.

    Raises:
        ImporterError: the file cannot be read, or no importer knows such tensors.
    """
    tensors = read_state_dict(path).tensors
    fitting = [importer for importer in map(find, names()) if importer.fits(tensors)]
    if len(fitting) != 1:
        begins = ", ".join(list(tensors)[:2])
        raise ImporterError(
            f"{path} has {len(tensors)} tensors ({begins}, …) of no architecture that zorse imports: {OTHER_WAY}"
        )
    return fitting[0]
