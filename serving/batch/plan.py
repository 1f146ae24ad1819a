"""The plan of a batch job: everything that decides the bytes of its output. It is written before any of them.

The same command makes an equal plan on every machine. Two jobs with equal plans write the same files.
"""

from __future__ import annotations

import hashlib
import json
import platform
import zlib
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from PIL import features
from pydantic import BaseModel, Field, ValidationError

from export.interface import IMAGE
from export.manifest import PROVED_BATCH, Manifest, fields_digest
from serving.batch.formats.base import FORMATS, IMAGE_COLUMN, Item, Kind
from serving.batch.passes import RULES, ModelPass
from serving.codec import encode
from serving.config import Device
from serving.errors import BatchError

Positive = Annotated[int, Field(ge=1)]
BatchVerb = Literal["generate", "translate"]
TARGET_SECONDS = 10.0
"""How long one core should work on a shard."""
_FLOPS, _SECONDS_PER_VALUE, _SECONDS_PER_IMAGE = 1e11, 3e-8, 5e-5
"""A core's floating-point operations a second, and its time to encode one value, and to handle one image: a model of
the work that is the same on every machine, and not a measurement of this one."""
_REUSE = 16
"""Convolutions use a weight once for each of about height · width / `_REUSE` pixels: most weights lie where images are
small."""
_NOMINAL_SIZE = (256, 256)
_MOST_IMAGES = 2**16
_MOST_FILES = 2**13
"""The most images of a shard whose images are files of their own: to write a file takes longer than a small image."""
_MOST_BYTES = 2**28
"""The most bytes of decoded images in a shard, which a process holds in memory as image files."""
_MOST_INPUT_BYTES = 2**26
"""The most bytes of input files of a shard, if all are of equal size: a PNG can have ten times the bytes of a JPEG."""
_SHARDS_OF_SMALL_JOBS = 16
MOST_SHARDS = 10**6
"""The most shards of a job: their names have six digits, and the driver holds a record of each."""
_OTHER_INPUTS = "the inputs have other names, sizes or times"


class Plan(BaseModel):
    """The plan. `place`, `environment` and the `uri` of a pass only inform: plans that differ in these are equal.

    `passes` are the models, each after the one whose images it translates. `keys` are those of the verb's request.
    `count` is the number of images, `inputs` the digest of the names and sizes of the input files, in order, which lie
    at `place`, and `carried` has the kinds of the values of inputs that are kept. Shard k has the images
    `shard_size` · k to `shard_size` · (k + 1) - 1. Up to `batch` images run together. `environment` has the
    versions and processor flags on which bytes may depend.
    """

    model_config = RULES

    verb: BatchVerb
    passes: Annotated[tuple[ModelPass, ...], Field(min_length=1)]
    keys: dict[str, Any]
    count: Annotated[int, Field(ge=0)]
    inputs: str | None
    carried: dict[str, Kind] = Field(default_factory=dict)
    format: str
    image_format: str
    shard_size: Positive
    batch: Positive
    device: Device
    place: str | None
    environment: dict[str, str]

    @property
    def shards(self) -> int:
        """The number of shards."""
        return -(-self.count // self.shard_size)

    def numbers(self, shard: int) -> range:
        """Return the numbers of the images of a shard, or the positions of its input files."""
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, self.count))

    @property
    def models(self) -> str:
        """The names and versions of the models."""
        return ", ".join(dict.fromkeys(one.title for one in self.passes))

    def identity(self) -> dict[str, Any]:
        """Return the fields in which equal plans agree."""
        return self.model_dump(
            mode="json", exclude={"place": True, "environment": True, "passes": {"__all__": {"uri"}}}
        )

    def digest(self) -> str:
        """Return the SHA-256 of the identity, in hex."""
        return fields_digest(self.identity())

    def to_json(self) -> str:
        """Return the plan as indented JSON with sorted keys."""
        return json.dumps(self.model_dump(mode="json"), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> Plan:
        """Parse a plan; `where` names its file in messages.

        Raises:
            BatchError: it is not a plan.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise BatchError(f"{where} is not a plan of a batch job: choose another output") from error

    def differences(self, other: Plan) -> list[str]:
        """Return one text for each field of the identity in which this plan differs from `other`, the inputs first."""
        mine, others = self.identity(), other.identity()
        changed = [] if mine.pop("inputs") == others.pop("inputs") else [_OTHER_INPUTS]
        for fields in (mine, others):
            fields |= fields.pop("keys")
            fields["models"] = ", ".join(
                f"{one['column']} by {one['model']}@{one['version']} ({one['digest'][:8]})"
                for one in fields.pop("passes")
            )
        return changed + [
            f"{key} {json.dumps(mine.get(key))} instead of {json.dumps(others.get(key))}"
            for key in sorted(mine.keys() | others.keys())
            if mine.get(key) != others.get(key)
        ]

    def changed_environment(self, other: Plan) -> list[str]:
        """Return one text for each entry of the environment in which this plan differs from `other`."""
        mine, others = self.environment, other.environment
        return [
            f"{key} {mine.get(key, 'none')} instead of {others.get(key, 'none')}"
            for key in sorted(mine.keys() | others.keys())
            if mine.get(key) != others.get(key)
        ]


def default_shard_size(
    manifests: Sequence[Manifest],
    count: int,
    format_name: str,
    nbytes: int = 0,
    size: tuple[int, int] | None = None,
) -> int:
    """Return how many images a shard has: about `TARGET_SECONDS` of work, as a pure function of the arguments.

    `nbytes` are the bytes of all input files, where they are known. A process holds the images of a shard as files, so
    that large input files make shards short.

    The work of an image is estimated from the size of the models' files, taken as float32 weights, and from the size of
    their images, which for a translator of open sizes is `size` (height, width), or is taken as 256 × 256 pixels. A
    small job has 16 shards, so that several processes can share it.
    """
    seconds, values = _SECONDS_PER_IMAGE, 0
    for manifest in manifests:
        shape = next(spec.shape for spec in manifest.interface.outputs if spec.name == IMAGE)
        height, width, channels = (
            axis if isinstance(axis, int) else side * manifest.interface.scale
            for axis, side in zip(shape[1:], (*(size or _NOMINAL_SIZE), 3), strict=True)
        )
        weights = manifest.nbytes / np.dtype(np.float32).itemsize
        seconds += 2 * weights * (height * width / _REUSE) / _FLOPS + height * width * channels * _SECONDS_PER_VALUE
        values += height * width * channels
    most = _MOST_FILES // len(manifests) if format_name == "images" else _MOST_IMAGES
    length = min(int(TARGET_SECONDS / seconds), _MOST_BYTES // values, most, -(-count // _SHARDS_OF_SMALL_JOBS))
    return max(1, min(length, _MOST_INPUT_BYTES * count // max(1, nbytes)))


def rows_per_run(manifests: Sequence[Manifest]) -> int:
    """Return how many images run together at most: as many as the proof of every model tried."""
    batches = (manifest.interface.inputs[0].shape[0] for manifest in manifests)
    return min(batch if isinstance(batch, int) else PROVED_BATCH for batch in batches)


def environment(format_name: str, image_format: str) -> dict[str, str]:
    """Return the versions and the processor's flags on which bytes may depend, and the digest of a written probe.

    A package that is not installed is left out: a cluster's workers receive zorse as files.

    Raises:
        BatchError: there is no such format.
    """
    packages = ("numpy", "pillow", "pyarrow", "zorse")
    versions = {name: metadata.version(name) for name in packages if _is_installed(name)}
    runtime = next(
        (f"{name} {metadata.version(name)}" for name in ("onnxruntime-gpu", "onnxruntime") if _is_installed(name)), ""
    )
    return versions | {
        "onnxruntime": runtime,
        "zlib": zlib.ZLIB_RUNTIME_VERSION,
        **{f"pillow's {name}": str(features.version(name)) for name in ("zlib", "libjpeg_turbo", "webp")},
        "processor": " ".join([platform.machine(), *_processor_flags()]),
        "probe": _probe(format_name, image_format),
    }


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _processor_flags() -> list[str]:
    """Return the vector instructions of the processor, by which libraries choose their kernels."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return sorted(flag for flag in flags if flag.startswith(("avx", "amx", "fma")))


def _probe(format_name: str, image_format: str) -> str:
    """Return the digest of a shard of two fixed images: it changes with every library that changes written bytes."""
    pixels = np.arange(3 * 48 * 48, dtype=np.uint32).reshape(48, 48, 3)
    images = [(pixels * factor >> 7).astype(np.uint8) for factor in (5, 2654435761 % 2**16)]
    items = [
        Item(f"probe{i}", {IMAGE_COLUMN: encode(image, image_format, "probe")}, image_format, {})
        for i, image in enumerate(images)
    ]
    files = FORMATS.find(format_name)("probe", items, {IMAGE_COLUMN: "image"})
    return hashlib.sha256(b"".join(files.values())).hexdigest()[:16]
