"""Publishes artifacts: `<repository>/<model>/<version>/` appears whole or not at all."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from export.errors import RepositoryError
from export.manifest import MANIFEST_FILE, MODEL_FILE, Manifest, Tensor

TRITON_FILE = "config.pbtxt"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_TRITON_TYPES = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32", "int64": "TYPE_INT64"}
_TRITON_MAX_BATCH = 32


@dataclass(frozen=True)
class Bundle:
    """A proved model, not yet published: publishing sets the manifest's version, digest and size.

    `model` is the content of `model.onnx`, a serialised `onnx.ModelProto`.
    """

    manifest: Manifest
    model: bytes


def open_repository(place: str) -> Path:
    """The folder of the repository `place`, which need not exist yet.

    Raises:
        RepositoryError: it is not a local path, or not a folder.
    """
    if "://" in place:
        raise RepositoryError(f"repository {place} is not a local folder: export to one and copy it there")
    if Path(place).exists() and not Path(place).is_dir():
        raise RepositoryError(f"repository {place} is not a folder: give another place with --to")
    return Path(place)


def model_name(name: str, direction: str | None) -> str:
    """The artifact's name: `name`, and the direction of a translator after a dash.

    Raises:
        RepositoryError: it could not stand in a path and in a URL.
    """
    full = f"{name}-{direction}" if direction else name
    if not _NAME.fullmatch(full):
        raise RepositoryError(
            f"model name {full!r} may hold letters, digits, '.', '_' and '-' only, and starts with a letter or "
            "digit: give another with --name"
        )
    return full


def publish(repository: Path, bundle: Bundle) -> Path:
    """Make `bundle` the next version of its model and return the artifact's folder.

    The folder is written under a hidden name and renamed: a crash leaves nothing that a server would see, and of
    two exporters at once each gets a version of its own.

    Raises:
        RepositoryError: the repository cannot be written.
    """
    folder = repository / bundle.manifest.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / TRITON_FILE, triton_config(bundle.manifest))
        with tempfile.TemporaryDirectory(prefix=".staging-", dir=folder) as staging:
            # A folder of its own: the temporary one is readable for its owner alone.
            staged = Path(staging) / "artifact"
            staged.mkdir()
            (staged / MODEL_FILE).write_bytes(bundle.model)
            return _rename(staged, folder, bundle)
    except OSError as error:
        raise RepositoryError(f"repository {repository} cannot be written: {error}") from error


def _rename(staged: Path, folder: Path, bundle: Bundle) -> Path:
    digest = hashlib.sha256(bundle.model).hexdigest()
    while True:
        version = max((int(path.name) for path in folder.iterdir() if path.name.isdecimal()), default=0) + 1
        manifest = dataclasses.replace(bundle.manifest, version=version, sha256=digest, nbytes=len(bundle.model))
        (staged / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")
        try:
            return staged.rename(folder / str(version))
        except OSError as error:
            # Another exporter took this version between the look and the rename.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


def _replace(path: Path, text: str) -> None:
    with tempfile.TemporaryDirectory(prefix=".staging-", dir=path.parent) as staging:
        staged = Path(staging) / path.name
        staged.write_text(text, encoding="utf-8")
        staged.replace(path)


def triton_config(manifest: Manifest) -> str:
    """The `config.pbtxt` with which a Triton server loads the model's folder.

    Tensors are declared without their batch axis, and dynamic heights and widths as -1.
    """
    blocks = [f'name: "{manifest.name}"', 'platform: "onnxruntime_onnx"', f"max_batch_size: {_TRITON_MAX_BATCH}"]
    blocks += [_triton_tensor("input", tensor) for tensor in manifest.inputs]
    blocks += [_triton_tensor("output", tensor) for tensor in manifest.outputs]
    return "\n".join([*blocks, "dynamic_batching { }"]) + "\n"


def _triton_tensor(side: str, tensor: Tensor) -> str:
    # Triton leaves the batch axis out of `dims`.
    dims = ", ".join("-1" if isinstance(axis, str) else str(axis) for axis in tensor.shape[1:])
    return f'{side} [ {{ name: "{tensor.name}" data_type: {_TRITON_TYPES[tensor.dtype]} dims: [ {dims} ] }} ]'
