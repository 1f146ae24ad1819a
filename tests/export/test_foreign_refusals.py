"""Foreign ONNX models that cannot be wrapped are refused in one line."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export.declared import Declared
from export.errors import ImporterError
from export.foreign import wrap_onnx
from tests.export.onnx_models import (
    OPEN,
    OPEN_LAST,
    dropout,
    generator_model,
    make_model,
    one_node,
    painter,
    reshaped,
    shrinking,
)


def _two(inputs: int, outputs: int) -> onnx.ModelProto:
    ports = [
        [helper.make_tensor_value_info(f"{name}{number}", TensorProto.FLOAT, OPEN) for number in range(count)]
        for name, count in (("in", inputs), ("out", outputs))
    ]
    nodes = [helper.make_node("Sum", [f"in{n}" for n in range(inputs)], [f"out{n}"]) for n in range(outputs)]
    return helper.make_model(
        helper.make_graph(nodes, "g", *ports), opset_imports=[helper.make_opsetid("", 20)], ir_version=9
    )


def _batch_norm() -> onnx.ModelProto:
    inputs = ["x", "one", "zero", "zero", "one"]
    node = helper.make_node("BatchNormalization", inputs, ["y", "m", "v"], name="norm", training_mode=1)
    return make_model([node], {"one": np.ones(3, np.float32), "zero": np.zeros(3, np.float32)})


def _custom(domain: str) -> onnx.ModelProto:
    return make_model([helper.make_node("Warp", ["x"], ["y"], domain=domain)], domains=(domain,))


REFUSED = [
    (_two(2, 1), {}, r"m has 2 inputs \(in0, in1\)"),
    (_two(1, 2), {}, r"m has 2 outputs \(out0, out1\)"),
    (one_node("Relu", x=("n", 3, "h"), y=("n", 3, "h")), {}, r"m: x \[n, 3, h\] has 3 axes"),
    (one_node("Flatten", y=("n", "m")), {"max_size": 8}, r"output y \[1, 60\] has 2 axes, .* reshape to NCHW"),
    (one_node("Relu", x=(1, 65, 8, 8), y=(1, 65, 8, 8)), {}, r"it has 65 channels, and 1 to 64 can be"),
    (one_node("Relu", x=("n", "c", "h", "w")), {}, r"x \[n, c, h, w\]: by the layout NCHW it has c channels"),
    (one_node("Relu", x=(1, 8, 8, 3), y=(1, 8, 8, 3)), {}, r"x \[1, 8, 8, 3\] cannot be NCHW: declare .* NHWC"),
    (one_node("Relu"), {"layout": "NHWC"}, r"x \[n, 3, h, w\] cannot be NHWC: declare the layout NCHW"),
    (one_node("Transpose", perm=[0, 2, 3, 1], y=OPEN_LAST), {"max_size": 8}, r"\[1, 4, 5, 3\] is not NCHW as its"),
    (generator_model(y=("n", 8, 2, 3)), {}, r"y \[1, 8, 2, 3\] cannot be NCHW"),
    (generator_model(x=("n", "z")), {}, r"input x \['n', 'z'\] is no vector of floats of a fixed length"),
    (one_node("Concat", *["x"] * 21, axis=1, y=("n", 66, "h", "w")), {"max_size": 8}, r"makes 66 channels"),
    (one_node("AveragePool", kernel_shape=[2, 2], strides=[2, 2]), {"max_size": 8}, r"makes 2×2 pixels of 4×5"),
    (painter(0, 1, OPEN), {"max_size": 16}, r"makes \d×\d+ pixels of \d×\d+: .* give that as --size-multiple"),
    (painter(0, 1, OPEN), {"size_multiple": 20, "max_size": 16}, r"multiples of 20 up to 16: there is none"),
    (one_node("Relu", dtypes=(TensorProto.DOUBLE,) * 2), {}, r"x is tensor\(double\): convert the network"),
    (one_node("Cast", to=TensorProto.INT64, dtypes=(1, TensorProto.INT64)), {}, r"output y is tensor\(int64\)"),
    (one_node("Cast", to=1, dtypes=(TensorProto.BFLOAT16, 1)), {}, r"input x is tensor\(bfloat16\)"),
    (one_node("Cast", to=1, dtypes=(TensorProto.UINT8, 1)), {}, r"input x is uint8: declare the input range 0..255"),
    (one_node("Cast", to=1, dtypes=(2, 1)), {"input_range": (0, 255), "mean": (1.0,)}, r"input x is uint8: .* no mean"),
    (one_node("Cast", to=2, dtypes=(1, 2)), {}, r"output y is uint8: declare the output range 0..255"),
    (one_node("Relu"), {"mean": (0.5, 0.5)}, r"m takes 3 channels: give one mean, or 3"),
    (one_node("Relu"), {"std": (0.5, 0.5)}, r"m takes 3 channels: give one std, or 3"),
    (one_node("RandomNormalLike"), {}, r"m: RandomNormalLike at node draws random numbers"),
    (one_node("RandomUniformLike"), {}, r"m: RandomUniformLike at node draws random numbers"),
    (one_node("Bernoulli"), {}, r"m: Bernoulli at node draws random numbers"),
    (dropout(True, constant=False), {}, r"m: Dropout at drop is live"),
    (dropout(True, constant=True), {}, r"m: Dropout at drop is live"),
    (_batch_norm(), {}, r"m: BatchNormalization at norm uses the statistics of the batch"),
    (_custom("my.ops"), {}, r"Warp at y is an operator of my\.ops"),
    (_custom("com.microsoft"), {}, r"onnxruntime does not load it"),
    (one_node("Relu", opset=6), {}, r"m has opset 6: export it with opset 7 or newer"),
    (one_node("Relu", opset=99), {}, r"m: onnxruntime does not load it"),
    (one_node("Nothing"), {}, r"m: onnxruntime does not load it"),
    (reshaped(3), {}, r"m makes 3 images at a time and no others"),
    (shrinking(), {"size_multiple": 4}, r"m: converted from opset 10 to 20 it makes images \d+ grey levels off"),
    (one_node("Reshape", "to", weights={"to": [1, 3, 700, 7]}), {"max_size": 8}, r"m does not run on .*\[1, 3, 4, 5\]"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "options", "message"), REFUSED, ids=[message for _, _, message in REFUSED])
def test_wrap_onnx_refuses_unusable_models(model: onnx.ModelProto, options: dict[str, Any], message: str) -> None:
    sizes = {key: options[key] for key in options if key == "max_size"}
    declared = {"input_range": (0, 1)} | {key: options[key] for key in options if key not in sizes}
    with pytest.raises(ImporterError, match=message) as caught:
        wrap_onnx(model, Declared(**declared), **sizes, name="m")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_range": (1, 0)}, r"the input range 1\.\.0 does not rise"),
        ({"input_range": (0, float("inf"))}, "the input range"),
        ({"input_range": (0, 1), "output_range": (2, 2)}, r"the output range 2\.\.2 does not rise"),
        ({"input_range": (0, 1), "std": (0.0,)}, "std above 0"),
        ({"input_range": (0, 1), "mean": (float("nan"),)}, "finite numbers"),
        ({"input_range": (0, 1), "size_multiple": 0}, "multiples of 0: give 1 or more"),
    ],
)
def test_declared_refuses_illegal_values(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ImporterError, match=message):
        Declared(**options)
