"""ONNX graphs: their faults, their digests, and weights in a separate file."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, defs, helper, numpy_helper

from export import graph
from export.errors import ProofError, RefusedError
from export.graph import ON_CUDA
from export.manifest import MODEL_FILE, WEIGHTS_FILE
from export.proof import compare_with_reference, run_reference
from export.targets import base as targets
from tests.export.networks import converted, under_test

PLAIN = targets.find("onnx")


def _graph(*nodes: onnx.NodeProto, inner: tuple[onnx.NodeProto, ...] = ()) -> onnx.ModelProto:
    """A model of `nodes`, and where there are `inner` ones of a branch with them."""
    port = helper.make_tensor_value_info
    made = list(nodes)
    if inner:
        branch = helper.make_graph(list(inner), "branch", [], [port("z", TensorProto.FLOAT, None)])
        made.append(helper.make_node("If", ["c"], ["w"], name="if", then_branch=branch, else_branch=branch))
    initializers = [
        numpy_helper.from_array(np.array(value), name) for name, value in (("off", False), ("on", True), ("r", 0.5))
    ]
    ports = [port("x", TensorProto.FLOAT, [1])], [port("y", TensorProto.FLOAT, [1])]
    return helper.make_model(helper.make_graph(made, "graph", *ports, initializers))


def _node(kind: str, *inputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, ["x", *inputs], ["y"], name=f"layer/{kind}", **attributes)


@pytest.mark.parametrize("provider", ["cuda", "cpu"])
def test_faults_name_random_operators_also_within_branches_and_functions(provider: str) -> None:
    noise = "RandomNormalLike at layer/RandomNormalLike draws random numbers: make noise an input of the network"
    assert graph.faults(_graph(_node("RandomNormalLike")), provider) == [noise]
    within = graph.faults(_graph(_node("Relu"), inner=(_node("RandomNormalLike"),)), "cpu")
    assert set(within) == {noise}
    model = _graph(_node("Relu"))
    model.functions.append(
        helper.make_function("own", "Noisy", ["x"], ["y"], [_node("RandomNormalLike")], [helper.make_opsetid("", 20)])
    )
    assert noise in graph.faults(model, provider)


def test_faults_name_dropout_only_if_it_is_active() -> None:
    for inert in (_node("Dropout"), _node("Dropout", "r"), _node("Dropout", "r", "off"), _node("Dropout", "r", "")):
        assert graph.faults(_graph(inert), "cuda") == []
    for live in (_node("Dropout", "r", "on"), _node("Dropout", "r", "x")):
        (found,) = graph.faults(_graph(live), "cuda")
        assert found.startswith("Dropout at layer/Dropout is live")


def test_faults_name_operators_without_a_cuda_kernel_once() -> None:
    model = _graph(_node("Sinh"), _node("Relu"), _node("Sinh"), inner=(_node("Acosh"),))
    (found,) = graph.faults(model, "cuda")
    assert found.startswith("onnxruntime has no CUDA kernel for Acosh, Sinh and would run them on the CPU")
    assert graph.faults(model, "cpu") == []


def test_cuda_operators_are_those_of_the_installed_onnxruntime() -> None:
    library = Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
    if not library.is_file():
        pytest.skip("this onnxruntime was built without CUDA")
    content = library.read_bytes()
    names = {schema.name for schema in defs.get_all_schemas() if schema.domain == ""}
    # Kernels are classes, most of which are named for their operators.
    # A mangled name has the length of the class's name before it. One search of the large library finds all of them.
    classes = set(re.findall(rb"N11onnxruntime4cuda(?=(\d{1,3})(\w{1,64}))", content))
    kernels = {text[: int(n)].decode() for n, text in classes if text[int(n) : int(n) + 1] in (b"I", b"E")} & names
    sequences = {name for name in kernels if "Sequence" in name}
    assert kernels - sequences - graph.RANDOM - {"TensorScatter"} <= ON_CUDA
    others = {"LpNormalization": "LpNorm", "RMSNormalization": "RMSNorm", "OneHot": "OneHotOp"}
    others |= {"BatchNormalization": "BatchNorm", "LayerNormalization": "LayerNorm", "LogSoftmax": "Softmax"}
    others |= dict.fromkeys(("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"), "Pool")
    for name in sorted(ON_CUDA - kernels):
        assert others.get(name, name).encode() in content, name
    assert not {"Sinh", "Acosh", "Tan", "MaxUnpool", "QLinearConv"} & (kernels | ON_CUDA)


def test_shape_arithmetic_is_found() -> None:
    assert graph.shape_arithmetic(_graph(_node("Relu"), _node("Shape"))) == ["layer/Shape"]


def _changed(model: onnx.ModelProto, change: Callable[[onnx.ModelProto], None]) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    change(copy)
    return copy


def test_weights_in_a_separate_file_are_proved(tmp_path: Path) -> None:
    traceable, model = converted("resnet_generator")
    before, against = model.SerializeToString(), under_test(traceable, model)
    expected = run_reference(against, PLAIN)
    graph.save(model, tmp_path, inline_bytes=1000)
    assert model.SerializeToString() == before
    assert (tmp_path / WEIGHTS_FILE).stat().st_size > 1000
    assert (tmp_path / MODEL_FILE).stat().st_size < len(before)
    assert compare_with_reference(against, tmp_path, PLAIN, expected).proof.max_grey_diff <= 1
    assert graph.weights_digest(onnx.load(tmp_path / MODEL_FILE)) == graph.weights_digest(model)
    assert graph.graph_digest(onnx.load(tmp_path / MODEL_FILE)) == graph.graph_digest(model)

    weights = bytearray((tmp_path / WEIGHTS_FILE).read_bytes())
    weights[3] ^= 0x40  # the exponent of the first weight
    (tmp_path / WEIGHTS_FILE).write_bytes(weights)
    with pytest.raises(RefusedError) as caught:
        compare_with_reference(against, tmp_path, PLAIN, expected)
    assert caught.group_contains(ProofError, match=r"the first layer that diverges is layers\.")

    (tmp_path / WEIGHTS_FILE).unlink()
    with pytest.raises(RefusedError) as caught:
        compare_with_reference(against, tmp_path, PLAIN, expected)
    assert caught.group_contains(ProofError, match="^onnxruntime does not load the model")


def test_weights_digest_depends_on_every_bit_but_not_on_the_order() -> None:
    def turned(model: onnx.ModelProto) -> None:
        tensors = list(model.graph.initializer)[::-1]
        del model.graph.initializer[:]
        model.graph.initializer.extend(tensors)

    def flipped(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.raw_data = bytes([tensor.raw_data[0] ^ 1]) + tensor.raw_data[1:]

    model = converted("dcgan_generator")[1]
    assert graph.weights_digest(_changed(model, turned)) == graph.weights_digest(model)
    assert graph.weights_digest(_changed(model, flipped)) != graph.weights_digest(model)
