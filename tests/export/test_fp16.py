"""Half precision is proved by arithmetic that rounds as GPUs do, whatever this machine's processor computes in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from export.convert import convert
from export.errors import ProofError, RefusedError
from export.lint import trace
from export.manifest import MODEL_FILE
from export.pipeline import prove
from export.pixels import BYTES, Pixels
from export.targets import base as targets
from export.wrapper import wrap
from tests.export.networks import EXPORTABLE, LARGEST, SIDE, build, fit, under_test

HALF = targets.find("onnx-fp16")


def test_value_beyond_float16_is_refused_though_the_cpu_computes_it(tmp_path: Path) -> None:
    network = fit(build(EXPORTABLE["resnet_generator"]))
    with torch.no_grad():
        # A norm follows, so that in float32 the images stay what they are.
        network.get_submodule("layers.4").weight.mul_(3e4)
    traceable = wrap(network, "loud", training_size=SIDE, max_size=LARGEST)
    model = convert(trace(traceable, "loud"), traceable.interface)
    prove(under_test(traceable, model), targets.find("onnx"), [], (), "cuda", tmp_path / "whole")
    with pytest.raises(RefusedError) as caught:
        prove(under_test(traceable, model, HALF), HALF, [], (), "cuda", tmp_path / "half")
    assert caught.group_contains(ProofError, match=r"onnx-fp16 as other devices compute it is up to \d+ grey levels")
    assert caught.group_contains(ProofError, match=r"the first layer that diverges is layers\.4 \(relative error inf\)")
    assert not (tmp_path / "half").exists()


@pytest.mark.parametrize(
    "pixels", [BYTES, Pixels("uint16", 0, 65535), Pixels("float32", -1, 1)], ids=lambda it: it.dtype
)
def test_image_conversion_stays_in_float32(pixels: Pixels) -> None:
    traceable = wrap(build(EXPORTABLE["resnet_generator"]), "toy", training_size=SIDE, pixels=pixels)
    model = next(iter(HALF.variants(convert(trace(traceable, "toy"), traceable.interface), []))).model
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    to_half = [node for node in casts if node.attribute[0].i == TensorProto.FLOAT16]
    # One way into the network and one out of it; bytes have another to and from float32.
    assert (len(to_half), len(casts)) == (1, 2 if pixels.dtype == "float32" else 4)


def test_sixteen_bit_images_keep_their_steps(tmp_path: Path) -> None:
    traceable = wrap(
        fit(build(EXPORTABLE["resnet_generator"])),
        "toy",
        training_size=SIDE,
        max_size=LARGEST,
        pixels=Pixels("uint16", 0, 4095),
    )
    model = convert(trace(traceable, "toy"), traceable.interface)
    manifest = prove(under_test(traceable, model, HALF), HALF, [], (), "cuda", tmp_path / "half")
    assert manifest.proof.max_grey_diff < 0.5
    session = onnxruntime.InferenceSession(tmp_path / "half" / MODEL_FILE, providers=["CPUExecutionProvider"])
    source = np.random.default_rng(0).integers(0, 4096, (1, 32, 32, 3), dtype=np.uint16)
    image = session.run(None, {"source": source})[0]
    assert (image[image > 2048] % 2).mean() == pytest.approx(0.5, abs=0.1)


def test_emulation_rounds_weights_and_every_value_between_nodes() -> None:
    third = np.full((1,), 1 / 3, np.float32)
    nodes = [
        helper.make_node("Mul", ["x", "third"], ["a"], name="first"),
        helper.make_node("Add", ["a", "third"], ["b"], name="second"),
        helper.make_node("Identity", ["b"], ["y"], name="zorse_after"),
    ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (4,)) for name in "xy"]
    tensors = [numpy_helper.from_array(third, "third")]
    graph = helper.make_graph(nodes, "sum", ports[:1], ports[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    emulation = next(iter(HALF.variants(model, []))).emulation
    assert emulation is not None
    given = np.array([1.0001, 3e4, -7.77, 1e-7], np.float32)
    session = onnxruntime.InferenceSession(emulation.SerializeToString(), providers=["CPUExecutionProvider"])
    (made,) = session.run(None, {"x": given})
    expected = (given.astype(np.float16) * third.astype(np.float16)) + third.astype(np.float16)
    np.testing.assert_array_equal(made, expected.astype(np.float32))
    assert np.abs(made - (given * third + third)).max() > 1e-3
