"""Every exportable architecture passes its proof with every target; the graph computes what the contract says."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from export import graph
from export.manifest import GOLDEN_FILE, MODEL_FILE, Proof, read_manifest
from export.pipeline import prove
from export.proof_inputs import proof_inputs
from export.targets import base as targets
from tests.export.networks import EXPORTABLE, LARGEST, SIDE, converted, smooth, under_test
from trainer.snapshot import read_snapshot

PROMISED = {"onnx": (1, 45), "onnx-fp16": (2, 45), "onnx-int8": (48, 36)}
"""The most grey levels between torch and onnxruntime, and the least PSNR in dB, by target."""


@functools.cache
def _proved(name: str, target_name: str) -> tuple[onnx.ModelProto, Proof, list[NDArray[Any]]]:
    """The model, its proof, and the images of the golden sample."""
    target = targets.find(target_name)
    traceable, model = converted(name)
    against = under_test(traceable, model, target)
    pictures = []
    if traceable.interface.size is not None:
        channels = int(traceable.interface.inputs[0].shape[-1])
        pictures = [np.round(one * 255).astype(np.uint8) for one in smooth(8, SIDE, LARGEST, channels, seed=1)]
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "staged"
        manifest = prove(against, target, pictures, (), "cuda", folder)
        with np.load(folder / GOLDEN_FILE) as golden:
            made = [array for key, array in golden.items() if key.startswith("output")]
        return onnx.load(folder / MODEL_FILE), manifest.proof, made


def test_targets_allow_no_more_than_was_promised() -> None:
    promises = {name: targets.find(name) for name in targets.names()}
    assert {name: (max(1, it.tolerance), it.min_psnr) for name, it in promises.items()} == PROMISED


@pytest.mark.parametrize("target", targets.names())
@pytest.mark.parametrize("name", EXPORTABLE)
def test_architectures_are_proved_with_every_target(name: str, target: str) -> None:
    (model, proof, golden), (most, least) = _proved(name, target), PROMISED[target]
    assert proof.p999_grey_diff <= proof.max_grey_diff <= most
    assert proof.psnr is None or proof.psnr >= least
    assert proof.tolerance == most
    assert len(proof.shapes) >= 3
    assert {shape[0] for shape in proof.shapes} >= {1, 3}
    assert not graph.faults(model, "cuda")
    assert not graph.shape_arithmetic(model)
    if converted(name)[0].interface.size is not None:
        assert proof.real_images == (4 if target == "onnx-int8" else 8)
        assert any(height != width for _, height, width, _ in proof.shapes)
        assert (1, LARGEST, LARGEST, 3) in proof.shapes
    assert all(made.std() > 20 for made in golden if len(made) > 1), "it makes flat images"


@pytest.mark.parametrize("name", EXPORTABLE)
def test_targets_are_what_their_names_say(name: str) -> None:
    whole, half, eighth = (_types(_proved(name, target)[0]) for target in ("onnx", "onnx-fp16", "onnx-int8"))
    assert onnx.TensorProto.FLOAT in whole
    assert not whole & {onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8}
    assert onnx.TensorProto.FLOAT16 in half
    assert onnx.TensorProto.INT8 in eighth


def _types(model: onnx.ModelProto) -> set[int]:
    """The types of the weights that are more than a handful."""
    return {tensor.data_type for tensor in model.graph.initializer if np.prod(tensor.dims) > 16}


def test_translators_are_proved_on_other_sizes_than_in_training() -> None:
    traceable, model = converted("resnet_generator")
    sizes = [feeds["source"].shape[1:3] for feeds in proof_inputs(under_test(traceable, model))]
    assert traceable.interface.size is not None
    assert {(SIDE, SIDE), traceable.interface.size.smallest, traceable.interface.size.largest} <= set(sizes)
    assert any(height < width for height, width in sizes)
    assert any(height > width for height, width in sizes)


def test_proof_inputs_are_the_same_every_time() -> None:
    against = under_test(*converted("dcgan_generator"))
    assert [feeds["latent"].shape for feeds in proof_inputs(against)] == [(1, 8), (3, 8), (16, 8)]
    for one, two in zip(proof_inputs(against), proof_inputs(against), strict=True):
        np.testing.assert_array_equal(one["latent"], two["latent"])


def test_translator_graph_is_the_contract_written_out() -> None:
    traceable, model = converted("resnet_generator")
    source = np.random.default_rng(1).integers(0, 256, (2, 16, 24, 3), dtype=np.uint8)
    with torch.no_grad():
        values = traceable.graph.network(
            torch.from_numpy(source.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1)
        ).numpy()
    expected = np.clip(np.round((values + 1) * 127.5), 0, 255).transpose(0, 2, 3, 1)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (image,) = session.run(["image"], {"source": source})
    assert image.dtype == np.uint8
    assert np.abs(image.astype(np.int16) - expected).max() <= 1


def test_model_has_clean_axes_and_no_machine_paths() -> None:
    model = converted("resnet_generator")[1]
    for value in (*model.graph.input, *model.graph.output):
        axes = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        assert axes == ["batch", "height", "width", 3]
    assert [entry.version for entry in model.opset_import] == [20]
    assert b".py" not in model.SerializeToString()


def test_nodes_are_named_for_their_layers() -> None:
    traceable, model = converted("resnet_generator")
    layers = dict(traceable.graph.network.named_modules())
    operators = {"Conv": torch.nn.Conv2d, "ConvTranspose": torch.nn.ConvTranspose2d, "Tanh": torch.nn.Tanh}
    for node in model.graph.node:
        layer = node.name.rpartition("/")[0]
        assert layer == "image" or layer in layers
        if node.op_type in operators:
            assert isinstance(layers[layer], operators[node.op_type])
    names = [node.name for node in model.graph.node]
    assert len(names) == len(set(names))


def test_generator_artifact_makes_the_images_of_the_snapshot(gan: str, generator: Path) -> None:
    latent = np.random.default_rng(2).standard_normal((5, 8), dtype=np.float32)
    with torch.no_grad():
        values = read_snapshot(gan).build("generator")(torch.from_numpy(latent)).numpy()
    expected = np.clip(np.round((values + 1) * 127.5), 0, 255).transpose(0, 2, 3, 1)
    session = onnxruntime.InferenceSession(generator / MODEL_FILE, providers=["CPUExecutionProvider"])
    (image,) = session.run(["image"], {"latent": latent})
    assert image.shape == (5, 16, 16, 3)
    assert expected.std() > 20
    assert np.abs(image.astype(np.int16) - expected).max() <= 1


def test_model_file_has_its_provenance(gan: str, generator: Path) -> None:
    facts = {entry.key: entry.value for entry in onnx.load(generator / MODEL_FILE).metadata_props}
    assert facts == {
        "zorse.schema_version": "1",
        "zorse.name": "toy",
        "zorse.task": "gan",
        "zorse.kind": "generator",
        "zorse.target": "onnx",
        "zorse.network": "generator",
        "zorse.source_digest": read_snapshot(gan).digest,
        "zorse.images_seen": "640",
        "zorse.value_range": "0..255",
    }
    assert read_manifest(generator).provenance.digest == facts["zorse.source_digest"]
