"""ONNX models as other programs write them, and their wrapped forms run in onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, checker, helper, numpy_helper

from export.declared import Declared
from export.foreign import WrappedOnnx
from export.onnx_source import OnnxSource

Axes = tuple[int | str, ...]
OPEN: Axes = ("n", 3, "h", "w")
OPEN_LAST: Axes = ("n", "h", "w", 3)
BYTES = Declared((0, 255))
LEVELS = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=-1)


def make_model(
    nodes: list[onnx.NodeProto],
    weights: dict[str, Any] | None = None,
    x: Axes = OPEN,
    y: Axes = OPEN,
    *,
    opset: int = 20,
    dtypes: tuple[int, int] = (TensorProto.FLOAT, TensorProto.FLOAT),
    names: tuple[str, str] = ("x", "y"),
    ir_version: int = 9,
    domains: tuple[str, ...] = (),
    functions: tuple[onnx.FunctionProto, ...] = (),
) -> onnx.ModelProto:
    """A model of `nodes` with one input and one output, called `names`; `x` and `y` are their axes."""
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in (weights or {}).items()]
    ports = [
        helper.make_tensor_value_info(name, dtype, shape)
        for name, dtype, shape in zip(names, dtypes, (x, y), strict=True)
    ]
    inputs = ports[:1]
    if ir_version < 4:  # then every initializer is an input too
        inputs += [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in tensors]
    graph = helper.make_graph(nodes, "graph", inputs, ports[1:], tensors)
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version, functions=functions)


def one_node(operator: str, *inputs: str, weights: dict[str, Any] | None = None, **options: Any) -> onnx.ModelProto:
    """A model of one node."""
    ports = {key: options.pop(key) for key in ("x", "y", "opset", "dtypes", "names") if key in options}
    first, last = ports.get("names", ("x", "y"))
    return make_model([helper.make_node(operator, [first, *inputs], [last], name="node", **options)], weights, **ports)


def reference_images(model: onnx.ModelProto, declared: Declared, inputs: NDArray[Any]) -> NDArray[np.float32]:
    """What the untouched model makes."""
    return OnnxSource(model, declared, "the model").images(inputs)


def noise(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def random_images(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


def painter(low: float, high: float, axes: Axes = (1, 3, 16, 16), last: bool = False) -> onnx.ModelProto:
    """A translator of numbers in low..high as exporters wrote it for opset 9; `last`: with channels last."""
    middle, half = (high + low) / 2, (high - low) / 2
    weights = {
        "middle": np.float32(middle),
        "half": np.float32(half),
        "w1": noise(4, 3, 3, 3),
        "scale": np.ones(4, np.float32),
        "bias": np.zeros(4, np.float32),
        "up": np.array([1, 1, 2, 2], np.float32),
        "w2": noise(3, 4, 3, 3, seed=1) / 4,
    }
    chain: list[tuple[str, tuple[str, ...], dict[str, Any]]] = [
        ("Sub", ("middle",), {}),
        ("Div", ("half",), {}),
        ("Pad", (), {"mode": "reflect", "pads": [0, 0, 1, 1, 0, 0, 1, 1]}),
        ("Conv", ("w1",), {"strides": [2, 2]}),
        ("InstanceNormalization", ("scale", "bias"), {}),
        ("Relu", (), {}),
        ("Upsample", ("up",), {"mode": "nearest"}),
        ("Conv", ("w2",), {"pads": [1, 1, 1, 1]}),
        ("Tanh", (), {}),
        ("Mul", ("half",), {}),
        ("Add", ("middle",), {}),
    ]
    if last:
        chain = [("Transpose", (), {"perm": [0, 3, 1, 2]}), *chain, ("Transpose", (), {"perm": [0, 2, 3, 1]})]
    nodes, value = [], "x"
    for number, (operator, inputs, attributes) in enumerate(chain):
        output = "y" if number == len(chain) - 1 else f"value_{number}"
        nodes.append(helper.make_node(operator, [value, *inputs], [output], name=f"{operator}_{number}", **attributes))
        value = output
    return make_model(nodes, weights, axes, axes, opset=9, ir_version=3)


def generator_model(x: Axes = ("n", 8), y: Axes = ("n", 3, 4, 4)) -> onnx.ModelProto:
    shape = np.array([-1, *y[1:]], np.int64)
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["row"]),
        helper.make_node("Tanh", ["row"], ["squashed"]),
        helper.make_node("Reshape", ["squashed", "shape"], ["y"]),
    ]
    return make_model(nodes, {"w": noise(8, 48), "shape": shape}, x, y)


def run_wrapped(foreign: WrappedOnnx, inputs: NDArray[Any]) -> NDArray[np.uint8]:
    """The wrapped model's image, once its ports are what it says."""
    session = onnxruntime.InferenceSession(foreign.model.SerializeToString(), providers=["CPUExecutionProvider"])
    types = {"uint8": "tensor(uint8)", "float32": "tensor(float)"}
    interface = foreign.interface
    for ports, specs in ((session.get_inputs(), interface.inputs), (session.get_outputs(), interface.outputs)):
        assert [(entry.name, entry.type, tuple(entry.shape)) for entry in ports] == [
            (spec.name, types[spec.dtype], spec.shape) for spec in specs
        ]
    image: NDArray[np.uint8] = session.run(["image"], {foreign.interface.inputs[0].name: inputs})[0]
    return image


def check_wrapped(model: onnx.ModelProto, declared: Declared, foreign: WrappedOnnx, inputs: NDArray[Any]) -> None:
    """The wrapped model is a sound one and makes the original's images, which are not all one grey."""
    checker.check_model(foreign.model, full_check=True)
    expected = reference_images(model, declared, inputs)
    image = run_wrapped(foreign, inputs)
    assert expected.dtype == np.float32
    assert image.shape == expected.shape
    assert np.abs(image - expected).max() < 0.51
    assert image.std() > 5


def reshaped(batch: int) -> onnx.ModelProto:
    """Its batch is written into the graph."""
    nodes = [
        helper.make_node("Reshape", ["x", "rows"], ["flat"]),
        helper.make_node("Reshape", ["flat", "images"], ["y"]),
    ]
    weights = {"rows": np.array([batch, 48], np.int64), "images": np.array([batch, 3, 4, 4], np.int64)}
    return make_model(nodes, weights, (batch, 3, 4, 4), (batch, 3, 4, 4))


def mixing() -> onnx.ModelProto:
    """It says that its batch is open, and takes the mean of it away."""
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"]),
        helper.make_node("Sub", ["x", "mean"], ["y"]),
    ]
    return make_model(nodes, {"axes": np.array([0], np.int64)})


def shrinking() -> onnx.ModelProto:
    """It loses every fourth pixel and fills the gap, by a rule of opset 10 that no later one has."""
    nodes = [
        helper.make_node("Resize", ["x", "down"], ["small"], mode="nearest"),
        helper.make_node("Resize", ["small", "up"], ["y"], mode="nearest"),
    ]
    weights = {"down": np.float32([1, 1, 0.75, 0.75]), "up": np.float32([1, 1, 4 / 3, 4 / 3])}
    return make_model(nodes, weights, opset=10, ir_version=4)


def dropout(live: bool, constant: bool) -> onnx.ModelProto:
    nodes = [helper.make_node("Dropout", ["x", "", "live"], ["y"], name="drop")]
    if constant:
        value = numpy_helper.from_array(np.array(live))
        return make_model([helper.make_node("Constant", [], ["live"], value=value), *nodes], opset=13)
    return make_model(nodes, {"live": live}, opset=13)
