"""Every exportable architecture passes its proof with every target; the graph computes what the contract says."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from export.manifest import MODEL_FILE, read_manifest
from export.targets import base as targets
from export.verify import probes, verify
from export.wrapper import Wrapped, wrap
from trainer import registry
from trainer.config import ModelComponent
from trainer.models.base import Generator, Translator
from trainer.snapshot import read_snapshot

SMALL = {"width": 4, "blocks": 1, "size": 32, "latent_dim": 8}


def _small(model: str) -> torch.nn.Module:
    keys = {key: value for key, value in SMALL.items() if key in registry.component("model", model).Config.model_fields}
    torch.manual_seed(0)
    network: torch.nn.Module = registry.build(ModelComponent(type=model, **keys))
    return network.eval()


EXPORTABLE = [name for name in registry.names("model") if isinstance(_small(name), Generator | Translator)]


@functools.cache
def _converted(model: str, target: str) -> tuple[Wrapped, bytes]:
    wrapped = wrap(_small(model), model)
    content = targets.find(target).convert(
        wrapped.graph, wrapped.example, wrapped.given, wrapped.made, {"key": "value"}
    )
    return wrapped, content.SerializeToString()


@pytest.mark.parametrize("target", targets.names())
@pytest.mark.parametrize("model", EXPORTABLE)
def test_every_architecture_is_proved_with_every_target(model: str, target: str) -> None:
    wrapped, content = _converted(model, target)
    random = np.random.default_rng(0)
    images = []
    if wrapped.size is not None:
        images = [random.integers(0, 256, (24, 40, int(wrapped.given.shape[-1])), dtype=np.uint8)]
    tolerance = targets.find(target).tolerance
    proof = verify(model, content, wrapped, 32, tolerance, images)
    assert proof.max_grey_diff <= tolerance
    assert proof.real_images == len(images)
    assert len(proof.shapes) >= 3
    assert {shape[0] for shape in proof.shapes} >= {1, 3}


def test_translators_are_proved_on_other_sizes_than_in_training() -> None:
    wrapped = wrap(_small("resnet_generator"), "x")
    sizes = {given.shape[1:3] for given in probes(wrapped, 32)}
    assert (32, 32) in sizes
    assert any(height != width for height, width in sizes)
    assert any(height > 32 for height, _ in sizes)
    assert wrapped.size is not None
    assert min(min(size) for size in sizes) == wrapped.size.minimum


def test_probes_are_the_same_every_time() -> None:
    wrapped = wrap(_small("dcgan_generator"), "x")
    for one, two in zip(probes(wrapped, 32), probes(wrapped, 32), strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_translator_graph_is_the_contract_written_out() -> None:
    wrapped, model = _converted("resnet_generator", "onnx")
    source = np.random.default_rng(1).integers(0, 256, (2, 16, 24, 3), dtype=np.uint8)
    with torch.no_grad():
        values = wrapped.graph.network(
            torch.from_numpy(source.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1)
        ).numpy()
    expected = np.clip(np.round((values + 1) * 127.5), 0, 255).transpose(0, 2, 3, 1)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (image,) = session.run(["image"], {"source": source})
    assert image.dtype == np.uint8
    assert np.abs(image.astype(np.int16) - expected).max() <= 1


def test_the_model_file_has_clean_axes_and_no_machine_paths() -> None:
    content = _converted("resnet_generator", "onnx")[1]
    model = onnx.load_from_string(content)
    for value in (*model.graph.input, *model.graph.output):
        axes = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        assert axes == ["batch", "height", "width", 3]
    assert [entry.version for entry in model.opset_import] == [20]
    assert {entry.key: entry.value for entry in model.metadata_props} == {"key": "value"}
    assert b".py" not in content


def test_the_generator_artifact_makes_the_snapshot_s_images(gan: str, generator: Path) -> None:
    latent = np.random.default_rng(2).standard_normal((5, 8), dtype=np.float32)
    with torch.no_grad():
        values = read_snapshot(gan).build("generator")(torch.from_numpy(latent)).numpy()
    expected = np.clip(np.round((values + 1) * 127.5), 0, 255).transpose(0, 2, 3, 1)
    session = onnxruntime.InferenceSession(generator / MODEL_FILE, providers=["CPUExecutionProvider"])
    (image,) = session.run(["image"], {"latent": latent})
    assert image.shape == (5, 16, 16, 3)
    assert np.abs(image.astype(np.int16) - expected).max() <= 1


def test_the_model_file_says_where_it_came_from(gan: str, generator: Path) -> None:
    facts = {entry.key: entry.value for entry in onnx.load(generator / MODEL_FILE).metadata_props}
    assert facts == {
        "zorse.schema_version": "1",
        "zorse.name": "toy",
        "zorse.task": "gan",
        "zorse.kind": "generator",
        "zorse.network": "generator",
        "zorse.snapshot_digest": read_snapshot(gan).digest,
        "zorse.images_seen": "640",
    }
    assert read_manifest(generator).source.snapshot_digest == facts["zorse.snapshot_digest"]
