"""Foreign ONNX models, old and new, are wrapped until they take and return bytes."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export.declared import Declared
from export.foreign import wrap_onnx
from export.interface import AxisLimits, Latent, SizeLimits
from tests.export.onnx_models import (
    BYTES,
    LEVELS,
    OPEN,
    OPEN_LAST,
    Axes,
    check_wrapped,
    dropout,
    generator_model,
    make_model,
    mixing,
    noise,
    one_node,
    painter,
    random_images,
    reference_images,
    reshaped,
    run_wrapped,
)


def test_wrap_onnx_of_an_old_model_of_fixed_size() -> None:
    model = painter(0, 255, (1, 3, 256, 256))
    model.metadata_props.add(key="author", value="somebody")
    model.graph.node[3].doc_string = "/home/somebody/train.py(12)"
    before = model.SerializeToString()
    foreign = wrap_onnx(model, BYTES, name="painter")
    assert model.SerializeToString() == before
    check_wrapped(model, BYTES, foreign, random_images(3, 256, 256, 3))
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
    model = painter(*bounds, ("n", "h", "w", 3) if last else ("n", 3, "h", "w"), last)
    foreign = wrap_onnx(model, dataclasses.replace(declared, size_multiple=2), max_size=64, name="painter")
    assert foreign.interface.inputs[0].shape == foreign.interface.outputs[0].shape == ("batch", "height", "width", 3)
    assert foreign.interface.size == SizeLimits.square(2, 2, 64)
    for sides in ((8, 8), (16, 10), (30, 64)):
        check_wrapped(model, declared, foreign, random_images(2, *sides, 3))


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
    model, how = one_node("Identity", x=axes, y=axes), Declared(layout=layout, **declared)
    foreign = wrap_onnx(model, how, name="same")
    np.testing.assert_array_equal(run_wrapped(foreign, LEVELS), LEVELS)
    expected = reference_images(model, how, LEVELS)
    np.testing.assert_allclose(expected, LEVELS, atol=1e-3)


def test_wrap_onnx_uses_mean_and_std_of_each_channel() -> None:
    declared = Declared((0, 1), mean=(0.0, 0.1, 0.2), std=(1.0, 0.5, 2.0))
    foreign = wrap_onnx(one_node("Identity"), declared, name="same")
    grey = np.full((1, 2, 3, 3), 102, np.uint8)
    np.testing.assert_array_equal(run_wrapped(foreign, grey)[0, 0, 0], [102, 153, 26])  # 0.4 -> 0.4, 0.6, 0.1


@pytest.mark.parametrize(
    ("factor", "levels"), [(0.5, {1: 0, 3: 2, 5: 2, 255: 128}), (2, {100: 200, 200: 255}), (-1, {9: 0})]
)
def test_wrap_onnx_rounds_half_to_even_and_clips(factor: float, levels: dict[int, int]) -> None:
    model = one_node("Mul", "factor", weights={"factor": np.float32(factor)})
    foreign = wrap_onnx(model, BYTES, name="scaled")
    image = run_wrapped(foreign, LEVELS)
    assert {level: int(image[level == LEVELS][0]) for level in levels} == levels
    expected = reference_images(model, BYTES, LEVELS)
    assert 0 <= expected.min() <= expected.max() <= 255


def test_onnx_source_keeps_values_that_are_not_finite() -> None:
    model = one_node("Div", "zero", weights={"zero": np.float32(0)})
    values = reference_images(model, BYTES, np.array([0, 1], np.uint8).reshape(1, 1, 2, 1).repeat(3, -1))
    assert np.isnan(values[0, 0, 0]).all()
    assert np.isposinf(values[0, 0, 1]).all()


def test_find_size_limits_finds_the_smallest_size_silently(capfd: pytest.CaptureFixture[str]) -> None:
    pads = np.array([0, 0, 3, 3, 0, 0, 3, 3], np.int64)
    nodes = [
        helper.make_node("Pad", ["x", "pads"], ["padded"], mode="reflect"),
        helper.make_node("AveragePool", ["padded"], ["y"], kernel_shape=[7, 7]),
    ]
    foreign = wrap_onnx(make_model(nodes, {"pads": pads}), BYTES, max_size=100, name="blur")
    assert foreign.interface.size == SizeLimits.square(1, 4, 100)
    assert capfd.readouterr() == ("", "")


def test_wrap_onnx_keeps_one_fixed_axis() -> None:
    axes = (1, 3, "h", 24)
    foreign = wrap_onnx(painter(0, 255, axes), dataclasses.replace(BYTES, size_multiple=4), max_size=30, name="strip")
    assert foreign.interface.inputs[0].shape == foreign.interface.outputs[0].shape == ("batch", "height", 24, 3)
    assert foreign.interface.size == SizeLimits(AxisLimits(4, 4, 28), AxisLimits(24, 24, 24))
    check_wrapped(painter(0, 255, axes), BYTES, foreign, random_images(2, 12, 24, 3))


@pytest.mark.parametrize(
    ("x", "y", "layout"),
    [
        (("n", 8), ("n", 3, 4, 4), "NCHW"),
        ((1, 8), (1, 3, 4, 4), "NCHW"),
        ((1, 8, 1, 1), (1, 3, 4, 4), "NCHW"),
        (("n", 8), ("n", 4, 4, 3), "NHWC"),
        (("n", 1, 1, 8), ("n", 4, 4, 3), "NHWC"),
    ],
    ids=str,
)
def test_wrap_onnx_of_generators(x: Axes, y: Axes, layout: Any) -> None:
    declared, model = Declared((-1, 1), layout=layout), generator_model(x, y)
    foreign = wrap_onnx(model, declared, name="maker")
    check_wrapped(model, declared, foreign, noise(5, 8))
    assert foreign.interface.kind == "generator"
    assert foreign.interface.latent == Latent(8)
    assert foreign.interface.size is None
    assert (foreign.interface.inputs[0].name, foreign.interface.inputs[0].dtype, foreign.interface.inputs[0].shape) == (
        "latent",
        "float32",
        ("batch", 8),
    )
    assert foreign.interface.outputs[0].shape == ("batch", 4, 4, 3)


@pytest.mark.parametrize("model", [reshaped(1), mixing()], ids=["written in the graph", "neighbours change the image"])
def test_wrap_onnx_fixes_a_batch_that_cannot_vary(model: onnx.ModelProto) -> None:
    foreign = wrap_onnx(model, BYTES, name="lonely")
    assert foreign.interface.inputs[0].shape[0] == foreign.interface.outputs[0].shape[0] == 1
    inputs = random_images(1, 4, 4, 3)
    np.testing.assert_allclose(run_wrapped(foreign, inputs), reference_images(model, BYTES, inputs))


@pytest.mark.parametrize("batch", [1, 3])
def test_wrap_onnx_opens_a_fixed_batch(batch: int) -> None:
    model = painter(0, 255, (batch, 3, 16, 16))
    foreign = wrap_onnx(model, BYTES, name="painter")
    assert foreign.interface.inputs[0].shape == ("batch", 16, 16, 3)
    check_wrapped(model, BYTES, foreign, random_images(2, 16, 16, 3))


@pytest.mark.parametrize("half", [(True, True), (True, False), (False, True)], ids=str)
def test_wrap_onnx_of_half_precision(half: tuple[bool, bool]) -> None:
    dtypes = [TensorProto.FLOAT16 if is_half else TensorProto.FLOAT for is_half in half]
    model = one_node("Cast", to=dtypes[1], dtypes=(dtypes[0], dtypes[1]))
    foreign = wrap_onnx(model, Declared((-1, 1)), name="half")
    assert np.abs(run_wrapped(foreign, LEVELS).astype(int) - LEVELS).max() == 0


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_wrap_onnx_of_uint8_is_exact(layout: Any) -> None:
    axes = OPEN if layout == "NCHW" else OPEN_LAST
    model = one_node("Identity", x=axes, y=axes, dtypes=(TensorProto.UINT8, TensorProto.UINT8))
    declared = Declared((0, 255), layout=layout)
    foreign = wrap_onnx(model, declared, name="bytes")
    np.testing.assert_array_equal(run_wrapped(foreign, LEVELS), LEVELS)
    np.testing.assert_array_equal(reference_images(model, declared, LEVELS), LEVELS)


def test_wrap_onnx_of_a_wrapped_model() -> None:
    model, declared = (
        wrap_onnx(painter(-1, 1), Declared((-1, 1)), name="once").model,
        Declared((0, 255), layout="NHWC"),
    )
    foreign = wrap_onnx(model, declared, name="twice")
    check_wrapped(model, declared, foreign, random_images(2, 16, 16, 3))
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
    model = make_model(nodes, {"yes": True, "source": np.float32(7)}, names=("image", "out"))
    foreign = wrap_onnx(model, BYTES, name="clash")
    assert (run_wrapped(foreign, LEVELS)[LEVELS == 100] == 107).all()


def test_wrap_onnx_inlines_functions() -> None:
    body = [helper.make_node("Neg", ["a"], ["b"])]
    function = helper.make_function("local", "Flip", ["a"], ["b"], body, [helper.make_opsetid("", 20)])
    model = make_model(
        [helper.make_node("Flip", ["x"], ["y"], domain="local")], domains=("local",), functions=(function,)
    )
    declared = Declared((-1, 1))
    foreign = wrap_onnx(model, declared, name="flip")
    np.testing.assert_array_equal(run_wrapped(foreign, LEVELS), 255 - LEVELS)


def _enlarging(opset: int, mode: str) -> onnx.ModelProto:
    """It makes every 3 x 3 pixels one, and enlarges that as opsets before 11 did."""
    nodes = [
        helper.make_node("AveragePool", ["x"], ["small"], kernel_shape=[3, 3], strides=[3, 3]),
        helper.make_node("Upsample" if opset < 10 else "Resize", ["small", "by"], ["y"], mode=mode),
    ]
    return make_model(nodes, {"by": np.float32([1, 1, 3, 3])}, opset=opset, ir_version=4)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("opset", [9, 10])
def test_wrap_onnx_keeps_the_resize_mode_of_old_opsets(opset: int, mode: str) -> None:
    model = _enlarging(opset, mode)
    foreign = wrap_onnx(model, dataclasses.replace(BYTES, size_multiple=3), name="old")
    assert foreign.interface.inputs[0].shape[0] == "batch"
    check_wrapped(model, BYTES, foreign, random_images(2, 12, 15, 3))


def test_wrap_onnx_keeps_a_newer_opset() -> None:
    model = one_node("Relu", opset=21)
    foreign = wrap_onnx(model, BYTES, name="new")
    assert [entry.version for entry in foreign.model.opset_import] == [21]
    check_wrapped(model, BYTES, foreign, LEVELS)


def test_wrap_onnx_keeps_operators_of_onnxruntime() -> None:
    model = make_model(
        [helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")], opset=14, domains=("com.microsoft",)
    )
    declared = Declared((0, 1))
    check_wrapped(model, declared, wrap_onnx(model, declared, name="gelu"), LEVELS)


@pytest.mark.parametrize("constant", [False, True])
def test_wrap_onnx_keeps_inactive_dropout(constant: bool) -> None:
    foreign = wrap_onnx(dropout(False, constant), BYTES, name="calm")
    np.testing.assert_array_equal(run_wrapped(foreign, LEVELS), LEVELS)
