"""The shapes that were proved with fixed axes are run with fixed axes again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from serving.engine import OrtEngine
from serving.errors import ArtifactError, EngineError
from serving.selftest import verify_artifact
from tests.serving.forged import MODELS, forge
from tests.serving.tiny import LATENT_DIM, OPEN, inverter_manifest, model, write


@pytest.mark.parametrize(
    ("name", "buckets"),
    [
        ("digits", ((1, 6), (5, 6))),
        ("classes", ((4, 6),)),
        ("upscale", ((2, 32, 48, 3),)),
        ("invert", ((2, 32, 48, 3),)),
        ("invert at one size", ((1, 32, 48, 3),)),
    ],
)
def test_verify_runs_the_buckets(tmp_path: Path, name: str, buckets: tuple[tuple[int, ...], ...]) -> None:
    graph, manifest = MODELS[name]
    result = verify_artifact(write(tmp_path, graph, dataclasses.replace(manifest, buckets=buckets)), "cpu")
    assert (result.buckets, result.max_grey_diff) == (len(buckets), 0)


@pytest.mark.parametrize(
    ("name", "bucket"),
    [
        ("digits", (1, 7)),
        ("digits", (1,)),
        ("digits", (0, 6)),
        ("digits", (-2, 6)),
        ("invert", (1, 32, 48, 4)),
        ("invert at one size", (1, 48, 32, 3)),
        ("invert at one size", (2, 32, 48, 3)),
    ],
)
def test_verify_refuses_a_bucket_that_the_graph_cannot_take(tmp_path: Path, name: str, bucket: tuple[int, ...]) -> None:
    graph, manifest = MODELS[name]
    folder = write(tmp_path, graph, dataclasses.replace(manifest, buckets=(bucket,)))
    with pytest.raises(
        (ArtifactError, EngineError),
        match=r"the bucket .* is no shape of|onnxruntime failed: .*nvalid",
    ):
        verify_artifact(folder, "cpu")


def test_engine_fixes_the_axes_of_a_bucket(tmp_path: Path) -> None:
    engine = OrtEngine(write(tmp_path, *MODELS["digits"]) / "model.onnx", "cpu", 1, axes={"batch": 5})
    assert engine.inputs == [("latent", "float32", (5, LATENT_DIM))]
    with pytest.raises(EngineError, match="onnxruntime failed"):
        engine.run({"latent": np.zeros((6, LATENT_DIM), np.float32)})
    assert len(engine.run({"latent": np.zeros((4, LATENT_DIM), np.float32)})["image"]) == 4


def test_verify_refuses_a_bucket_whose_images_differ_from_those_with_dynamic_axes(tmp_path: Path) -> None:
    """The graph adds noise to large images, which the golden sample does not detect."""
    nodes = [
        helper.make_node("Cast", ["source"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("RandomUniformLike", ["float"], ["noise"], high=9.0, low=1.0),
        helper.make_node("Size", ["source"], ["size"]),
        helper.make_node("Greater", ["size", "limit"], ["large"]),
        helper.make_node("Cast", ["large"], ["amount"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["noise", "amount"], ["added"]),
        helper.make_node("Sub", ["float", "added"], ["less"]),
        helper.make_node("Clip", ["less", "black"], ["clipped"]),
        helper.make_node("Cast", ["clipped"], ["image"], to=TensorProto.UINT8),
    ]
    ports = (helper.make_tensor_value_info(name, TensorProto.UINT8, OPEN) for name in ("source", "image"))
    graph = model(nodes, {"limit": np.int64(64 * 64 * 3), "black": np.float32(0)}, *ports)
    folder = write(tmp_path, graph, dataclasses.replace(inverter_manifest(), buckets=((1, 32, 48, 3), (1, 80, 64, 3))))
    with pytest.raises(ArtifactError, match=r"the bucket 1x80x64x3 is up to [2-9]\S* grey levels from what was proved"):
        verify_artifact(folder, "cpu")
    forge(folder, buckets=((1, 32, 48, 3),))
    assert verify_artifact(folder, "cpu").buckets == 1
