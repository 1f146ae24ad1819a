"""The snapshot: what training hands to export, readable without DeepSpeed, Ray or pickle.

A snapshot is a folder with `weights.safetensors` (tensors named `<network>.<parameter>`) and `snapshot.json`,
which is written last: a folder without it is not a snapshot.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from trainer import registry
from trainer.errors import SnapshotError
from zorse_common.storage import Storage

SCHEMA_VERSION = 1
WEIGHTS_FILE = "weights.safetensors"
SNAPSHOT_FILE = "snapshot.json"
FOLDER = "snapshots"


@dataclass(frozen=True)
class Network:
    """One exportable network.

    Attributes:
        model: the network's `{type, …}` section.
        direction: the domains that a translator connects, such as "AtoB"; None for a generator.
        size: the side, in pixels, of the training images that a translator takes or a generator makes.
        labels: the names of a conditional generator's classes in order, if they have names.
        source: the domain that a translator translates, such as "A", if it is known; None for a generator.
    """

    model: dict[str, Any]
    direction: str | None
    size: int
    labels: list[str] | None = None
    source: str | None = None


@dataclass(frozen=True)
class Snapshot:
    """The weights of a run's generators, and everything needed to rebuild them.

    Attributes:
        name: the name of the run.
        task: the type of the run's task.
        images_seen: the number of images that the run had seen.
        ema: whether the weights are an exponential moving average.
        networks: the networks by name.
        config: the run's resolved configuration.
        weights: the state dict of each network.
        digest: the SHA-256 of the weights file.
    """

    name: str
    task: str
    images_seen: int
    ema: bool
    networks: dict[str, Network]
    config: dict[str, Any]
    weights: dict[str, dict[str, Tensor]]
    digest: str = ""

    def build(self, network: str) -> nn.Module:
        """Return the network with its weights, in evaluation mode, on the CPU.

        Raises:
            SnapshotError: the weights do not fit the architecture.
        """
        module: nn.Module = registry.build(registry.resolve("model", self.networks[network].model))
        try:
            module.load_state_dict(self.weights[network])
        except (RuntimeError, KeyError) as error:
            raise SnapshotError(
                f"snapshot {self.name}: the weights of {network} do not fit its architecture"
            ) from error
        return module.eval()


def write_snapshot(run: Storage, snapshot: Snapshot) -> str:
    """Write `snapshot` under `run` and return the folder's URI.

    Raises:
        SnapshotError: the storage is full or cannot be written.
    """
    folder = run / f"{FOLDER}/{snapshot.images_seen:010d}"
    tensors = {
        f"{network}.{name}": tensor.detach().to("cpu").contiguous()
        for network, state in snapshot.weights.items()
        for name, tensor in state.items()
    }
    content = save(tensors)
    fields = asdict(snapshot) | {"digest": hashlib.sha256(content).hexdigest(), "schema_version": SCHEMA_VERSION}
    del fields["weights"]
    try:
        folder.write(WEIGHTS_FILE, content)
        folder.write(SNAPSHOT_FILE, (json.dumps(fields, indent=2, sort_keys=True) + "\n").encode())
    except OSError as error:
        raise SnapshotError(f"{folder.uri} cannot be written: {error}") from error
    return folder.uri


def forget_snapshots_after(run: Storage, images_seen: int) -> None:
    """Remove the snapshots of more than `images_seen` images, which a rollback makes invalid."""
    for name in (run / FOLDER).folders():
        if name.isdecimal() and int(name) > images_seen:
            run.remove(f"{FOLDER}/{name}")


def find_snapshot(place: str) -> Storage:
    """Return the snapshot folder at `place`, which is a snapshot folder or a run folder with a snapshot: the newest.

    Raises:
        SnapshotError: there is no snapshot.
    """
    folder = Storage(place)
    if folder.exists(SNAPSHOT_FILE):
        return folder
    for name in reversed((folder / FOLDER).folders()):
        candidate = folder / f"{FOLDER}/{name}"
        if candidate.exists(SNAPSHOT_FILE):
            return candidate
    raise SnapshotError(f"{place} is neither a snapshot nor a run that has one: train first, or check the path")


def read_snapshot(place: str) -> Snapshot:
    """Read the snapshot at `place`, which is a snapshot folder or a run folder with a snapshot: the newest.

    Raises:
        SnapshotError: there is no snapshot, it was changed after it was written, or it has another schema version.
    """
    folder = find_snapshot(place)
    try:
        fields: Mapping[str, Any] = json.loads(folder.read(SNAPSHOT_FILE))
        content = folder.read(WEIGHTS_FILE)
    except (OSError, ValueError) as error:
        raise SnapshotError(f"{folder.uri} cannot be read: {error}") from error
    if not isinstance(fields, dict):
        raise SnapshotError(f"{folder.uri} breaks the snapshot contract: {SNAPSHOT_FILE} is not a JSON object")
    if fields.get("schema_version") != SCHEMA_VERSION:
        raise SnapshotError(
            f"{folder.uri} has schema version {fields.get('schema_version')!r} and this zorse reads {SCHEMA_VERSION}"
        )
    if hashlib.sha256(content).hexdigest() != fields.get("digest"):
        raise SnapshotError(f"{folder.uri}/{WEIGHTS_FILE} was changed after it was written: use another snapshot")
    try:
        return _parse(fields, load(content))
    except (SafetensorError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise SnapshotError(f"{folder.uri} breaks the snapshot contract ({error})") from error


def _parse(fields: Mapping[str, Any], tensors: dict[str, torch.Tensor]) -> Snapshot:
    weights: dict[str, dict[str, Tensor]] = {name: {} for name in fields["networks"]}
    for full_name, tensor in tensors.items():
        network, name = full_name.split(".", 1)
        weights[network][name] = tensor
    networks = {name: Network(**entry) for name, entry in fields["networks"].items()}
    rest = {key: value for key, value in fields.items() if key not in ("networks", "schema_version")}
    return Snapshot(**rest, networks=networks, weights=weights)
