"""The artifact contract between export and serving, in the standard library alone.

An artifact is a folder `<repository>/<model>/<version>/` with `model.onnx` and `manifest.json`; the manifest
is written last, so a folder without one is not an artifact.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from export.errors import ManifestError

SCHEMA_VERSION = 1
MODEL_FILE = "model.onnx"
MANIFEST_FILE = "manifest.json"
DType = Literal["uint8", "float32", "int64"]
Kind = Literal["generator", "translator"]


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
class SizeLimits:
    """The heights and widths, in pixels, that a translator accepts; the server pads up to `multiple`.

    Legal are the multiples of `multiple` from `minimum` to `maximum`, both included.
    """

    multiple: int
    minimum: int
    maximum: int

    def legal(self, edge: int) -> int:
        """The smallest legal height or width, in pixels, that is not under `edge`, or the largest one there is."""
        bounded = min(max(edge, self.minimum), self.maximum // self.multiple * self.multiple)
        return -(-bounded // self.multiple) * self.multiple


@dataclass(frozen=True)
class Latent:
    """The distribution a generator's codes are drawn from: `dim` independent standard normal numbers."""

    dim: int
    distribution: Literal["normal"] = "normal"


@dataclass(frozen=True)
class Source:
    """Where the weights came from: the snapshot's digest, the images seen, and whether they are the EMA ones."""

    snapshot_digest: str
    images_seen: int
    ema: bool
    network: str
    config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Proof:
    """What the comparison of onnxruntime against torch measured, over every shape and image tried.

    `max_grey_diff` is in grey levels of 255; `psnr` in dB is None where all images were identical.
    """

    max_grey_diff: int
    psnr: float | None
    shapes: tuple[tuple[int, ...], ...]
    real_images: int
    onnxruntime: str
    torch: str


@dataclass(frozen=True)
class Manifest:
    """Everything a server must know of one artifact.

    `kind` is "generator" (a `latent` goes in) or "translator" (a `source` image goes in). `direction` is the
    domain pair of a translator, such as "AtoB". `sha256` and `nbytes` are of `model.onnx`.
    """

    name: str
    version: int
    task: str
    kind: Kind
    target: str
    opset: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    sha256: str
    nbytes: int
    source: Source
    proof: Proof
    direction: str | None = None
    size: SizeLimits | None = None
    latent: Latent | None = None
    zorse_version: str = ""
    created: str = ""
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> str:
        """The manifest as indented JSON with a stable key order."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n"

    @staticmethod
    def from_json(text: str, where: str = MANIFEST_FILE) -> Manifest:
        """Parse `text`.

        Raises:
            ManifestError: it is not JSON, is of another schema version, a field is missing or unknown, or a value is
                none that a server could use.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise ManifestError(f"{where} is not JSON ({error}): export the model again") from error
        if not isinstance(data, dict):
            raise ManifestError(f"{where} is not a JSON object: export the model again")
        version = data.get("schema_version")
        if version != SCHEMA_VERSION:
            raise ManifestError(
                f"{where} has schema version {version!r} and this zorse reads {SCHEMA_VERSION}: "
                "export the model again or install the zorse that wrote it"
            )
        try:
            manifest = _parse(data)
            _check(manifest)
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise ManifestError(f"{where} breaks the artifact contract ({error}): export the model again") from error
        return manifest


def _check(manifest: Manifest) -> None:
    """What building the dataclasses does not see to; raises ValueError or TypeError."""
    if manifest.kind not in get_args(Kind):
        raise ValueError(f"kind is {manifest.kind!r}")
    if not isinstance(manifest.version, int):
        raise TypeError(f"version is {manifest.version!r}")
    if not manifest.inputs or not manifest.outputs:
        raise ValueError("there are no inputs or no outputs")
    for tensor in (*manifest.inputs, *manifest.outputs):
        if tensor.dtype not in get_args(DType):
            raise ValueError(f"{tensor.name} is {tensor.dtype!r}")
    if manifest.size is not None and not 0 < manifest.size.multiple <= manifest.size.maximum:
        raise ValueError(f"size is {manifest.size}")
    if manifest.latent is not None and manifest.latent.dim < 1:
        raise ValueError(f"latent is {manifest.latent}")


def _parse(data: dict[str, Any]) -> Manifest:
    def tensor(entry: dict[str, Any]) -> Tensor:
        bounds = entry.get("value_range")
        fields = {**entry, "shape": tuple(entry["shape"]), "value_range": tuple(bounds) if bounds else None}
        return Tensor(**fields)

    proof = data["proof"]
    return Manifest(
        **{
            **data,
            "inputs": tuple(tensor(entry) for entry in data["inputs"]),
            "outputs": tuple(tensor(entry) for entry in data["outputs"]),
            "source": Source(**data["source"]),
            "proof": Proof(**{**proof, "shapes": tuple(tuple(shape) for shape in proof["shapes"])}),
            "size": SizeLimits(**data["size"]) if data.get("size") else None,
            "latent": Latent(**data["latent"]) if data.get("latent") else None,
        }
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


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
