"""Tiny artifacts: real graphs of the contract, made with onnx alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.interface import AxisLimits, DType, Interface, Latent, SizeLimits, TensorSpec
from export.manifest import (
    GOLDEN_FILE,
    GREY_LEVELS,
    MANIFEST_FILE,
    MODEL_FILE,
    WEIGHTS_FILE,
    FileEntry,
    Manifest,
    Proof,
    Provenance,
    file_entry,
    golden_key,
    model_properties,
)
from serving.engine import OrtEngine

LATENT_DIM, SIDE = 6, 8
MULTIPLE, MINIMUM, MAXIMUM = 4, 16, 320
Axes = tuple[int | str, ...]
OPEN: Axes = ("batch", "height", "width", 3)


class Pixels(NamedTuple):
    """The dtype of images, and the limits of their value range."""

    dtype: DType
    low: float
    high: float


BYTES, WORDS, REALS = Pixels("uint8", 0, 255), Pixels("uint16", 0, 65535), Pixels("float32", -3, 5)


def generator_graph(pixels: Pixels = BYTES, batch: int | str = "batch", classes: int = 0) -> onnx.ModelProto:
    """latent [batch, 6] (+ one vector for each of `classes`) → MatMul → clip → image [batch, 8, 8, 3]."""
    step = (pixels.high - pixels.low) / GREY_LEVELS
    weight = np.random.default_rng(0).normal(128 * step, 60 * step, (LATENT_DIM, SIDE * SIDE * 3)).astype(np.float32)
    embedding = [
        helper.make_node("Gather", ["vectors", "label"], ["vector"]),
        helper.make_node("Add", ["latent", "vector"], ["code"]),
    ]
    nodes = [
        *(embedding if classes else []),
        helper.make_node("MatMul", ["code" if classes else "latent", "weight"], ["flat"]),
        helper.make_node("Clip", ["flat", "low", "high"], ["clipped"]),
        helper.make_node("Cast", ["clipped"], ["stored"], to=_onnx_type(pixels.dtype)),
        helper.make_node("Reshape", ["stored", "shape"], ["image"]),
    ]
    constants = {
        "weight": weight,
        "low": np.float32(pixels.low),
        "high": np.float32(pixels.high),
        "shape": np.array([-1, SIDE, SIDE, 3], dtype=np.int64),
    }
    if classes:
        constants["vectors"] = np.random.default_rng(1).standard_normal((classes, LATENT_DIM), dtype=np.float32)
    label = helper.make_tensor_value_info("label", TensorProto.INT64, [batch])
    return model(
        nodes,
        constants,
        helper.make_tensor_value_info("latent", TensorProto.FLOAT, [batch, LATENT_DIM]),
        helper.make_tensor_value_info("image", _onnx_type(pixels.dtype), [batch, SIDE, SIDE, 3]),
        *([label] if classes else []),
    )


def inverter_graph(pixels: Pixels = BYTES, axes: Axes = OPEN, scale: int = 1) -> onnx.ModelProto:
    """source [batch, height, width, 3] → low + high - source, by way of float, each pixel `scale` times."""
    nearest = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    nodes = [
        helper.make_node("Cast", ["source"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["ends", "float"], ["inverted"]),
        *([helper.make_node("Resize", ["inverted", "", "scales"], ["large"], **nearest)] if scale > 1 else []),
        helper.make_node("Cast", ["large" if scale > 1 else "inverted"], ["image"], to=_onnx_type(pixels.dtype)),
    ]
    constants = {"ends": np.float32(pixels.low + pixels.high), "scales": np.array([1, scale, scale, 1], np.float32)}
    return model(
        nodes,
        constants,
        helper.make_tensor_value_info("source", _onnx_type(pixels.dtype), axes),
        helper.make_tensor_value_info("image", _onnx_type(pixels.dtype), _scaled(axes, scale)),
    )


def slow_graph() -> onnx.ModelProto:
    """source → 255 - source as `inverter_graph`, with four million multiplications more for each pixel."""
    graph = inverter_graph()
    width, layers = 512, 16
    nodes = [
        helper.make_node("Reshape", ["float", "pixels"], ["layer0"]),
        helper.make_node("MatMul", ["layer0", "widen"], ["layer1"]),
        *(
            helper.make_node("MatMul", [f"layer{number}", "square"], [f"layer{number + 1}"])
            for number in range(1, layers)
        ),
        helper.make_node("ReduceMax", [f"layer{layers}"], ["zero"], keepdims=0),
    ]
    constants = {
        "pixels": np.array([-1, 3], np.int64),
        "widen": np.zeros((3, width), np.float32),
        "square": np.ones((width, width), np.float32),
    }
    cast, subtract, store = graph.graph.node
    subtract.input[0] = "raised"
    del graph.graph.node[:]
    raised = helper.make_node("Add", ["ends", "zero"], ["raised"])
    graph.graph.node.extend([cast, *nodes, raised, subtract, store])
    graph.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    return graph


def deadly_graph() -> onnx.ModelProto:
    """source → 255 - source as `inverter_graph`; a black image kills the process: the lowest int64 is divided by -1."""
    graph = inverter_graph()
    cast, subtract, store = graph.graph.node
    nodes = [
        helper.make_node("Cast", ["source"], ["integer"], to=TensorProto.INT64),
        helper.make_node("ReduceMax", ["integer", "axes"], ["brightest"], keepdims=1),
        helper.make_node("Sub", ["brightest", "one"], ["divisor"]),
        helper.make_node("Div", ["lowest", "divisor"], ["quotient"]),
        helper.make_node("Cast", ["quotient"], ["large"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["large", "zero"], ["nothing"]),
        helper.make_node("Add", ["ends", "nothing"], ["raised"]),
    ]
    constants = {
        "axes": np.array([1, 2, 3], np.int64),
        "one": np.array(1, np.int64),
        "lowest": np.array(np.iinfo(np.int64).min),
        "zero": np.float32(0),
    }
    subtract.input[0] = "raised"
    del graph.graph.node[:]
    graph.graph.node.extend([*nodes, cast, subtract, store])
    graph.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items())
    return graph


def generator_manifest(
    name: str = "digits", version: int = 1, pixels: Pixels = BYTES, batch: int | str = "batch"
) -> Manifest:
    """Return the manifest of `generator_graph`, without its files."""
    return _manifest(
        name,
        version,
        Interface(
            "generator",
            inputs=(TensorSpec("latent", "float32", (batch, LATENT_DIM), "code"),),
            outputs=(TensorSpec("image", pixels.dtype, (batch, SIDE, SIDE, 3), "image", (pixels.low, pixels.high)),),
            latent=Latent(LATENT_DIM),
        ),
    )


def inverter_manifest(name: str = "invert", version: int = 1, pixels: Pixels = BYTES, axes: Axes = OPEN) -> Manifest:
    """Return the manifest of `inverter_graph`, without its files."""
    return _manifest(
        name,
        version,
        Interface(
            "translator",
            inputs=(TensorSpec("source", pixels.dtype, axes, "image", (pixels.low, pixels.high)),),
            outputs=(TensorSpec("image", pixels.dtype, axes, "image", (pixels.low, pixels.high)),),
            size=SizeLimits(*(_axis_limits(axis) for axis in axes[1:3])),
        ),
        direction="AtoB",
    )


def with_interface(manifest: Manifest, **fields: Any) -> Manifest:
    """Return `manifest` with other fields in its interface."""
    return dataclasses.replace(manifest, interface=dataclasses.replace(manifest.interface, **fields))


def conditional_manifest(name: str = "classes", labels: tuple[str, ...] = ("cat", "dog", "owl")) -> Manifest:
    """Return the manifest of a `generator_graph` with a class for each of `labels`, without its files."""
    generator = generator_manifest(name)
    label = TensorSpec("label", "int64", ("batch",), "class", (0, len(labels) - 1))
    return with_interface(generator, inputs=(*generator.interface.inputs, label), labels=labels)


def upscaler_manifest(name: str = "upscale", scale: int = 2) -> Manifest:
    """Return the manifest of an `inverter_graph` with `scale`, without its files."""
    output = TensorSpec("image", "uint8", _scaled(OPEN, scale), "image", (0, 255))
    return with_interface(inverter_manifest(name), outputs=(output,), scale=scale)


def write(repository: Path, graph: onnx.ModelProto, manifest: Manifest, *, weights_apart: bool = False) -> Path:
    """Write the proved artifact `<repository>/<name>/<version>/`, with the weights apart or not."""
    folder = repository / manifest.name / str(manifest.version)
    folder.mkdir(parents=True)
    described = onnx.ModelProto()
    described.CopyFrom(graph)
    properties = model_properties(manifest, manifest.target)
    helper.set_model_props(described, {f"zorse.{key}": value for key, value in properties.items()})
    path = folder / MODEL_FILE
    onnx.save(described, path, save_as_external_data=weights_apart, location=WEIGHTS_FILE, size_threshold=1024)
    feeds = sample_feeds(manifest)
    arrays = {golden_key("input", 0, name): array for name, array in feeds.items()}
    arrays[golden_key("output", 0, "image")] = OrtEngine(path, "cpu", 1).run(feeds)["image"]
    np.savez(folder / GOLDEN_FILE, allow_pickle=False, **arrays)
    write_manifest(folder, manifest)
    return folder


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest` with the digests of the files in `folder`."""
    there = [name for name in (MODEL_FILE, WEIGHTS_FILE, GOLDEN_FILE) if (folder / name).exists()]
    whole = dataclasses.replace(manifest, files={name: file_entry(folder / name) for name in there})
    (folder / MANIFEST_FILE).write_text(whole.to_json(), encoding="utf-8")


def sample_feeds(manifest: Manifest, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Return seeded inputs of the model: two rows, or as many as its fixed batch has."""
    random, free = np.random.default_rng(seed), {"batch": 2, "height": 2 * MINIMUM, "width": MINIMUM}
    feeds: dict[str, NDArray[Any]] = {}
    for spec in manifest.interface.inputs:
        shape = [free[axis] if isinstance(axis, str) else axis for axis in spec.shape]
        if spec.value_range is None:
            feeds[spec.name] = random.standard_normal(shape, dtype=np.float32)
        else:
            feeds[spec.name] = random.uniform(*spec.value_range, shape).astype(spec.dtype)
    return feeds


def write_repository(repository: Path) -> Path:
    """Write a repository with the generator `digits` and the translator `invert`."""
    write(repository, generator_graph(), generator_manifest())
    write(repository, inverter_graph(), inverter_manifest())
    return repository


def model(
    nodes: list[onnx.NodeProto],
    constants: dict[str, Any],
    source: onnx.ValueInfoProto,
    target: onnx.ValueInfoProto,
    *more_sources: onnx.ValueInfoProto,
) -> onnx.ModelProto:
    """Return the model of one graph with one output."""
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "tiny", [source, *more_sources], [target], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _onnx_type(dtype: str) -> int:
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def _scaled(axes: Axes, scale: int) -> Axes:
    batch, *sizes, channels = axes
    if scale == 1:
        return axes
    return batch, *(axis * scale if isinstance(axis, int) else f"{axis}_x{scale}" for axis in sizes), channels


def _axis_limits(axis: int | str) -> AxisLimits:
    return AxisLimits(axis, axis, axis) if isinstance(axis, int) else AxisLimits(MULTIPLE, MINIMUM, MAXIMUM)


def _manifest(name: str, version: int, interface: Interface, **fields: Any) -> Manifest:
    return Manifest(
        name=name,
        version=version,
        interface=interface,
        task="gan",
        target="onnx",
        opset=20,
        files=dict.fromkeys((MODEL_FILE, GOLDEN_FILE), FileEntry("", 0)),
        nodes=0,
        graph_digest="",
        weights_digest="",
        provenance=Provenance("snapshot", "cafe", "generator", 1280),
        proof=Proof(1, 1, 0, 0, None, (), 0, "", ""),
        **fields,
    )
