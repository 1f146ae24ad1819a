"""Conditional generators and super-resolution networks go through all of export, and are then loaded and run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from export.errors import RefusedError, UnsupportedGraphError
from export.manifest import GOLDEN_FILE, Manifest, read_manifest
from export.pipeline import export
from export.triton import triton_config
from export.wrapper import wrap
from serving.local_model import LocalModel
from serving.selftest import verify_artifact
from tests.export.conftest import MakeSnapshot
from tests.export.networks import CLASSES, CONDITIONAL, SCALER, SIDE, ConditionalGenerator, build
from trainer.snapshot import Network, read_snapshot

NAMES = ["ant", "bee", "cat"]


@pytest.fixture(scope="module")
def conditional(make_snapshot: MakeSnapshot) -> str:
    """The place of a snapshot with a generator of three classes."""
    return make_snapshot(generator=Network(CONDITIONAL, None, 8), steps=30)


def _exported(place: str, folder: Path, **options: object) -> tuple[Path, Manifest]:
    (artifact,) = export(place, str(folder), **options)
    return Path(artifact), read_manifest(Path(artifact))


def _network_images(place: str, network: str, *inputs: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        values = read_snapshot(place).build(network)(*inputs).numpy()
    return np.round((values + 1) * 127.5).transpose(0, 2, 3, 1)


@pytest.mark.parametrize("target", ["onnx", "onnx-fp16", "onnx-int8"])
def test_conditional_generator_is_proved_with_every_target(target: str, conditional: str, tmp_path: Path) -> None:
    artifact, manifest = _exported(conditional, tmp_path, target=target, buckets=[(4, 6)])
    assert manifest.interface.labels == ("0", "1", "2")
    latent, label = manifest.interface.inputs
    assert (latent.name, latent.dtype, latent.shape) == ("latent", "float32", ("batch", 6))
    assert (label.name, label.dtype, label.shape, label.value_range) == ("label", "int64", ("batch",), (0, CLASSES - 1))
    assert manifest.proof.shapes == ((1, 6), (3, 6), (16, 6), (4, 6))
    found = verify_artifact(artifact, "cpu")
    assert (found.samples, found.buckets) == (3, 1)
    with np.load(artifact / GOLDEN_FILE) as golden:
        assert set(golden.files) == {
            f"{side}/{number}/{name}"
            for number in range(3)
            for side, name in (("input", "latent"), ("input", "label"), ("output", "image"))
        }
        seen = {int(number) for key, array in golden.items() if key.endswith("label") for number in array}
    assert seen == set(range(CLASSES))


def test_conditional_generator_makes_the_images_of_its_classes(conditional: str, tmp_path: Path) -> None:
    artifact, manifest = _exported(conditional, tmp_path)
    model = LocalModel.load(artifact, "cpu", threads=1)
    latent = np.random.default_rng(0).standard_normal((CLASSES, 6), dtype=np.float32)
    label = np.arange(CLASSES)
    image = model.run({"latent": latent, "label": label})["image"]
    expected = _network_images(conditional, "generator", torch.from_numpy(latent), torch.from_numpy(label))
    assert np.abs(image - expected).max() <= 1
    same = model.generate(2, seed=1, labels=[0, 0])
    assert np.abs(same[1].astype(int) - model.generate(2, seed=1, labels=[0, 2])[1]).max() > 10
    assert '{ name: "label" data_type: TYPE_INT64 dims: [  ] }' in triton_config(manifest)
    facts = {entry.key: entry.value for entry in onnx.load(artifact / "model.onnx").metadata_props}
    assert facts["zorse.labels"] == '["0", "1", "2"]'


def test_conditional_generator_keeps_the_names_of_its_classes(make_snapshot: MakeSnapshot, tmp_path: Path) -> None:
    place = make_snapshot(generator=Network(CONDITIONAL, None, 8, NAMES), steps=5)
    artifact, manifest = _exported(place, tmp_path)
    assert manifest.interface.labels == tuple(NAMES)
    model = LocalModel.load(artifact, "cpu", threads=1)
    np.testing.assert_array_equal(model.generate(1, seed=3, labels="bee"), model.generate(1, seed=3, labels=1))


@pytest.mark.parametrize("labels", [["ant"], ["ant", "ant", "bee"], [*NAMES, "dog"]])
def test_wrap_refuses_labels_that_are_not_one_for_each_class(labels: list[str]) -> None:
    network = ConditionalGenerator(ConditionalGenerator.Config())
    with pytest.raises(UnsupportedGraphError, match=r"has 3 classes and \d different labels: give one each"):
        wrap(network, "toy", training_size=8, labels=labels)


def test_wrap_refuses_labels_for_a_network_without_classes() -> None:
    for section in ({"type": "dcgan_generator", "size": 16, "width": 4}, {"type": "resnet_generator", "width": 4}):
        with pytest.raises(UnsupportedGraphError, match="classes: leave its labels out"):
            wrap(build(section), "toy", training_size=16, labels=NAMES)


@pytest.mark.parametrize("target", ["onnx", "onnx-fp16"])
@pytest.mark.parametrize("scale", [2, 4])
def test_super_resolution_network_is_proved_and_run(
    scale: int, target: str, make_snapshot: MakeSnapshot, pictures: Path, tmp_path: Path
) -> None:
    network = Network(SCALER | {"scale": scale}, "AtoB", SIDE)
    place = make_snapshot("pix2pix", G=network, steps=20)
    artifact, manifest = _exported(place, tmp_path, target=target, images=str(pictures), max_size=48)
    assert (manifest.interface.scale, manifest.proof.real_images) == (scale, 3)
    assert manifest.interface.inputs[0].shape == ("batch", "height", "width", 3)
    assert manifest.interface.outputs[0].shape == ("batch", f"height_x{scale}", f"width_x{scale}", 3)
    assert manifest.proof.cycle is None
    assert verify_artifact(artifact, "cpu").max_grey_diff == 0
    source = np.random.default_rng(0).integers(0, 256, (20, SIDE, 3), dtype=np.uint8)
    image = LocalModel.load(artifact, "cpu", threads=1).translate(source)
    assert image.shape == (20 * scale, SIDE * scale, 3)
    values = torch.from_numpy(source[None].transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1)
    expected = _network_images(place, "G", values)[0]
    assert np.abs(image - expected).max() <= (1 if target == "onnx" else 2)


def test_super_resolution_network_of_another_scale_is_refused(make_snapshot: MakeSnapshot, tmp_path: Path) -> None:
    place = make_snapshot("pix2pix", G=Network(SCALER | {"scale": 2, "promised": 4}, "AtoB", SIDE))
    with pytest.raises(RefusedError) as caught:
        export(place, str(tmp_path / "r"))
    pattern = r"its images are \d+×\d+ and should be \d+×\d+: check its padding"
    assert caught.group_contains(UnsupportedGraphError, match=pattern)
    assert not (tmp_path / "r").exists()
