"""The artifact contract between export and serving, which depends on pydantic alone.

An artifact is a folder `<repository>/<model>/<version>/` with `model.onnx` (and `model.onnx.data`, the weights of a
model above 2 GB), `golden.npz` (inputs, and the outputs that the model had when it was proved) and `manifest.json`. The
manifest is written last: a folder without one is not an artifact.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails, from_json

from export.errors import ManifestError
from export.interface import STRICT, Interface

SCHEMA_VERSION = 1
MODEL_FILE, WEIGHTS_FILE, GOLDEN_FILE = "model.onnx", "model.onnx.data", "golden.npz"
MANIFEST_FILE = "manifest.json"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""The names that models, and files of artifacts, may have."""
VERSION = re.compile(r"[1-9][0-9]*")
"""The names of the folders of versions."""
PROVED_BATCH = 16
"""The largest batch that a proof tries, and the largest that servers run by default."""
GREY_LEVELS = 255
"""The value range of an image of any dtype, in grey levels. Differences between images are counted in these."""


@dataclass(frozen=True, config=STRICT)
class Provenance:
    """Where the weights came from.

    `format` is "snapshot" or the importer's name, `digest` the SHA-256 of the file with the weights, and `network` the
    name of the network in it. A snapshot also has the number of images seen in training, whether its weights are the
    EMA ones, its resolved `config` with the digest of that, and the git revision that trained it if there was one.
    """

    format: str
    digest: str
    network: str
    images_seen: int | None = None
    ema: bool = False
    config: dict[str, Any] = Field(default_factory=dict)
    config_digest: str | None = None
    revision: str | None = None


@dataclass(frozen=True, config=STRICT)
class Cycle:
    """The mean absolute difference, in grey levels, between images and their translations there and back."""

    reference: float
    onnxruntime: float


@dataclass(frozen=True, config=STRICT)
class Proof:
    """The measured differences between onnxruntime and the `reference`, over every shape and image tried.

    Differences are in grey levels. `max_grey_diff` is the largest one; 99.9 % of the values are within
    `p999_grey_diff`. The largest one was allowed to be `tolerance`; between devices it may be `replay_tolerance`.
    `psnr` in dB is None if all images were identical. `reference` names the implementation that was compared with, such
    as "torch 2.13.0". `cycle` is measured for the two translators of a CycleGAN.
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


@dataclass(frozen=True, config=STRICT)
class FileEntry:
    """One file of the artifact."""

    sha256: str
    nbytes: int


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ModelCard:
    """What is known of a model before it is exported.

    `direction` is the domain pair of a translator, such as "AtoB". `metrics` are figures of an evaluation, and
    `licence` says what may be done with the model.
    """

    name: str
    task: str
    interface: Interface
    provenance: Provenance
    direction: str | None = None
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    licence: str | None = None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Manifest(ModelCard):
    """Everything that a server must know of one artifact.

    `files` are the other files of the folder. `nodes` counts the graph's operators, `graph_digest` is of the model
    without its weights and `weights_digest` of the weights alone. `buckets` are shapes of the first input for which the
    model was also proved with its axes fixed.
    """

    version: Annotated[int, Field(ge=0)]
    target: str
    opset: int
    files: dict[str, FileEntry]
    nodes: int
    graph_digest: str
    weights_digest: str
    proof: Proof
    buckets: tuple[tuple[int, ...], ...] = ()
    zorse_version: str = ""
    created: str = ""
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        """Raises ValueError if a file's name is not allowed, or there is no model or golden sample."""
        for name in self.files:
            if not NAME.fullmatch(name) or name == MANIFEST_FILE:
                raise ValueError(f"a file is called {name!r}")
        for name in (MODEL_FILE, GOLDEN_FILE):
            if name not in self.files:
                raise ValueError(f"files has no {name}")

    @property
    def nbytes(self) -> int:
        """The size of all files together, without the manifest."""
        return sum(entry.nbytes for entry in self.files.values())

    def to_json(self) -> str:
        """Return the manifest as indented JSON with sorted keys and the `digest` of all its fields."""
        fields = dataclasses.asdict(self)
        return json.dumps(fields | {"digest": fields_digest(fields)}, indent=2, sort_keys=True) + "\n"

    @staticmethod
    def from_json(text: str, where: str = MANIFEST_FILE) -> Manifest:
        """Parse `text`; `where` names it in messages.

        Raises:
            ManifestError: it is not JSON, is of another schema version, was changed after it was written, a field is
                missing or unknown, or a value is not legal.
        """
        try:
            data = from_json(text)
        except ValueError as error:
            raise ManifestError(f"{where} is not JSON ({error}): export the model again") from error
        if not isinstance(data, dict):
            raise ManifestError(f"{where} is not a JSON object: export the model again")
        version = data.get("schema_version")
        if type(version) is not int or version != SCHEMA_VERSION:
            raise ManifestError(
                f"{where} has schema version {version!r} and this zorse reads {SCHEMA_VERSION}: "
                "export the model again or install the zorse that wrote it"
            )
        if data.pop("digest", None) != fields_digest(data):
            raise ManifestError(f"{where} was changed after it was written: restore it or export the model again")
        try:
            return _MANIFEST.validate_json(json.dumps(data))
        except ValidationError as error:
            reason = _reason(error.errors()[0])
            raise ManifestError(f"{where} breaks the artifact contract ({reason}): export the model again") from error


_MANIFEST = TypeAdapter(Manifest)


def fields_digest(fields: dict[str, Any]) -> str:
    """Return the digest of `fields` as JSON with sorted keys and without spaces."""
    return digest(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode())


def _reason(error: ErrorDetails) -> str:
    """Return which field is wrong and why, such as "interface.inputs[0].dtype is 'uint7': input should be …"."""
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"]).lstrip(".")
    message = error["msg"][:1].lower() + error["msg"][1:]
    if error["type"] == "missing":
        return f"{field} is missing"
    if error["type"] == "unexpected_keyword_argument":
        return f"{field} is unknown"
    if error["type"] == "value_error":
        return ": ".join([*filter(None, [field]), message.removeprefix("value error, ")])
    value = repr(error["input"])
    return f"{field} is {value if len(value) < 80 else f'{value[:77]}...'}: {message}"


def model_properties(model: ModelCard, target: str) -> dict[str, str]:
    """Return the metadata of a model's ONNX file, without the keys' prefix `zorse.`; what is unknown is left out."""
    interface, provenance = model.interface, model.provenance
    value_range = interface.outputs[0].value_range
    known = {
        "name": model.name,
        "task": model.task,
        "kind": interface.kind,
        "target": target,
        "direction": model.direction,
        "network": provenance.network,
        "source_digest": provenance.digest,
        "images_seen": provenance.images_seen,
        "labels": json.dumps(interface.labels) if interface.labels is not None else None,
        "scale": interface.scale if interface.scale > 1 else None,
        "value_range": "{:g}..{:g}".format(*value_range) if value_range else None,
        "schema_version": SCHEMA_VERSION,
    }
    return {key: str(value) for key, value in known.items() if value is not None}


def reversed_directions(direction: str) -> list[str]:
    """Return what the way back of "AtoB" is called: "BtoA". A domain's own name may have a "to" in it."""
    ends = [match.span() for match in re.finditer("(?=to)", direction)]
    return [f"{direction[start + 2 :]}to{direction[:start]}" for start, _ in ends]


def golden_key(side: Literal["input", "output"], sample: int, tensor: str) -> str:
    """Return the name in `golden.npz` of one array of the golden sample, such as "input/0/latent"."""
    return f"{side}/{sample}/{tensor}"


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
