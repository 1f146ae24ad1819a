"""Tiny artifacts: real graphs of the contract, made with onnx alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.manifest import (
    MANIFEST_FILE,
    MODEL_FILE,
    Latent,
    Manifest,
    Proof,
    SizeLimits,
    Source,
    Tensor,
    file_digest,
)

LATENT_DIM, SIDE = 6, 8
MULTIPLE, MINIMUM, MAXIMUM = 4, 16, 320


def generator_graph() -> onnx.ModelProto:
    """latent [batch, 6] → MatMul → clip → uint8 [batch, 8, 8, 3]."""
    weight = np.random.default_rng(0).normal(128, 60, (LATENT_DIM, SIDE * SIDE * 3)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["latent", "weight"], ["flat"]),
        helper.make_node("Clip", ["flat", "low", "high"], ["clipped"]),
        helper.make_node("Cast", ["clipped"], ["bytes"], to=TensorProto.UINT8),
        helper.make_node("Reshape", ["bytes", "shape"], ["image"]),
    ]
    constants = {
        "weight": weight,
        "low": np.float32(0),
        "high": np.float32(255),
        "shape": np.array([-1, SIDE, SIDE, 3], dtype=np.int64),
    }
    return _model(
        nodes,
        constants,
        helper.make_tensor_value_info("latent", TensorProto.FLOAT, ["batch", LATENT_DIM]),
        helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", SIDE, SIDE, 3]),
    )


def inverter_graph() -> onnx.ModelProto:
    """source uint8 [batch, height, width, 3] → 255 - source, by way of float."""
    nodes = [
        helper.make_node("Cast", ["source"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["white", "float"], ["inverted"]),
        helper.make_node("Cast", ["inverted"], ["image"], to=TensorProto.UINT8),
    ]
    axes = ["batch", "height", "width", 3]
    return _model(
        nodes,
        {"white": np.float32(255)},
        helper.make_tensor_value_info("source", TensorProto.UINT8, axes),
        helper.make_tensor_value_info("image", TensorProto.UINT8, axes),
    )


def generator_manifest(name: str = "digits", version: int = 1) -> Manifest:
    """The manifest of `generator_graph`, without a digest."""
    return _manifest(
        name,
        version,
        kind="generator",
        inputs=(Tensor("latent", "float32", ("batch", LATENT_DIM), "code"),),
        outputs=(Tensor("image", "uint8", ("batch", SIDE, SIDE, 3), "image", (0, 255)),),
        latent=Latent(LATENT_DIM),
    )


def inverter_manifest(name: str = "invert", version: int = 1) -> Manifest:
    """The manifest of `inverter_graph`, without a digest."""
    axes = ("batch", "height", "width", 3)
    return _manifest(
        name,
        version,
        kind="translator",
        inputs=(Tensor("source", "uint8", axes, "image", (0, 255)),),
        outputs=(Tensor("image", "uint8", axes, "image", (0, 255)),),
        size=SizeLimits(MULTIPLE, MINIMUM, MAXIMUM),
    )


def write(repository: Path, graph: onnx.ModelProto, manifest: Manifest) -> Path:
    """Write an artifact `<repository>/<name>/<version>/` with the right digest; its folder."""
    folder = repository / manifest.name / str(manifest.version)
    folder.mkdir(parents=True)
    model = folder / MODEL_FILE
    onnx.save(graph, model)
    whole = Manifest(
        **{
            **{name: getattr(manifest, name) for name in manifest.__dataclass_fields__},
            "sha256": file_digest(model),
            "nbytes": model.stat().st_size,
        }
    )
    (folder / MANIFEST_FILE).write_text(whole.to_json(), encoding="utf-8")
    return folder


def write_repository(repository: Path) -> Path:
    """A repository with the generator `digits` and the translator `invert`."""
    write(repository, generator_graph(), generator_manifest())
    write(repository, inverter_graph(), inverter_manifest())
    return repository


def _model(
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    source: onnx.ValueInfoProto,
    target: onnx.ValueInfoProto,
) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "tiny", [source], [target], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _manifest(name: str, version: int, **fields: object) -> Manifest:
    return Manifest(
        name=name,
        version=version,
        task="gan",
        target="onnx",
        opset=20,
        sha256="",
        nbytes=0,
        source=Source("", 0, False, "generator"),
        proof=Proof(0, None, (), 0, "", ""),
        **fields,  # type: ignore[arg-type]
    )
