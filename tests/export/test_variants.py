"""Other pixels, sizes, operator sets, fixed shapes and origins, each from end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.declared import Declared
from export.errors import ExportError, ImporterError, UnsupportedGraphError
from export.graph import OPSETS
from export.interface import SizeLimits
from export.manifest import MODEL_FILE, Manifest, digest, read_manifest
from export.pipeline import export
from export.pixels import Pixels
from tests.export.networks import LARGEST, smooth
from tests.export.published import resnet, run_resnet
from trainer.snapshot import read_snapshot

WORDS, REALS = Pixels("uint16", 0, 4095), Pixels("float32", -2.0, 6.0)


def _exported(place: str | Path, folder: Path, **options: Any) -> tuple[Manifest, Path]:
    (artifact,) = export(str(place), str(folder / "repository"), **options)
    return read_manifest(Path(artifact)), Path(artifact)


def _run(artifact: Path, given: NDArray[Any]) -> NDArray[Any]:
    session = onnxruntime.InferenceSession(artifact / MODEL_FILE, providers=["CPUExecutionProvider"])
    image: NDArray[Any] = session.run(None, {session.get_inputs()[0].name: given})[0]
    return image


@pytest.mark.parametrize("pixels", [WORDS, REALS], ids=["uint16", "float32"])
def test_translator_of_other_pixels_is_exported(pixels: Pixels, translator: str, tmp_path: Path) -> None:
    (tmp_path / "arrays").mkdir()
    source = (smooth(2, 24, 32) * (pixels.high - pixels.low) + pixels.low).astype(pixels.dtype)
    for index, array in enumerate(source):
        np.save(tmp_path / "arrays" / f"{index}.npy", array)
    manifest, artifact = _exported(
        translator, tmp_path, pixels=pixels, max_size=LARGEST, images=str(tmp_path / "arrays")
    )
    for port in (*manifest.interface.inputs, *manifest.interface.outputs):
        assert (port.dtype, port.value_range) == (pixels.dtype, (pixels.low, pixels.high))
    assert manifest.proof.real_images == 2
    assert (1, 24, 32, 3) in manifest.proof.shapes
    assert manifest.proof.max_grey_diff <= 1
    half = (pixels.high - pixels.low) / 2
    with torch.no_grad():
        given = torch.from_numpy(((source.astype(np.float32) - pixels.low) / half - 1).transpose(0, 3, 1, 2))
        values = read_snapshot(translator).build("G")(given).numpy().transpose(0, 2, 3, 1)
    expected = (values + 1) * half + pixels.low
    image = _run(artifact, source)
    assert image.dtype == pixels.dtype
    assert image.std() > half / 10
    assert np.abs(image.astype(float) - np.clip(expected, pixels.low, pixels.high)).max() <= half / 255 + pixels.whole


def test_generator_of_other_pixels_is_exported(gan: str, generator: Path, tmp_path: Path) -> None:
    manifest, artifact = _exported(gan, tmp_path, pixels=WORDS)
    assert (manifest.interface.inputs[0].dtype, manifest.interface.inputs[0].value_range) == ("float32", None)
    assert (manifest.interface.outputs[0].dtype, manifest.interface.outputs[0].value_range) == ("uint16", (0, 4095))
    codes = np.random.default_rng(0).standard_normal((2, 8), dtype=np.float32)
    words, levels = _run(artifact, codes), _run(generator, codes)
    assert words.max() > 255
    assert np.abs(words / 4095 * 255 - levels).max() < 0.6


@pytest.mark.parametrize("target", ["onnx-fp16", "onnx-int8"])
def test_other_targets_go_through_the_same_pipeline(
    target: str, translator: str, pictures: Path, tmp_path: Path
) -> None:
    manifest, artifact = _exported(translator, tmp_path, target=target, images=str(pictures), max_size=LARGEST)
    assert manifest.target == target
    assert manifest.interface.size is not None
    smallest = {"onnx-fp16": 16, "onnx-int8": 32}[target]
    assert manifest.interface.size.smallest == (smallest, smallest)
    assert all(min(shape[1:3]) >= smallest for shape in manifest.proof.shapes if shape != (1, 24, 32, 3))
    source = np.round(smooth(2, 32, 40, seed=5) * 255).astype(np.uint8)
    with torch.no_grad():
        given = torch.from_numpy(source.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1)
        values = read_snapshot(translator).build("G")(given).numpy().transpose(0, 2, 3, 1)
    differences = np.abs(_run(artifact, source) - (values + 1) * 127.5)
    assert differences.max() <= manifest.proof.tolerance + 0.5
    assert 0 < differences.mean() < {"onnx-fp16": 0.5, "onnx-int8": 8}[target]


@pytest.mark.parametrize("opset", [18, 21, 23])
def test_opset_can_be_chosen(opset: int, gan: str, tmp_path: Path) -> None:
    manifest, artifact = _exported(gan, tmp_path, opset=opset)
    assert manifest.opset == opset
    found = {entry.domain: entry.version for entry in onnx.load(artifact / MODEL_FILE).opset_import}
    assert found[""] == opset


@pytest.mark.parametrize("opset", [7, OPSETS.start - 1, OPSETS.stop])
def test_unsupported_opset_is_refused(opset: int, gan: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=rf"opset {opset} is none of 18 to 23: give another --opset"):
        _exported(gan, tmp_path, opset=opset)
    assert not (tmp_path / "repository").exists()


def test_largest_size_is_declared_and_proved(translator: str, tmp_path: Path) -> None:
    manifest, _ = _exported(translator, tmp_path, max_size=51)
    assert manifest.interface.size is not None
    assert manifest.interface.size.largest == (48, 48)
    assert (1, 48, 48, 3) in manifest.proof.shapes
    assert max(shape[1] for shape in manifest.proof.shapes) == 48


@pytest.mark.parametrize("bucket", [(2, 16, 24), (2, 16, 24, 1), (2, 15, 24, 3), (2, 16, 52, 3), (0, 16, 24, 3)])
def test_bucket_that_is_no_legal_input_is_refused(bucket: tuple[int, ...], translator: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedGraphError, match=r"is no legal input of toy-AtoB, which takes batch x height x w"):
        _exported(translator, tmp_path, max_size=LARGEST, buckets=[bucket])
    assert not (tmp_path / "repository").exists()


def test_generator_has_buckets(gan: str, tmp_path: Path) -> None:
    manifest, _ = _exported(gan, tmp_path, buckets=[(5, 8), (16, 8)])
    assert manifest.buckets == ((5, 8), (16, 8))
    assert {(5, 8), (16, 8)} <= set(manifest.proof.shapes)
    with pytest.raises(UnsupportedGraphError, match="bucket 5x9 is no legal input of toy, which takes batch x 8"):
        _exported(gan, tmp_path, buckets=[(5, 9)])


def _foreign(path: Path, *middle: onnx.NodeProto) -> Path:
    """A translator as exporters wrote it for opset 9: NCHW, numbers in 0..255, images of 256 x 256 only."""
    noise = np.random.default_rng(0).standard_normal
    weights = {
        "middle": np.float32(127.5),
        "first": noise((4, 3, 3, 3)).astype(np.float32),
        "scale": np.ones(4, np.float32),
        "bias": np.zeros(4, np.float32),
        "last": (noise((3, 4, 3, 3)) / 4).astype(np.float32),
    }
    around = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Sub", ["x", "middle"], ["centred"], name="centre"),
        helper.make_node("Div", ["centred", "middle"], ["small"], name="shrink"),
        helper.make_node("Conv", ["small", "first"], ["found"], name="first", **around),
        helper.make_node("InstanceNormalization", ["found", "scale", "bias"], ["even"], name="norm"),
        helper.make_node("Relu", ["even"], ["bent"], name="bend"),
        *middle,
        helper.make_node(
            "Conv", [middle[-1].output[0] if middle else "bent", "last"], ["drawn"], name="last", **around
        ),
        helper.make_node("Tanh", ["drawn"], ["squashed"], name="squash"),
        helper.make_node("Mul", ["squashed", "middle"], ["wide"], name="widen"),
        helper.make_node("Add", ["wide", "middle"], ["y"], name="lift"),
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 3, 256, 256)) for name in ("x", "y")]
    # Of so old a file every initializer is an input too.
    inputs = [ports[0], *(helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in tensors)]
    graph = helper.make_graph(nodes, "graph", inputs, ports[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=3), path)
    return path


@pytest.mark.parametrize("target", ["onnx", "onnx-fp16"])
def test_old_foreign_model_of_one_size_is_exported(target: str, tmp_path: Path) -> None:
    path = _foreign(tmp_path / "painter.onnx")
    manifest, artifact = _exported(path, tmp_path, origin="onnx", declared=Declared((0, 255)), target=target)
    assert (manifest.name, manifest.task, manifest.interface.kind, manifest.target) == (
        "painter",
        "foreign",
        "translator",
        target,
    )
    assert (manifest.provenance.format, manifest.provenance.digest) == ("onnx", digest(path.read_bytes()))
    assert manifest.interface.size == SizeLimits.square(256, 256, 256)
    assert manifest.interface.inputs[0].shape == manifest.interface.outputs[0].shape == ("batch", 256, 256, 3)
    assert manifest.opset == 20
    assert manifest.proof.reference.startswith("the original in onnxruntime")
    assert manifest.proof.max_grey_diff <= (1 if target == "onnx" else 2)
    source = np.round(smooth(2, 256, 256, seed=3) * 255).astype(np.uint8)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    made = [session.run(None, {"x": one[None].transpose(0, 3, 1, 2).astype(np.float32)})[0] for one in source]
    expected = np.concatenate(made).transpose(0, 2, 3, 1)
    assert expected.std() > 20
    assert np.abs(_run(artifact, source) - expected).max() <= (1 if target == "onnx" else 2.5)
    if target == "onnx-fp16":
        types = {tensor.name: tensor.data_type for tensor in onnx.load(artifact / MODEL_FILE).graph.initializer}
        assert types["first"] == types["last"] == TensorProto.FLOAT16
        assert {kind for name, kind in types.items() if name.startswith("zorse_")} == {TensorProto.FLOAT}


def test_foreign_model_may_keep_inactive_dropout(tmp_path: Path) -> None:
    path = _foreign(tmp_path / "painter.onnx", helper.make_node("Dropout", ["bent"], ["kept"], name="dropout"))
    manifest, _ = _exported(path, tmp_path, origin="onnx", declared=Declared((0, 255)))
    assert manifest.proof.max_grey_diff <= 1


def test_foreign_file_must_be_declared(tmp_path: Path) -> None:
    path = _foreign(tmp_path / "painter.onnx")
    with pytest.raises(ImporterError, match="give its --input-range"):
        _exported(path, tmp_path, origin="onnx")
    with pytest.raises(ImporterError, match="an ONNX file is wrapped to take bytes"):
        _exported(path, tmp_path, origin="onnx", declared=Declared((0, 255)), pixels=WORDS)
    assert not (tmp_path / "repository").exists()


def test_published_checkpoint_becomes_an_artifact(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = resnet(1, norm="batch")
    (tmp_path / "horses").mkdir()
    torch.save(state, tmp_path / "horses" / "latest_net_G_A.pth")
    manifest, artifact = _exported(
        tmp_path / "horses" / "latest_net_G_A.pth", tmp_path, origin="pytorch-cyclegan", max_size=LARGEST
    )
    assert (manifest.name, manifest.direction, manifest.task) == ("horses-AtoB", "AtoB", "cyclegan")
    assert manifest.provenance.format == "pytorch-cyclegan"
    assert manifest.provenance.digest == digest((tmp_path / "horses" / "latest_net_G_A.pth").read_bytes())
    assert manifest.provenance.config == {}
    assert (manifest.interface.inputs[0].shape[-1], manifest.interface.outputs[0].shape[-1]) == (3, 2)
    source = np.round(smooth(1, 32, 24) * 255).astype(np.uint8)
    given = torch.from_numpy(source.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1)
    expected = (run_resnet(state, "batch", given)[-1].numpy().transpose(0, 2, 3, 1) + 1) * 127.5
    assert expected.std() > 10
    assert np.abs(_run(artifact, source) - expected).max() <= 1
