"""A proof fails if the model differs from its reference; it says by how much, and names the first diverging layer."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor

from export import graph
from export.convert import convert
from export.cycle import cycle_error
from export.errors import ProofError, RefusedError
from export.feeds import Feeds, total_bytes
from export.interface import SizeLimits
from export.lint import trace
from export.manifest import MODEL_FILE
from export.model_under_test import ModelUnderTest
from export.proof import ProofResult, compare_with_reference, run_reference
from export.proof_inputs import proof_inputs
from export.targets import base as targets
from export.wrapper import TraceableModel, wrap
from tests.export.faults import FaultyGenerator
from tests.export.networks import LARGEST, SIDE, build, converted, under_test

PLAIN = targets.find("onnx")
Change = Callable[[onnx.ModelProto], None]


def _copy(model: onnx.ModelProto, change: Change = lambda model: None) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    change(copy)
    return copy


def _verify(against: ModelUnderTest, model: onnx.ModelProto, folder: Path, **options: Any) -> ProofResult:
    graph.save(model, folder)
    return compare_with_reference(against, folder, PLAIN, run_reference(against, PLAIN, **options))


def _refusal(against: ModelUnderTest, model: onnx.ModelProto, folder: Path, **options: Any) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        _verify(against, model, folder, **options)
    assert caught.value.message == "toy is not proved"
    assert all(type(error) is ProofError for error in caught.value.exceptions)
    assert "\n" not in str(caught.value)
    return caught.value


def _named_layer(error: RefusedError) -> str:
    """The layer in the last of the errors; those before it say how far the images are apart."""
    *differences, last = map(str, error.exceptions)
    assert differences
    for text in differences:
        assert re.match(r"for input \(\d+(, \d+)+\) onnxruntime is up to [\d.e+]+ grey levels from torch [\d.]+", text)
        assert text.endswith("(onnx allows 1 and 45 dB)")
    found = re.fullmatch(r"the first layer that diverges is (\S+) \(relative error ([\d.e+-]+)\)", last)
    assert found, last
    assert float(found[2]) > PLAIN.layer_tolerance
    return found[1]


def _weight(layer: str) -> Change:
    """One weight of the layer is another."""

    def change(model: onnx.ModelProto) -> None:
        node = next(node for node in model.graph.node if node.name.rpartition("/")[0] == layer and len(node.input) > 1)
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[1])
        values = numpy_helper.to_array(tensor).copy()
        values.flat[values.size // 2] += 3
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    return change


def _padding(layer: str) -> Change:
    """The layer repeats the border instead of reflecting it."""

    def change(model: onnx.ModelProto) -> None:
        node = next(node for node in model.graph.node if node.name == f"{layer}/Pad")
        next(attribute for attribute in node.attribute if attribute.name == "mode").s = b"edge"

    return change


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("resnet_generator", "layers.1"),
        ("resnet_generator", "layers.10.layers.5"),
        ("resnet_generator", "layers.18"),
        ("antialiased", "layers.14"),
        ("unet_generator", "down.2.1"),
        ("dcgan_generator", "layers.9"),
    ],
)
def test_proof_names_the_layer_of_one_changed_weight(name: str, layer: str, tmp_path: Path) -> None:
    traceable, model = converted(name)
    assert layer in dict(traceable.graph.network.named_modules())
    changed = _copy(model, _weight(layer))
    assert graph.graph_digest(changed) == graph.graph_digest(model)
    assert graph.weights_digest(changed) != graph.weights_digest(model)
    assert _named_layer(_refusal(under_test(traceable, model), changed, tmp_path)) == layer


@pytest.mark.parametrize("layer", ["layers.0", "layers.10.layers.0", "layers.17"])
def test_proof_names_the_layer_of_another_padding(layer: str, tmp_path: Path) -> None:
    traceable, model = converted("resnet_generator")
    changed = _copy(model, _padding(layer))
    assert graph.graph_digest(changed) != graph.graph_digest(model)
    assert _named_layer(_refusal(under_test(traceable, model), changed, tmp_path)) == layer


def test_proof_names_no_layer_if_the_divergence_is_after_the_last(tmp_path: Path) -> None:
    def darker(model: onnx.ModelProto) -> None:
        node = next(node for node in model.graph.node if node.name == "image/Add")
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name in node.input)
        tensor.CopyFrom(numpy_helper.from_array(np.array(0.9, np.float32), tensor.name))

    traceable, model = converted("dcgan_generator")
    error = _refusal(under_test(traceable, model), _copy(model, darker), tmp_path)
    assert all(str(one).startswith("for input (") for one in error.exceptions)


def test_proof_names_the_layer_that_makes_nan(tmp_path: Path) -> None:
    def spoil(model: onnx.ModelProto) -> None:
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "network.layers.18.weight")
        tensor.CopyFrom(numpy_helper.from_array(np.full(tensor.dims, np.nan, np.float32), tensor.name))

    traceable, model = converted("resnet_generator")
    *_, last = _refusal(under_test(traceable, model), _copy(model, spoil), tmp_path).exceptions
    assert str(last) == "the first layer that diverges is layers.18 (relative error nan)"


def test_proof_names_every_input_that_differs(tmp_path: Path) -> None:
    traceable, model = converted("dcgan_generator")
    error = _refusal(under_test(traceable, model), _copy(model, _weight("layers.9")), tmp_path)
    inputs = [str(one).partition(" onnxruntime")[0] for one in error.exceptions[:-1]]
    assert inputs == ["for input (1, 8)", "for input (3, 8)", "for input (16, 8)"]


def test_proof_refuses_other_weights(tmp_path: Path) -> None:
    model = converted("resnet_generator")[1]
    other = wrap(
        build({"type": "resnet_generator", "width": 4, "blocks": 1}), "toy", training_size=SIDE, max_size=LARGEST
    )
    assert _named_layer(_refusal(under_test(other, model), model, tmp_path)) == "layers.1"


def _tiny(change: Callable[[Tensor], Tensor] = torch.tanh) -> tuple[TraceableModel, onnx.ModelProto]:
    torch.manual_seed(0)
    traceable = wrap(FaultyGenerator(change).eval(), "toy", training_size=4)
    return traceable, convert(trace(traceable, "toy"), traceable.interface)


@pytest.fixture(scope="module")
def tiny() -> tuple[TraceableModel, onnx.ModelProto]:
    """A generator of one layer."""
    return _tiny()


def test_proof_refuses_an_image_that_depends_on_its_batch(tmp_path: Path) -> None:
    traceable, model = _tiny(lambda x: x - x.mean(0, keepdim=True))
    (error,) = _refusal(under_test(traceable, model), model, tmp_path).exceptions
    assert re.match(r"in a batch of 3 an image is [\d.]+ grey levels from what it is alone: is a norm", str(error))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_proof_refuses_values_that_are_not_finite_though_rounding_hides_them(
    value: float, tiny: tuple[TraceableModel, onnx.ModelProto], tmp_path: Path
) -> None:
    class Broken:
        name = "torch 1.2.3"

        def image(self, feeds: Feeds) -> np.ndarray:
            return np.full((len(feeds["latent"]), 4, 4, 3), value, np.float32)

        def layers(self, feeds: Feeds) -> dict[str, np.ndarray]:
            return {}

    traceable, model = tiny
    against = dataclasses.replace(under_test(traceable, model), reference=Broken())
    (error,) = _refusal(against, model, tmp_path).exceptions
    assert str(error) == "for input (1, 4) 48 of 48 values of torch 1.2.3 are not finite"


@pytest.mark.parametrize(
    ("side", "change"),
    [
        ("outputs", {"name": "picture"}),
        ("outputs", {"dtype": "float32"}),
        ("outputs", {"shape": ("batch", 4, 4, 1)}),
        ("inputs", {"shape": (1, 4)}),
    ],
)
def test_proof_refuses_a_model_of_another_interface(
    side: str, change: dict[str, Any], tiny: tuple[TraceableModel, onnx.ModelProto], tmp_path: Path
) -> None:
    against = under_test(*tiny)
    (spec,) = getattr(against.interface, side)
    changed = dataclasses.replace(against.interface, **{side: (dataclasses.replace(spec, **change),)})
    other = dataclasses.replace(against, interface=changed)
    (error,) = _refusal(other, tiny[1], tmp_path).exceptions
    assert re.match(r"the model's inputs and outputs are .* and the contract wants .*", str(error))


def test_proof_refuses_a_file_that_is_no_model(tiny: tuple[TraceableModel, onnx.ModelProto], tmp_path: Path) -> None:
    against = under_test(*tiny)
    (tmp_path / MODEL_FILE).write_bytes(b"not a model")
    with pytest.raises(RefusedError) as caught:
        compare_with_reference(against, tmp_path, PLAIN, run_reference(against, PLAIN))
    assert caught.group_contains(ProofError, match="^onnxruntime does not load the model")


def test_proof_refuses_a_size_that_torch_does_not_take(tmp_path: Path) -> None:
    traceable, model = converted("unet_generator")
    against = under_test(traceable, model)
    interface = dataclasses.replace(against.interface, size=SizeLimits.square(4, 12, 36))
    against = dataclasses.replace(against, interface=interface)
    (error,) = _refusal(against, model, tmp_path).exceptions
    assert re.match(r"torch does not run on input \(3, 12, 12, 3\) \(.+\)", str(error))


def test_proof_refuses_a_size_that_only_the_graph_does_not_take(tmp_path: Path) -> None:
    model = _copy(converted("resnet_generator")[1])
    for port in (model.graph.input[0], model.graph.output[0]):
        port.type.tensor_type.shape.dim[1].dim_value = SIDE
    traceable = converted("resnet_generator")[0]
    against = under_test(traceable, model)
    fixed = {
        side: (dataclasses.replace(getattr(against.interface, side)[0], shape=("batch", SIDE, "width", 3)),)
        for side in ("inputs", "outputs")
    }
    against = dataclasses.replace(against, interface=dataclasses.replace(against.interface, **fixed))
    (error,) = _refusal(against, model, tmp_path).exceptions
    assert re.match(r"onnxruntime does not run on input \(3, 8, 8, 3\) \(.*Got: 8 Expected: 32", str(error))


def test_buckets_are_proved_with_their_axes_fixed(tmp_path: Path) -> None:
    traceable, model = converted("resnet_generator")
    against = under_test(traceable, model)
    proof = _verify(against, model, tmp_path, buckets=[(5, 16, 40, 3)]).proof
    assert proof.shapes[-1] == (5, 16, 40, 3)
    assert (5, 16, 40, 3) not in [feeds["source"].shape for feeds in proof_inputs(against)]


def test_proof_has_the_measured_figures(tmp_path: Path) -> None:
    traceable, model = converted("resnet_generator")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    class Shifted:
        """One value of each input is a grey level off."""

        name = "shifted"

        def image(self, feeds: Feeds) -> np.ndarray:
            levels = session.run(None, dict(feeds))[0].astype(np.float32)
            levels[0, 0, 0, 0] += 1 if levels[0, 0, 0, 0] < 128 else -1
            return levels

        def layers(self, feeds: Feeds) -> dict[str, np.ndarray]:
            return {}

    against = under_test(traceable, model)
    images = [np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)]
    proof = _verify(dataclasses.replace(against, reference=Shifted()), model, tmp_path, images=images).proof
    sources = [feeds["source"] for feeds in proof_inputs(against)]
    assert (proof.max_grey_diff, proof.p999_grey_diff, proof.tolerance) == (1, 0, 1)
    assert (proof.real_images, proof.reference, proof.onnxruntime) == (1, "shifted", onnxruntime.__version__)
    assert set(proof.shapes) == {source.shape for source in sources} | {(1, 16, 24, 3)}
    values = sum(source.size for source in sources) + images[0].size
    assert proof.psnr == pytest.approx(10 * np.log10(255**2 * values / (len(sources) + 1)), abs=0.01)


def test_golden_sample_is_small_and_has_the_images_of_the_model(tmp_path: Path) -> None:
    traceable, model = converted("resnet_generator")
    golden = _verify(under_test(traceable, model), model, tmp_path).golden
    assert len(golden) > 1
    assert sum(total_bytes(sample.feeds) + sample.image.nbytes for sample in golden) <= 2**18
    smallest = min(total_bytes(feeds) for feeds in proof_inputs(under_test(traceable, model)))
    assert total_bytes(golden[0].feeds) == smallest
    for sample in golden:
        assert sample.feeds["source"].shape == sample.image.shape
        assert sample.image.dtype == np.uint8


def test_cycle_error_is_measured_with_reference_and_onnxruntime(tmp_path: Path) -> None:
    traceable, model = converted("resnet_generator")
    graph.save(model, tmp_path)
    end = (under_test(traceable, model), tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    error = cycle_error(end, end, [image])
    assert error.reference == pytest.approx(error.onnxruntime, abs=0.1)
    assert 1 < error.onnxruntime < 255
    changed = tmp_path / "changed"
    changed.mkdir()
    graph.save(_copy(model, _weight("layers.18")), changed)
    assert abs(cycle_error(end, (end[0], changed), [image]).onnxruntime - error.reference) > 0.1
