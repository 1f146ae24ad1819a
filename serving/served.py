"""What a server serves at this moment: the state that its process writes, and its replicas read."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field

from serving.config import GatewaySettings, ModelSettings, ModelSummary, Settings

UNLOADED = "unloaded"
"""The reason of a model that was unloaded by a request, as a server of Triton states it."""
_FILE = "served.json"


class Served(Settings):
    """The models of a server, and the reasons for those that are not served, as in `GatewaySettings`.

    `names` are those of the models, and `loading` those of versions that are being started, as `<model>/<version>`.
    `partners` has the name of the model that translates back what a model translates, and `manifests` the JSON of each
    model's manifest.
    """

    names: list[str]
    models: tuple[ModelSummary, ...] = ()
    unavailable: dict[str, str] = Field(default_factory=dict)
    loading: tuple[str, ...] = ()
    partners: dict[str, str] = Field(default_factory=dict)
    manifests: dict[str, str] = Field(default_factory=dict)

    def write(self, folder: str) -> None:
        """Tell the replicas of the server with this folder."""
        new = Path(folder) / f"{_FILE}.new"
        new.write_text(self.model_dump_json(), encoding="utf-8")
        new.replace(Path(folder) / _FILE)


class ServedNow:
    """The state of the server with this folder: `first` until its process writes another one.

    A look costs a microsecond or two.
    """

    def __init__(self, first: Served, folder: str | None) -> None:
        self._served = first
        self._path = None if folder is None else f"{folder}/{_FILE}"
        self._read_file = (0, 0)

    def __call__(self) -> Served:
        """Return the state."""
        if self._path is not None:
            try:
                found = os.stat(self._path)  # noqa: PTH116 - a request waits for it
            except FileNotFoundError:
                return self._served
            if (found.st_ino, found.st_mtime_ns) != self._read_file:
                self._served = Served.model_validate_json(Path(self._path).read_bytes())
                self._read_file = (found.st_ino, found.st_mtime_ns)
        return self._served


def served_by(settings: GatewaySettings) -> ServedNow:
    """Return what the gateway knows of its server."""
    first = Served(
        names=[model.name for model in settings.models],
        models=settings.models,
        unavailable=settings.unavailable,
        manifests=settings.manifests,
    )
    return ServedNow(first, settings.folder)


def served_with(settings: ModelSettings) -> ServedNow:
    """Return what a model knows of its server."""
    partners = {} if settings.partner is None else {settings.name: settings.partner}
    return ServedNow(Served(names=list(settings.models), partners=partners), settings.folder)
