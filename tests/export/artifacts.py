"""Artifacts of a few bytes for repositories, which do not look into the files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from export.interface import Interface, Latent, TensorSpec
from export.manifest import FileEntry, Manifest, Proof, Provenance, digest
from export.repository import Repository
from export.triton import triton_config

FILES = {"model.onnx": b"a graph", "model.onnx.data": b"its weights" * 1000, "golden.npz": b"what it made"}
UPLOAD = """
import sys

from export.repository import Repository

def report(name: str, nbytes: int) -> None:
    if name == sys.argv[3]:
        print("in the middle", flush=True)
        sys.stdin.read()

Repository(sys.argv[1]).copy("digits", 1, Repository(sys.argv[2]), progress=report)
"""
"""A program that copies `digits` 1 from one place to another, and in the middle of a file says so and waits."""


def stage(folder: Path, files: dict[str, bytes] | None = None) -> Path:
    """Write `files` into the new or old `folder`, and return that."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (files or FILES).items():
        (folder / name).write_bytes(content)
    return folder


def manifest(staged: Path, *, files: dict[str, bytes] | None = None, **fields: Any) -> Manifest:
    """The manifest of a generator `digits` with `files`, or those in `staged`, and other `fields` where given."""
    contents = files or {name: (staged / name).read_bytes() for name in FILES}
    plain = Manifest(
        name="digits",
        version=0,
        task="gan",
        target="onnx",
        opset=20,
        nodes=12,
        interface=Interface(
            "generator",
            inputs=(TensorSpec("latent", "float32", ("batch", 8), "the code"),),
            outputs=(TensorSpec("image", "uint8", ("batch", 16, 16, 1), "the image", (0.0, 255.0)),),
            latent=Latent(8),
        ),
        files={name: FileEntry(digest(content), len(content)) for name, content in contents.items()},
        graph_digest="aa",
        weights_digest="bb",
        provenance=Provenance("snapshot", "cc", "generator", 1280, True),
        proof=Proof(1.0, 1.0, 1.0, 0.0, 61.5, ((1, 8), (3, 8)), 0, "1.31.1", "torch 2.13.0"),
        metrics={"fid": 12.5},
        licence="CC0",
    )
    return dataclasses.replace(plain, **fields)


def add(repository: Repository, scratch: Path, **fields: Any) -> int:
    """Add one more version of `digits` to `repository`, with other `fields` where given; its number."""
    staged = stage(scratch / "staged")
    return repository.add(staged, manifest(staged, **fields))


def tree(folder: Path) -> dict[str, bytes]:
    """The files in `folder` and below, and their content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


TRITON = triton_config(manifest(Path(), files=FILES))
"""The content of the model's `config.pbtxt`."""
