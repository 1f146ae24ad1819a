"""Foreign models from practice: scaled images, written-out norms, wrong ranges, wrapped keys, odd names."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from export.declared import Declared
from export.errors import ImageSetError, ImporterError, RefusedError
from export.importers import base as importers
from export.manifest import read_manifest
from export.pipeline import export
from export.state_dicts.foreign import read_state_dict
from export.targets.onnx_fp16 import decomposed_norms
from serving.batching import Tensors
from serving.local_model import LocalModel
from serving.selftest import verify_artifact
from tests.serving.apps import server
from zorse_common.image_writer import encode
from zorse_common.images import decode


def _scaler(path: Path, scale: int, dtype: str = "float32", spread: float = 1.0) -> str:
    """ESPCN's last layers: a convolution to scale² x 3 channels and DepthToSpace, [b, 3, h, w] in 0..1; open axes."""
    kind = TensorProto.FLOAT16 if dtype == "float16" else TensorProto.FLOAT
    weight = np.zeros((3 * scale**2, 3, 3, 3), dtype)
    for channel in range(3):
        weight[channel * scale**2 : (channel + 1) * scale**2, channel, 1, 1] = spread
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["many"], pads=[1, 1, 1, 1]),
        helper.make_node("DepthToSpace", ["many"], ["y"], blocksize=scale, mode="CRD"),
    ]
    graph = helper.make_graph(
        nodes,
        "scaler",
        [helper.make_tensor_value_info("x", kind, ["b", 3, "h", "w"])],
        [helper.make_tensor_value_info("y", kind, ["b", 3, "H", "W"])],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return str(path)


@pytest.mark.parametrize(("scale", "dtype"), [(2, "float32"), (2, "float16"), (3, "float32")])
def test_foreign_super_resolution_is_proved_verified_and_served(tmp_path: Path, scale: int, dtype: str) -> None:
    place = _scaler(tmp_path / "scaler.onnx", scale, dtype)
    (artifact,) = export(place, str(tmp_path / "r"), declared=Declared((0, 1)), max_size=64)
    manifest = read_manifest(Path(artifact))
    assert (manifest.interface.scale, manifest.interface.kind, manifest.proof.max_grey_diff) == (scale, "translator", 0)
    assert manifest.interface.outputs[0].shape == ("batch", f"height_x{scale}", f"width_x{scale}", 3)
    assert verify_artifact(artifact, "cpu").max_grey_diff == 0
    source = np.random.default_rng(0).integers(0, 256, (17, 23, 3), dtype=np.uint8)
    model = LocalModel.load(artifact, "cpu", threads=1)
    expected = source.repeat(scale, 0).repeat(scale, 1)
    np.testing.assert_array_equal(model.translate(source), expected)

    async def submit(feeds: Tensors, deadline: float | None = None) -> dict[str, np.ndarray]:
        return model._engine.run(feeds)

    with server(manifests=[manifest], submit=submit) as client:
        response = client.post("/v2/models/scaler/translate", content=encode(source))
    np.testing.assert_array_equal(decode(response.content), expected)


def test_wrong_value_range_is_refused(tmp_path: Path) -> None:
    place = _scaler(tmp_path / "bytes.onnx", 1, spread=255.0)
    with pytest.raises(RefusedError) as caught:
        export(place, str(tmp_path / "r"), declared=Declared((0, 1)), max_size=64)
    assert re.search(r"9\d% of its output values lie outside .* check --input-range", str(caught.value))
    assert not (tmp_path / "r").exists()
    declared = Declared((0, 1), output_range=(0, 255))
    assert len(export(place, str(tmp_path / "r"), declared=declared, max_size=64)) == 1


def test_foreign_generator_needs_no_input_range(tmp_path: Path) -> None:
    nodes = [helper.make_node("Tanh", ["z"], ["t"]), helper.make_node("Reshape", ["t", "s"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "generator",
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["b", 48])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 3, 4, 4])],
        [numpy_helper.from_array(np.array([-1, 3, 4, 4]), "s")],
    )
    path = tmp_path / "generator.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    (artifact,) = export(str(path), str(tmp_path / "r"), declared=Declared(output_range=(-1, 1)))
    assert read_manifest(Path(artifact)).interface.kind == "generator"
    with pytest.raises(ImporterError, match="give its --input-range, or of a generator its --output-range"):
        export(str(path), str(tmp_path / "r2"))
    with pytest.raises(ImporterError, match="is a generator, which translates nothing: leave --direction out"):
        export(str(path), str(tmp_path / "r2"), declared=Declared(output_range=(-1, 1)), direction="AtoB")


def test_foreign_conditional_generator_is_refused_with_what_to_do(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["label"], ["c"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["z", "c"], ["a"]),
        helper.make_node("Reshape", ["a", "s"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "generator",
        [
            helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 48]),
            helper.make_tensor_value_info("label", TensorProto.INT64, [1]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 4, 4])],
        [numpy_helper.from_array(np.array([-1, 3, 4, 4]), "s")],
    )
    path = tmp_path / "generator.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    with pytest.raises(ImporterError, match=r"is a conditional generator \(z, label\).* export a file for each class"):
        export(str(path), str(tmp_path / "r"), declared=Declared(output_range=(-1, 1)))


def test_decomposed_norms_are_recognised() -> None:
    names = ("mean", "Sub", "square", "variance", "Add", "Sqrt", "Div")
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], name="mean", axes=[2, 3]),
        helper.make_node("Sub", ["x", "m"], ["d"], name="Sub"),
        helper.make_node("Pow", ["d", "two"], ["p"], name="square"),
        helper.make_node("ReduceMean", ["p"], ["v"], name="variance", axes=[2, 3]),
        helper.make_node("Add", ["v", "eps"], ["a"], name="Add"),
        helper.make_node("Sqrt", ["a"], ["s"], name="Sqrt"),
        helper.make_node("Div", ["d", "s"], ["y"], name="Div"),
        helper.make_node("Div", ["y", "two"], ["z"], name="no norm"),
    ]
    graph = helper.make_graph(nodes, "norm", [], [])
    assert sorted(decomposed_norms(graph)) == sorted(names)


WRAPPED = {
    "plain": "",
    "compiled_ddp": "_orig_mod.module.",
    "ddp_compiled": "module._orig_mod.",
    "fsdp": "_fsdp_wrapped_module.module._orig_mod.module.",
    "member": "netG_A.module.",
}


@pytest.mark.parametrize("prefix", WRAPPED.values(), ids=list(WRAPPED))
def test_state_dict_prefixes_are_removed_in_any_order(tmp_path: Path, prefix: str) -> None:
    state = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 3, 3)).state_dict()
    torch.save({f"{prefix}model.{key}": tensor for key, tensor in state.items()}, tmp_path / "x.pth")
    assert set(read_state_dict(tmp_path / "x.pth").tensors) == {f"model.{key}" for key in state}


def test_unknown_architecture_is_refused_with_what_to_do(tmp_path: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(3, 3)}, tmp_path / "vgg.pth")
    with pytest.raises(ImporterError, match=r"1 tensors \(features.0.weight, …\) .* torch.onnx.export .* --from onnx"):
        importers.recognise(tmp_path / "vgg.pth")


def test_pickle_is_refused_in_one_line_without_torchs_advice(tmp_path: Path) -> None:
    torch.save({"model.1.weight": torch.zeros(2)}, tmp_path / "x.pkl", _use_new_zipfile_serialization=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert set(read_state_dict(tmp_path / "x.pkl").tensors) == {"model.1.weight"}


def test_images_of_one_value_are_refused(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(encode(np.full((32, 32, 3), 255, np.uint8)))
    place = _scaler(tmp_path / "scaler.onnx", 1)
    with pytest.raises(ImageSetError, match="each of the 1 images is of one value, which proves nothing"):
        export(place, str(tmp_path / "r"), declared=Declared((0, 1)), images=str(tmp_path / "images"), max_size=64)
