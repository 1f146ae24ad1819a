"""Choices that cannot be, and what foreign models need of the pipeline."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from export.declared import Declared
from export.errors import ExportError, ImporterError, RefusedError, UnsupportedGraphError
from export.images import ImagePlace, load_images
from export.interface import SizeLimits, TensorSpec
from export.manifest import read_manifest
from export.pipeline import export
from export.pixels import Pixels
from export.targets import base as targets


@pytest.mark.parametrize(
    "pixels",
    [
        ("uint8", 0, 200),
        ("uint8", 5, 5),
        ("uint16", -1, 1),
        ("uint16", 0, 100_000),
        ("uint16", 0.5, 10.2),
        ("float32", 2, 1),
        ("float32", 0, float("inf")),
        ("float32", float("nan"), 1),
    ],
)
def test_pixels_refuse_values_that_the_dtype_does_not_have(pixels: tuple[Any, float, float]) -> None:
    with pytest.raises(UnsupportedGraphError, match=rf"{pixels[0]} images cannot have the values .*--value-range"):
        Pixels(*pixels)


def test_unknown_origin_is_refused_with_the_known_ones(gan: str, tmp_path: Path) -> None:
    with pytest.raises(
        ImporterError, match=r"'tensorflow'; known: auto, snapshot, onnx, cut, dcgan-tutorial, pytorch-cyc"
    ):
        export(gan, str(tmp_path / "r"), origin="tensorflow")


def test_declared_is_refused_for_other_files_than_onnx(gan: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="only ONNX files need to be described"):
        export(gan, str(tmp_path / "r"), declared=Declared((0, 1)))


def _painter(path: Path, *, named: bool, factor: float = 0.2) -> str:
    """A foreign file: three convolutions of open size, 0..1 in and out."""
    random = np.random.default_rng(0)
    weights = {
        f"w{i}": (random.normal(0, factor, (3, 3, 3, 3)) + np.eye(3)[:, :, None, None] / 9).astype(np.float32)
        for i in range(3)
    }
    values = ["x", "a", "b", "y"]
    nodes = [
        helper.make_node(
            "Conv", [values[i], f"w{i}"], [values[i + 1]], name=f"conv{i}" if named else "", pads=[1, 1, 1, 1]
        )
        for i in range(3)
    ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, "h", "w"]) for name in "xy"]
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "painter", ports[:1], ports[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    return str(path)


@pytest.fixture
def colours(tmp_path: Path) -> str:
    folder = tmp_path / "colours"
    folder.mkdir()
    for number in range(4):
        picture = np.random.default_rng(number).integers(60, 200, (8, 8, 3), np.uint8)
        Image.fromarray(picture).resize((64, 64)).save(folder / f"{number}.png")
    return str(folder)


@pytest.mark.parametrize("named", [True, False])
def test_int8_target_quantises_foreign_layers_with_and_without_names(named: bool, colours: str, tmp_path: Path) -> None:
    place = _painter(tmp_path / "painter.onnx", named=named, factor=0.02)
    options: dict[str, Any] = {"origin": "onnx", "declared": Declared((0, 1)), "max_size": 64, "images": colours}
    (artifact,) = export(place, str(tmp_path / "r"), target="onnx-int8", **options)
    operators = [node.op_type for node in onnx.load(f"{artifact}/model.onnx").graph.node]
    assert operators.count("QuantizeLinear") > 1
    assert read_manifest(Path(artifact)).proof.replay_tolerance == targets.find("onnx-int8").replay_tolerance


def _resized(path: Path, *nodes: onnx.NodeProto, **tensors: Any) -> str:
    """A foreign file of open size that does not make images of the size that it is given."""
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, f"{name}h", f"{name}w"]) for name in ("x", "y")
    ]
    weights = [numpy_helper.from_array(np.array(value), name) for name, value in tensors.items()]
    graph = helper.make_graph(list(nodes), "resized", ports[:1], ports[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return str(path)


def test_foreign_translator_must_keep_every_proved_size(tmp_path: Path) -> None:
    crop = _resized(
        tmp_path / "crop.onnx",
        helper.make_node("Slice", ["x", "start", "end", "axes"], ["y"]),
        **{"start": [0, 0], "end": [100, 100], "axes": [2, 3]},
    )
    steps = _resized(
        tmp_path / "steps.onnx",
        helper.make_node("AveragePool", ["x"], ["small"], kernel_shape=[4, 1], strides=[4, 1]),
        helper.make_node("Resize", ["small", "", "scales"], ["y"], mode="nearest"),
        scales=np.array([1, 1, 4, 1], np.float32),
    )
    for place in (crop, steps):
        with pytest.raises(RefusedError) as caught:
            export(place, str(tmp_path / "r"), origin="onnx", declared=Declared((0, 1)), max_size=128)
        assert re.search(r"of images of \d+×\d+ \(height × width\): the size must be kept", str(caught.value))
    assert not (tmp_path / "r").exists()
    declared = Declared((0, 1), size_multiple=4)
    (artifact,) = export(steps, str(tmp_path / "r"), origin="onnx", declared=declared, max_size=128)
    assert read_manifest(Path(artifact)).interface.size == SizeLimits.square(4, 4, 128)


def test_failed_foreign_proof_needs_no_node_names(tmp_path: Path) -> None:
    place = _painter(tmp_path / "painter.onnx", named=False, factor=4000.0)
    with pytest.raises(RefusedError, match="is not proved"):
        export(place, str(tmp_path / "r"), origin="onnx", declared=Declared((0, 1)), target="onnx-fp16", max_size=64)


@pytest.mark.parametrize(("bucket", "message"), [((10**9, 8), "too large to be proved"), ((2**29, 8), "too large")])
def test_bucket_beyond_memory_is_refused(bucket: tuple[int, ...], message: str, gan: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedGraphError, match=message):
        export(gan, str(tmp_path / "r"), buckets=[bucket])


def test_failed_foreign_proof_names_the_layer(tmp_path: Path) -> None:
    place = _painter(tmp_path / "painter.onnx", named=True, factor=40.0)
    with pytest.raises(RefusedError) as caught:
        export(place, str(tmp_path / "r"), origin="onnx", declared=Declared((0, 1)), target="onnx-fp16", max_size=64)
    assert "\n" not in str(caught.value)
    assert "the first layer that diverges is conv" in str(caught.value) or "grey levels from" in str(caught.value)
    assert not (tmp_path / "r").exists()


def test_int8_target_refuses_a_model_without_layers(colours: str, tmp_path: Path) -> None:
    node = helper.make_node("Tanh", ["x"], ["y"], name="tanh")
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, "h", "w"]) for name in "xy"]
    graph = helper.make_graph([node], "tanh", ports[:1], ports[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), tmp_path / "t.onnx")
    with pytest.raises(UnsupportedGraphError, match="no layer of it can be computed in 8-bit integers"):
        export(
            str(tmp_path / "t.onnx"),
            str(tmp_path / "r"),
            origin="onnx",
            declared=Declared((-1, 1)),
            target="onnx-int8",
            images=colours,
            max_size=64,
        )


def test_load_images_reads_the_domain_of_each_direction(tmp_path: Path) -> None:
    port = TensorSpec("source", "uint8", ("batch", "height", "width", 1), "the image", (0, 255))
    for folder, level in (("testA", 10), ("testB", 20), ("trainA", 30)):
        (tmp_path / folder).mkdir()
        for number in range(20):
            Image.fromarray(np.full((8, 8), level + number, np.uint8)).save(tmp_path / folder / f"{number:02}.png")
    levels = {
        domain: [
            int(image[0, 0, 0])
            for image in load_images(ImagePlace(str(tmp_path), domain), port, SizeLimits.square(4, 8, 64), 8, count=4)
        ]
        for domain in ("A", "B")
    }
    assert levels == {"A": [10, 15, 20, 25], "B": [20, 25, 30, 35]}
