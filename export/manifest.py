"""The artifact contract between export and serving, in the standard library alone.

An artifact is a folder `<repository>/<model>/<version>/` with `model.onnx` (and `model.onnx.data`, the weights of a
model above 2 GB), `golden.npz` (inputs and what the model made of them when it was proved) and `manifest.json`. The
manifest is written last: a folder without one is not an artifact.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from export.errors import ManifestError
from export.manifest_1 import from_version_1
from export.sizes import SizeLimits
from export.typed import build, parse_json

SCHEMA_VERSION = 2
MODEL_FILE, WEIGHTS_FILE, GOLDEN_FILE = "model.onnx", "model.onnx.data", "golden.npz"
MANIFEST_FILE = "manifest.json"
DType = Literal["uint8", "uint16", "float32", "int64"]
Kind = Literal["generator", "translator"]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""What models, and files of artifacts, can be called."""
VERSION = re.compile(r"[1-9][0-9]*")
"""The names of the folders of versions."""
PROVED_BATCH = 16
"""The largest batch that a proof tries, and as many images as servers put together by default."""
GREY_LEVELS = 255
"""Differences between images are counted in steps of this part of their value range, whatever their dtype."""


@dataclass(frozen=True)
class Tensor:
    """One input or output of the graph.

    `shape` holds ints for fixed axes and names ("batch", "height", "width") for dynamic ones.
    `value_range` is the closed interval of legal values, or None where the tensor is unbounded.
    """

    name: str
    dtype: DType
    shape: tuple[int | str, ...]
    meaning: str
    value_range: tuple[float, float] | None = None


@dataclass(frozen=True)
class Latent:
    """The distribution a generator's codes are drawn from: `dim` independent standard normal numbers."""

    dim: int
    distribution: Literal["normal"] = "normal"


@dataclass(frozen=True)
class Source:
    """Where the weights came from.

    `format` is "snapshot" or the importer's name, `digest` the SHA-256 of the file with the weights and `network` which
    of its networks this is. A snapshot also has the images seen, whether its weights are the EMA ones, its resolved
    `config` with that one's digest, and the git revision that trained it where there was one.
    """

    format: str
    digest: str
    network: str
    images_seen: int | None = None
    ema: bool = False
    config: dict[str, Any] = field(default_factory=dict)
    config_digest: str | None = None
    revision: str | None = None


@dataclass(frozen=True)
class Cycle:
    """The mean absolute difference, in grey levels, between images and their translations there and back."""

    reference: float
    onnxruntime: float


@dataclass(frozen=True)
class Proof:
    """What the comparison of onnxruntime against the `reference` measured, over every shape and image tried.

    Differences are in grey levels: the largest, and the one that 99.9 % of the values stay within; `tolerance` is what
    the largest was allowed to be, `replay_tolerance` what it may be between devices. `psnr` in dB is None where all
    images were identical. `reference` names what was compared with, such as "torch 2.13.0". `cycle` is that of a
    CycleGAN's pair.
    """

    tolerance: float
    replay_tolerance: float
    max_grey_diff: float
    p999_grey_diff: float
    psnr: float | None
    shapes: tuple[tuple[int, ...], ...]
    real_images: int
    onnxruntime: str
    reference: str
    cycle: Cycle | None = None


@dataclass(frozen=True)
class FileEntry:
    """One file of the artifact."""

    sha256: str
    nbytes: int


@dataclass(frozen=True)
class Manifest:
    """Everything a server must know of one artifact.

    `kind` is "generator" (a `latent` goes in) or "translator" (a `source` image goes in). `direction` is the
    domain pair of a translator, such as "AtoB". `files` are the other files of the folder. `nodes` counts the graph's
    operators, `graph_digest` is of the model without its weights and `weights_digest` of those alone. `buckets` are
    input shapes for which the model was also proved with its axes fixed. `labels` names the classes of a conditional
    generator, `metrics` are figures of an evaluation, and `licence` says what may be done with the model. The images
    of a translator are `scale` times as high and as wide as its source.
    """

    name: str
    version: int
    task: str
    kind: Kind
    target: str
    opset: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    files: dict[str, FileEntry]
    nodes: int
    graph_digest: str
    weights_digest: str
    source: Source
    proof: Proof
    direction: str | None = None
    size: SizeLimits | None = None
    latent: Latent | None = None
    labels: tuple[str, ...] | None = None
    buckets: tuple[tuple[int, ...], ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    licence: str | None = None
    scale: int = 1
    zorse_version: str = ""
    created: str = ""
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> str:
        """The manifest as indented JSON with a stable key order, and a `seal`: the digest of each field."""
        fields = json.loads(json.dumps(dataclasses.asdict(self)))
        return json.dumps(fields | {"seal": _seal(fields)}, indent=2, sort_keys=True) + "\n"

    @staticmethod
    def from_json(text: str, where: str = MANIFEST_FILE) -> Manifest:
        """Parse `text`, of this schema or an older one.

        Raises:
            ManifestError: it is not JSON, is of another schema version, a field is missing, unknown or changed after it
                was written, or a value is none that a server could use.
        """
        try:
            data = parse_json(text)
        except ValueError as error:
            raise ManifestError(f"{where} is not JSON ({error}): export the model again") from error
        if not isinstance(data, dict):
            raise ManifestError(f"{where} is not a JSON object: export the model again")
        version = data.get("schema_version")
        if version not in (1, SCHEMA_VERSION):
            raise ManifestError(
                f"{where} has schema version {version!r} and this zorse reads 1 to {SCHEMA_VERSION}: "
                "export the model again or install the zorse that wrote it"
            )
        if version == SCHEMA_VERSION:
            _check_seal(data, where)
        try:
            manifest = build(Manifest, from_version_1(data) if version == 1 else data)
            _check(manifest)
        except (TypeError, KeyError, ValueError) as error:
            raise ManifestError(f"{where} breaks the artifact contract ({error}): export the model again") from error
        return manifest


def _seal(fields: dict[str, Any]) -> dict[str, str]:
    return {name: digest(json.dumps(value, sort_keys=True).encode())[:16] for name, value in fields.items()}


def _check_seal(data: dict[str, Any], where: str) -> None:
    seal = data.pop("seal", None)
    now = _seal(data)
    if not isinstance(seal, dict):
        raise ManifestError(f"{where} has no seal: it was changed after it was written, export the model again")
    changed = sorted(name for name in {*seal, *now} if seal.get(name) != now.get(name))
    if changed:
        raise ManifestError(
            f"{where} was changed after it was written ({', '.join(changed)}): restore it or export the model again"
        )


def _check(manifest: Manifest) -> None:
    """What types do not say; raises ValueError."""
    if manifest.version < 0:
        raise ValueError(f"version is {manifest.version}")
    if not manifest.inputs or not manifest.outputs:
        raise ValueError("there are no inputs or no outputs")
    for name in manifest.files:
        if not NAME.fullmatch(name):
            raise ValueError(f"a file is called {name!r}")
    if MODEL_FILE not in manifest.files:
        raise ValueError(f"files has no {MODEL_FILE}")
    for edge in (manifest.size.height, manifest.size.width) if manifest.size else ():
        if edge.multiple < 1 or edge.minimum < 1 or not edge.minimum <= edge.legal(edge.minimum) <= edge.maximum:
            raise ValueError(f"size is {edge}")
    for tensor in (*manifest.inputs, *manifest.outputs):
        if tensor.value_range and not tensor.value_range[0] < tensor.value_range[1]:
            raise ValueError(f"the value range of {tensor.name} is {tensor.value_range}")
    if manifest.scale < 1 or (manifest.scale > 1 and manifest.kind != "translator"):
        raise ValueError(f"scale is {manifest.scale}")
    if manifest.latent is not None and manifest.latent.dim < 1:
        raise ValueError(f"latent is {manifest.latent}")


def facts(
    *, name: str, task: str, kind: Kind, target: str, direction: str | None, source: Source, made: Tensor, scale: int
) -> dict[str, str]:
    """What a model's file says of itself in its metadata, each key after `zorse.`; what it does not have is left out.

    `made` is its output.
    """
    known = {
        "name": name,
        "task": task,
        "kind": kind,
        "target": target,
        "direction": direction,
        "network": source.network,
        "source_digest": source.digest,
        "images_seen": source.images_seen,
        "scale": scale if scale > 1 else None,
        "value_range": "{:g}..{:g}".format(*made.value_range) if made.value_range else None,
    }
    return {key: str(value) for key, value in known.items() if value is not None}


def facts_of(manifest: Manifest) -> dict[str, str]:
    """What the model's file should say of itself."""
    return facts(
        name=manifest.name,
        task=manifest.task,
        kind=manifest.kind,
        target=manifest.target,
        direction=manifest.direction,
        source=manifest.source,
        made=manifest.outputs[0],
        scale=manifest.scale,
    )


def read_manifest(artifact: Path) -> Manifest:
    """Read the manifest of the artifact folder `artifact`.

    Raises:
        ManifestError: there is none, or it breaks the contract.
    """
    path = artifact / MANIFEST_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{artifact} is not an artifact: {MANIFEST_FILE} cannot be read ({error})") from error
    return Manifest.from_json(text, str(path))


def digest(content: bytes) -> str:
    """The SHA-256 of `content`, in hex."""
    return hashlib.sha256(content).hexdigest()


def file_entry(path: Path) -> FileEntry:
    """Digest and size of a file."""
    with path.open("rb") as stream:
        return FileEntry(hashlib.file_digest(stream, "sha256").hexdigest(), path.stat().st_size)
