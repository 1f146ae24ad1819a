"""Foreign ONNX models, old and new, become ones that take and give bytes; what cannot is refused in one line."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, checker, helper, numpy_helper

from export.declared import Declared
from export.errors import ImporterError
from export.foreign import WrappedOnnx, wrap_onnx
from export.interface import AxisLimits, Latent, SizeLimits
from export.onnx_file import load_onnx
from export.onnx_source import OnnxSource

Axes = tuple[int | str, ...]
OPEN: Axes = ("n", 3, "h", "w")
OPEN_LAST: Axes = ("n", "h", "w", 3)
BYTES = Declared((0, 255))
LEVELS = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=-1)


def _model(
    nodes: list[onnx.NodeProto],
    weights: dict[str, Any] | None = None,
    given: Axes = OPEN,
    made: Axes = OPEN,
    *,
    opset: int = 20,
    dtypes: tuple[int, int] = (TensorProto.FLOAT, TensorProto.FLOAT),
    names: tuple[str, str] = ("x", "y"),
    ir_version: int = 9,
    domains: tuple[str, ...] = (),
    functions: tuple[onnx.FunctionProto, ...] = (),
) -> onnx.ModelProto:
    """A model of `nodes` from the input of the first of `names` to the output of the second."""
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in (weights or {}).items()]
    ports = [
        helper.make_tensor_value_info(name, dtype, shape)
        for name, dtype, shape in zip(names, dtypes, (given, made), strict=True)
    ]
    inputs = ports[:1]
    if ir_version < 4:  # then every initializer is an input too
        inputs += [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in tensors]
    graph = helper.make_graph(nodes, "graph", inputs, ports[1:], tensors)
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version, functions=functions)


def _single(operator: str, *inputs: str, weights: dict[str, Any] | None = None, **options: Any) -> onnx.ModelProto:
    """A model of one node."""
    ports = {key: options.pop(key) for key in ("given", "made", "opset", "dtypes", "names") if key in options}
    first, last = ports.get("names", ("x", "y"))
    return _model([helper.make_node(operator, [first, *inputs], [last], name="node", **options)], weights, **ports)


def _reference(model: onnx.ModelProto, declared: Declared, given: NDArray[Any]) -> NDArray[np.float32]:
    """What the untouched model makes."""
    return OnnxSource(model, declared, "the model").images(given)


def _noise(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def _pixels(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


def _painter(low: float, high: float, given: Axes = (1, 3, 16, 16), last: bool = False) -> onnx.ModelProto:
    """A translator of numbers in low..high as exporters wrote it for opset 9; `last`: with channels last."""
    middle, half = (high + low) / 2, (high - low) / 2
    weights = {
        "middle": np.float32(middle),
        "half": np.float32(half),
        "w1": _noise(4, 3, 3, 3),
        "scale": np.ones(4, np.float32),
        "bias": np.zeros(4, np.float32),
        "up": np.array([1, 1, 2, 2], np.float32),
        "w2": _noise(3, 4, 3, 3, seed=1) / 4,
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
        made = "y" if number == len(chain) - 1 else f"value_{number}"
        nodes.append(helper.make_node(operator, [value, *inputs], [made], name=f"{operator}_{number}", **attributes))
        value = made
    return _model(nodes, weights, given, given, opset=9, ir_version=3)


def _generator(given: Axes = ("n", 8), made: Axes = ("n", 3, 4, 4)) -> onnx.ModelProto:
    shape = np.array([-1, *made[1:]], np.int64)
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["row"]),
        helper.make_node("Tanh", ["row"], ["squashed"]),
        helper.make_node("Reshape", ["squashed", "shape"], ["y"]),
    ]
    return _model(nodes, {"w": _noise(8, 48), "shape": shape}, given, made)


def _run(foreign: WrappedOnnx, given: NDArray[Any]) -> NDArray[np.uint8]:
    """The wrapped model's image, once its ports are what it says."""
    session = onnxruntime.InferenceSession(foreign.model.SerializeToString(), providers=["CPUExecutionProvider"])
    types = {"uint8": "tensor(uint8)", "float32": "tensor(float)"}
    interface = foreign.interface
    for ports, specs in ((session.get_inputs(), interface.inputs), (session.get_outputs(), interface.outputs)):
        assert [(entry.name, entry.type, tuple(entry.shape)) for entry in ports] == [
            (spec.name, types[spec.dtype], spec.shape) for spec in specs
        ]
    image: NDArray[np.uint8] = session.run(["image"], {foreign.interface.inputs[0].name: given})[0]
    return image


def _check(model: onnx.ModelProto, declared: Declared, foreign: WrappedOnnx, given: NDArray[Any]) -> None:
    """The wrapped model is a sound one and makes the original's images, which are not all one grey."""
    checker.check_model(foreign.model, full_check=True)
    expected = _reference(model, declared, given)
    image = _run(foreign, given)
    assert expected.dtype == np.float32
    assert image.shape == expected.shape
    assert np.abs(image - expected).max() < 0.51
    assert image.std() > 5


def test_wrap_onnx_of_an_old_model_of_fixed_size() -> None:
    model = _painter(0, 255, (1, 3, 256, 256))
    model.metadata_props.add(key="author", value="somebody")
    model.graph.node[3].doc_string = "/home/somebody/train.py(12)"
    before = model.SerializeToString()
    foreign = wrap_onnx(model, BYTES, name="painter")
    assert model.SerializeToString() == before
    _check(model, BYTES, foreign, _pixels(3, 256, 256, 3))
    assert foreign.interface.kind == "translator"
    assert foreign.interface.inputs[0].shape == foreign.interface.outputs[0].shape == ("batch", 256, 256, 3)
    assert foreign.interface.inputs[0].value_range == foreign.interface.outputs[0].value_range == (0, 255)
    assert foreign.interface.size == SizeLimits.square(256, 256, 256)
    assert foreign.interface.latent is None
    assert [(entry.domain, entry.version) for entry in foreign.model.opset_import] == [("", 20)]
    assert foreign.model.ir_version == 9
    assert foreign.model.producer_name == "zorse"
    assert b"somebody" not in foreign.model.SerializeToString()
    kept = {node.name for node in model.graph.node if node.op_type != "Upsample"}  # that became Resize
    assert kept <= {node.name for node in foreign.model.graph.node}


@pytest.mark.parametrize("last", [False, True], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("bounds", [(0, 255), (0, 1), (-1, 1)], ids=str)
def test_wrap_onnx_converts_ranges_and_layouts(bounds: tuple[float, float], last: bool) -> None:
    declared = Declared(bounds, layout="NHWC" if last else "NCHW")
    model = _painter(*bounds, ("n", "h", "w", 3) if last else ("n", 3, "h", "w"), last)
    foreign = wrap_onnx(model, dataclasses.replace(declared, size_multiple=2), max_size=64, name="painter")
    assert foreign.interface.inputs[0].shape == foreign.interface.outputs[0].shape == ("batch", "height", "width", 3)
    assert foreign.interface.size == SizeLimits.square(2, 2, 64)
    for sides in ((8, 8), (16, 10), (30, 64)):
        _check(model, declared, foreign, _pixels(2, *sides, 3))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize(
    "declared",
    [
        {"input_range": (0, 255)},
        {"input_range": (-1, 1)},
        {"input_range": (0, 1), "mean": (0.5,), "std": (0.5,), "output_range": (-1, 1)},
        {"input_range": (0, 1), "mean": (0.25, 0.25, 0.25), "std": (0.5,), "output_range": (-0.5, 1.5)},
        {"input_range": (0, 255), "mean": (0.0,), "std": (255.0, 255.0, 255.0), "output_range": (0, 1)},
    ],
    ids=str,
)
def test_wrap_onnx_of_an_identity_keeps_every_grey_level(declared: dict[str, Any], layout: Any) -> None:
    axes = OPEN if layout == "NCHW" else OPEN_LAST
    model, how = _single("Identity", given=axes, made=axes), Declared(layout=layout, **declared)
    foreign = wrap_onnx(model, how, name="same")
    np.testing.assert_array_equal(_run(foreign, LEVELS), LEVELS)
    expected = _reference(model, how, LEVELS)
    np.testing.assert_allclose(expected, LEVELS, atol=1e-3)


def test_wrap_onnx_uses_mean_and_std_of_each_channel() -> None:
    declared = Declared((0, 1), mean=(0.0, 0.1, 0.2), std=(1.0, 0.5, 2.0))
    foreign = wrap_onnx(_single("Identity"), declared, name="same")
    grey = np.full((1, 2, 3, 3), 102, np.uint8)
    np.testing.assert_array_equal(_run(foreign, grey)[0, 0, 0], [102, 153, 26])  # 0.4 -> 0.4, 0.6, 0.1


@pytest.mark.parametrize(
    ("factor", "levels"), [(0.5, {1: 0, 3: 2, 5: 2, 255: 128}), (2, {100: 200, 200: 255}), (-1, {9: 0})]
)
def test_wrap_onnx_rounds_half_to_even_and_clips(factor: float, levels: dict[int, int]) -> None:
    model = _single("Mul", "factor", weights={"factor": np.float32(factor)})
    foreign = wrap_onnx(model, BYTES, name="scaled")
    image = _run(foreign, LEVELS)
    assert {level: int(image[level == LEVELS][0]) for level in levels} == levels
    expected = _reference(model, BYTES, LEVELS)
    assert 0 <= expected.min() <= expected.max() <= 255


def test_onnx_source_keeps_values_that_are_not_finite() -> None:
    model = _single("Div", "zero", weights={"zero": np.float32(0)})
    values = _reference(model, BYTES, np.array([0, 1], np.uint8).reshape(1, 1, 2, 1).repeat(3, -1))
    assert np.isnan(values[0, 0, 0]).all()
    assert np.isposinf(values[0, 0, 1]).all()


def test_find_size_limits_finds_the_smallest_size_silently(capfd: pytest.CaptureFixture[str]) -> None:
    pads = np.array([0, 0, 3, 3, 0, 0, 3, 3], np.int64)
    nodes = [
        helper.make_node("Pad", ["x", "pads"], ["padded"], mode="reflect"),
        helper.make_node("AveragePool", ["padded"], ["y"], kernel_shape=[7, 7]),
    ]
    foreign = wrap_onnx(_model(nodes, {"pads": pads}), BYTES, max_size=100, name="blur")
    assert foreign.interface.size == SizeLimits.square(1, 4, 100)
    assert capfd.readouterr() == ("", "")


def test_wrap_onnx_keeps_one_fixed_axis() -> None:
    axes = (1, 3, "h", 24)
    foreign = wrap_onnx(_painter(0, 255, axes), dataclasses.replace(BYTES, size_multiple=4), max_size=30, name="strip")
    assert foreign.interface.inputs[0].shape == foreign.interface.outputs[0].shape == ("batch", "height", 24, 3)
    assert foreign.interface.size == SizeLimits(AxisLimits(4, 4, 28), AxisLimits(24, 24, 24))
    _check(_painter(0, 255, axes), BYTES, foreign, _pixels(2, 12, 24, 3))


@pytest.mark.parametrize(
    ("given", "made", "layout"),
    [
        (("n", 8), ("n", 3, 4, 4), "NCHW"),
        ((1, 8), (1, 3, 4, 4), "NCHW"),
        ((1, 8, 1, 1), (1, 3, 4, 4), "NCHW"),
        (("n", 8), ("n", 4, 4, 3), "NHWC"),
        (("n", 1, 1, 8), ("n", 4, 4, 3), "NHWC"),
    ],
    ids=str,
)
def test_wrap_onnx_of_generators(given: Axes, made: Axes, layout: Any) -> None:
    declared, model = Declared((-1, 1), layout=layout), _generator(given, made)
    foreign = wrap_onnx(model, declared, name="maker")
    _check(model, declared, foreign, _noise(5, 8))
    assert foreign.interface.kind == "generator"
    assert foreign.interface.latent == Latent(8)
    assert foreign.interface.size is None
    assert (foreign.interface.inputs[0].name, foreign.interface.inputs[0].dtype, foreign.interface.inputs[0].shape) == (
        "latent",
        "float32",
        ("batch", 8),
    )
    assert foreign.interface.outputs[0].shape == ("batch", 4, 4, 3)


def _reshaped(batch: int) -> onnx.ModelProto:
    """Its batch is written into the graph."""
    nodes = [
        helper.make_node("Reshape", ["x", "rows"], ["flat"]),
        helper.make_node("Reshape", ["flat", "images"], ["y"]),
    ]
    weights = {"rows": np.array([batch, 48], np.int64), "images": np.array([batch, 3, 4, 4], np.int64)}
    return _model(nodes, weights, (batch, 3, 4, 4), (batch, 3, 4, 4))


def _mixing() -> onnx.ModelProto:
    """It says that its batch is open, and takes the mean of it away."""
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"]),
        helper.make_node("Sub", ["x", "mean"], ["y"]),
    ]
    return _model(nodes, {"axes": np.array([0], np.int64)})


@pytest.mark.parametrize(
    "model", [_reshaped(1), _mixing()], ids=["written in the graph", "neighbours change the image"]
)
def test_wrap_onnx_fixes_a_batch_that_cannot_vary(model: onnx.ModelProto) -> None:
    foreign = wrap_onnx(model, BYTES, name="lonely")
    assert foreign.interface.inputs[0].shape[0] == foreign.interface.outputs[0].shape[0] == 1
    given = _pixels(1, 4, 4, 3)
    np.testing.assert_allclose(_run(foreign, given), _reference(model, BYTES, given))


@pytest.mark.parametrize("batch", [1, 3])
def test_wrap_onnx_opens_a_fixed_batch(batch: int) -> None:
    model = _painter(0, 255, (batch, 3, 16, 16))
    foreign = wrap_onnx(model, BYTES, name="painter")
    assert foreign.interface.inputs[0].shape == ("batch", 16, 16, 3)
    _check(model, BYTES, foreign, _pixels(2, 16, 16, 3))


@pytest.mark.parametrize("half", [(True, True), (True, False), (False, True)], ids=str)
def test_wrap_onnx_of_half_precision(half: tuple[bool, bool]) -> None:
    dtypes = [TensorProto.FLOAT16 if is_half else TensorProto.FLOAT for is_half in half]
    model = _single("Cast", to=dtypes[1], dtypes=(dtypes[0], dtypes[1]))
    foreign = wrap_onnx(model, Declared((-1, 1)), name="half")
    assert np.abs(_run(foreign, LEVELS).astype(int) - LEVELS).max() == 0


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_wrap_onnx_of_uint8_is_exact(layout: Any) -> None:
    axes = OPEN if layout == "NCHW" else OPEN_LAST
    model = _single("Identity", given=axes, made=axes, dtypes=(TensorProto.UINT8, TensorProto.UINT8))
    declared = Declared((0, 255), layout=layout)
    foreign = wrap_onnx(model, declared, name="bytes")
    np.testing.assert_array_equal(_run(foreign, LEVELS), LEVELS)
    np.testing.assert_array_equal(_reference(model, declared, LEVELS), LEVELS)


def test_wrap_onnx_of_a_wrapped_model() -> None:
    model, declared = (
        wrap_onnx(_painter(-1, 1), Declared((-1, 1)), name="once").model,
        Declared((0, 255), layout="NHWC"),
    )
    foreign = wrap_onnx(model, declared, name="twice")
    _check(model, declared, foreign, _pixels(2, 16, 16, 3))
    names = [node.name for node in foreign.model.graph.node if node.name]
    assert len(names) == len(set(names))


def test_wrap_onnx_renames_reserved_names_also_within_branches() -> None:
    branches = [
        helper.make_graph(
            [helper.make_node(operator, ["image", "source"], ["latent"])],
            operator,
            [],
            [helper.make_tensor_value_info("latent", TensorProto.FLOAT, None)],
        )
        for operator in ("Add", "Sub")
    ]
    nodes = [
        helper.make_node("Identity", ["image"], ["zorse_source_0"]),
        helper.make_node("If", ["yes"], ["middle"], then_branch=branches[0], else_branch=branches[1]),
        helper.make_node("Max", ["middle", "zorse_source_0"], ["out"]),
    ]
    model = _model(nodes, {"yes": True, "source": np.float32(7)}, names=("image", "out"))
    foreign = wrap_onnx(model, BYTES, name="clash")
    assert (_run(foreign, LEVELS)[LEVELS == 100] == 107).all()


def test_wrap_onnx_inlines_functions() -> None:
    body = [helper.make_node("Neg", ["a"], ["b"])]
    function = helper.make_function("local", "Flip", ["a"], ["b"], body, [helper.make_opsetid("", 20)])
    model = _model([helper.make_node("Flip", ["x"], ["y"], domain="local")], domains=("local",), functions=(function,))
    declared = Declared((-1, 1))
    foreign = wrap_onnx(model, declared, name="flip")
    np.testing.assert_array_equal(_run(foreign, LEVELS), 255 - LEVELS)


def _enlarging(opset: int, mode: str) -> onnx.ModelProto:
    """It makes every 3 x 3 pixels one, and enlarges that as opsets before 11 did."""
    nodes = [
        helper.make_node("AveragePool", ["x"], ["small"], kernel_shape=[3, 3], strides=[3, 3]),
        helper.make_node("Upsample" if opset < 10 else "Resize", ["small", "by"], ["y"], mode=mode),
    ]
    return _model(nodes, {"by": np.float32([1, 1, 3, 3])}, opset=opset, ir_version=4)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("opset", [9, 10])
def test_wrap_onnx_keeps_the_resize_mode_of_old_opsets(opset: int, mode: str) -> None:
    model = _enlarging(opset, mode)
    foreign = wrap_onnx(model, dataclasses.replace(BYTES, size_multiple=3), name="old")
    assert foreign.interface.inputs[0].shape[0] == "batch"
    _check(model, BYTES, foreign, _pixels(2, 12, 15, 3))


def _shrinking() -> onnx.ModelProto:
    """It loses every fourth pixel and fills the gap, by a rule of opset 10 that no later one has."""
    nodes = [
        helper.make_node("Resize", ["x", "down"], ["small"], mode="nearest"),
        helper.make_node("Resize", ["small", "up"], ["y"], mode="nearest"),
    ]
    weights = {"down": np.float32([1, 1, 0.75, 0.75]), "up": np.float32([1, 1, 4 / 3, 4 / 3])}
    return _model(nodes, weights, opset=10, ir_version=4)


def test_wrap_onnx_keeps_a_newer_opset() -> None:
    model = _single("Relu", opset=21)
    foreign = wrap_onnx(model, BYTES, name="new")
    assert [entry.version for entry in foreign.model.opset_import] == [21]
    _check(model, BYTES, foreign, LEVELS)


def test_wrap_onnx_keeps_operators_of_onnxruntime() -> None:
    model = _model(
        [helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")], opset=14, domains=("com.microsoft",)
    )
    declared = Declared((0, 1))
    _check(model, declared, wrap_onnx(model, declared, name="gelu"), LEVELS)


def _dropout(live: bool, constant: bool) -> onnx.ModelProto:
    nodes = [helper.make_node("Dropout", ["x", "", "live"], ["y"], name="drop")]
    if constant:
        value = numpy_helper.from_array(np.array(live))
        return _model([helper.make_node("Constant", [], ["live"], value=value), *nodes], opset=13)
    return _model(nodes, {"live": live}, opset=13)


@pytest.mark.parametrize("constant", [False, True])
def test_wrap_onnx_keeps_inactive_dropout(constant: bool) -> None:
    foreign = wrap_onnx(_dropout(False, constant), BYTES, name="calm")
    np.testing.assert_array_equal(_run(foreign, LEVELS), LEVELS)


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
    return _model([node], {"one": np.ones(3, np.float32), "zero": np.zeros(3, np.float32)})


def _custom(domain: str) -> onnx.ModelProto:
    return _model([helper.make_node("Warp", ["x"], ["y"], domain=domain)], domains=(domain,))


REFUSED = [
    (_two(2, 1), {}, r"m has 2 inputs \(in0, in1\)"),
    (_two(1, 2), {}, r"m has 2 outputs \(out0, out1\)"),
    (_single("Relu", given=("n", 3, "h"), made=("n", 3, "h")), {}, r"m: x \[n, 3, h\] has 3 axes"),
    (_single("Flatten", made=("n", "m")), {"max_size": 8}, r"output y \[1, 60\] has 2 axes, .* reshape to NCHW"),
    (_single("Relu", given=(1, 65, 8, 8), made=(1, 65, 8, 8)), {}, r"it has 65 channels, and 1 to 64 can be"),
    (_single("Relu", given=("n", "c", "h", "w")), {}, r"x \[n, c, h, w\]: by the layout NCHW it has c channels"),
    (_single("Relu", given=(1, 8, 8, 3), made=(1, 8, 8, 3)), {}, r"x \[1, 8, 8, 3\] cannot be NCHW: declare .* NHWC"),
    (_single("Relu"), {"layout": "NHWC"}, r"x \[n, 3, h, w\] cannot be NHWC: declare the layout NCHW"),
    (_single("Transpose", perm=[0, 2, 3, 1], made=OPEN_LAST), {"max_size": 8}, r"\[1, 4, 5, 3\] is not NCHW as its"),
    (_generator(made=("n", 8, 2, 3)), {}, r"y \[1, 8, 2, 3\] cannot be NCHW"),
    (_generator(given=("n", "z")), {}, r"input x \['n', 'z'\] is no vector of floats of a fixed length"),
    (_single("Concat", *["x"] * 21, axis=1, made=("n", 66, "h", "w")), {"max_size": 8}, r"makes 66 channels"),
    (_single("AveragePool", kernel_shape=[2, 2], strides=[2, 2]), {"max_size": 8}, r"makes 2×2 pixels of 4×5"),
    (_painter(0, 1, OPEN), {"max_size": 16}, r"makes \d×\d+ pixels of \d×\d+: .* give that as --size-multiple"),
    (_painter(0, 1, OPEN), {"size_multiple": 20, "max_size": 16}, r"multiples of 20 up to 16: there is none"),
    (_single("Relu", dtypes=(TensorProto.DOUBLE,) * 2), {}, r"x is tensor\(double\): convert the network"),
    (_single("Cast", to=TensorProto.INT64, dtypes=(1, TensorProto.INT64)), {}, r"output y is tensor\(int64\)"),
    (_single("Cast", to=1, dtypes=(TensorProto.BFLOAT16, 1)), {}, r"input x is tensor\(bfloat16\)"),
    (_single("Cast", to=1, dtypes=(TensorProto.UINT8, 1)), {}, r"input x is uint8: declare the input range 0..255"),
    (_single("Cast", to=1, dtypes=(2, 1)), {"input_range": (0, 255), "mean": (1.0,)}, r"input x is uint8: .* no mean"),
    (_single("Cast", to=2, dtypes=(1, 2)), {}, r"output y is uint8: declare the output range 0..255"),
    (_single("Relu"), {"mean": (0.5, 0.5)}, r"m takes 3 channels: give one mean, or 3"),
    (_single("Relu"), {"std": (0.5, 0.5)}, r"m takes 3 channels: give one std, or 3"),
    (_single("RandomNormalLike"), {}, r"m: RandomNormalLike at node draws random numbers"),
    (_single("RandomUniformLike"), {}, r"m: RandomUniformLike at node draws random numbers"),
    (_single("Bernoulli"), {}, r"m: Bernoulli at node draws random numbers"),
    (_dropout(True, constant=False), {}, r"m: Dropout at drop is live"),
    (_dropout(True, constant=True), {}, r"m: Dropout at drop is live"),
    (_batch_norm(), {}, r"m: BatchNormalization at norm uses the statistics of the batch"),
    (_custom("my.ops"), {}, r"Warp at y is an operator of my\.ops"),
    (_custom("com.microsoft"), {}, r"onnxruntime does not load it"),
    (_single("Relu", opset=6), {}, r"m has opset 6: export it with opset 7 or newer"),
    (_single("Relu", opset=99), {}, r"m: onnxruntime does not load it"),
    (_single("Nothing"), {}, r"m: onnxruntime does not load it"),
    (_reshaped(3), {}, r"m makes 3 images at a time and no others"),
    (_shrinking(), {"size_multiple": 4}, r"m: converted from opset 10 to 20 it makes images \d+ grey levels off"),
    (_single("Reshape", "to", weights={"to": [1, 3, 700, 7]}), {"max_size": 8}, r"m does not run on .* \[1, 3, 4, 5\]"),
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


def test_load_onnx_reads_weights_beside_the_file(tmp_path: Path) -> None:
    model, path = _painter(-1, 1), tmp_path / "painter.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (loaded, digest), declared = load_onnx(path), Declared((-1, 1))
    foreign = wrap_onnx(loaded, declared, name="painter")
    given = _pixels(2, 16, 16, 3)
    expected = _reference(loaded, declared, given)
    assert np.abs(_run(foreign, given) - expected).max() < 0.51
    weights = bytearray((tmp_path / "weights.bin").read_bytes())
    weights[0] ^= 1
    (tmp_path / "weights.bin").write_bytes(weights)
    assert load_onnx(path).digest != digest
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ImporterError, match=r"painter\.onnx: its weights cannot be read .*weights\.bin") as caught:
        load_onnx(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a model at all", b"\x08\x09", b"{}", None], ids=repr)
def test_load_onnx_refuses_other_files(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImporterError, match=r"model\.onnx (is not an ONNX file|cannot be read)") as caught:
        load_onnx(path)
    assert "\n" not in str(caught.value)


def test_load_onnx_refuses_weights_outside_the_folder(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    path = tmp_path / "folder" / "model.onnx"
    onnx.save(_painter(-1, 1), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "folder" / "weights.bin").rename(tmp_path / "weights.bin")
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = "../weights.bin" if entry.key == "location" else entry.value
    onnx.save(model, path)
    with pytest.raises(ImporterError, match="its weights cannot be read"):
        load_onnx(path)
