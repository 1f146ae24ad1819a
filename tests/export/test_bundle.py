"""What is staged beside the model: the golden sample, digests, and Triton's configuration; and names of artifacts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from export import graph
from export.bundle import describe, model_name, write_model
from export.errors import RepositoryError
from export.interface import TensorSpec
from export.manifest import GOLDEN_FILE, MODEL_FILE, WEIGHTS_FILE, Manifest, file_entry, golden_key, read_manifest
from export.pipeline import prove
from export.proof import compare_with_reference, run_reference
from export.repository import Repository
from export.targets import base as targets
from export.triton import triton_config
from serving import artifacts
from tests.export.networks import converted, under_test

GOLDEN = Manifest.from_json((Path(__file__).parent / "golden_manifest.json").read_text(encoding="utf-8"))
PLAIN = targets.find("onnx")


def _stage(folder: Path) -> Manifest:
    """Stage a generator in the new `folder`."""
    return prove(under_test(*converted("dcgan_generator")), PLAIN, [], ((4, 8),), "cuda", folder)


def _replay(folder: Path) -> int:
    """How many golden inputs there are, once the model makes of each what it made before."""
    session = onnxruntime.InferenceSession(folder / MODEL_FILE, providers=["CPUExecutionProvider"])
    with np.load(folder / GOLDEN_FILE, allow_pickle=False) as golden:
        name, count = session.get_inputs()[0].name, len(golden.files) // 2
        sides = (("input", name), ("output", "image"))
        assert set(golden.files) == {golden_key(side, i, tensor) for side, tensor in sides for i in range(count)}
        for index in range(count):
            (image,) = session.run(None, {name: golden[golden_key("input", index, name)]})
            np.testing.assert_array_equal(image, golden[golden_key("output", index, "image")])
    return count


def test_manifest_describes_the_files_beside_it(tmp_path: Path) -> None:
    manifest = _stage(tmp_path / "staged")
    model = onnx.load(tmp_path / "staged" / MODEL_FILE)
    assert {path.name for path in (tmp_path / "staged").iterdir()} == set(manifest.files) == {MODEL_FILE, GOLDEN_FILE}
    for name, entry in manifest.files.items():
        assert entry == file_entry(tmp_path / "staged" / name)
    assert manifest.nodes == len(model.graph.node)
    assert manifest.opset == 20
    assert manifest.graph_digest == graph.graph_digest(model)
    assert manifest.weights_digest == graph.weights_digest(model)
    assert (manifest.task, manifest.licence, manifest.buckets) == ("gan", "CC0", ((4, 8),))
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert facts["zorse.source_digest"] == "cc"
    assert facts["zorse.images_seen"] == "7"
    assert "zorse.direction" not in facts


def test_golden_sample_is_what_the_model_makes(tmp_path: Path, pair: list[Path], generator: Path) -> None:
    _stage(tmp_path / "staged")
    assert _replay(tmp_path / "staged") == 3
    assert all(_replay(folder) > 1 for folder in (*pair, generator))


def test_weights_above_the_limit_are_in_a_separate_file(tmp_path: Path) -> None:
    inside = _stage(tmp_path / "inside")
    tested, folder = under_test(*converted("dcgan_generator")), tmp_path / "apart"
    write_model(tested.model, tested, PLAIN, folder)
    (folder / MODEL_FILE).unlink()
    graph.save(tested.model, folder, inline_bytes=1000)
    result = compare_with_reference(tested, folder, PLAIN, run_reference(tested, PLAIN))
    apart = describe(tested.model, tested, PLAIN, result, (), folder)
    assert set(apart.files) == {MODEL_FILE, WEIGHTS_FILE, GOLDEN_FILE}
    assert apart.files[MODEL_FILE].nbytes < inside.files[MODEL_FILE].nbytes
    assert apart.weights_digest == inside.weights_digest
    assert apart.graph_digest == inside.graph_digest
    repository = Repository(str(tmp_path / "repository"))
    repository.add(tmp_path / "apart", apart)
    published = artifacts.load(tmp_path / "repository" / "toy")
    assert (published.path / WEIGHTS_FILE).is_file()
    assert _replay(published.path) == 3


def test_model_name_has_the_direction_of_translators() -> None:
    assert model_name("stripes", "AtoB") == "stripes-AtoB"
    assert model_name("digits", None) == "digits"


@pytest.mark.parametrize("name", ["", "../up", ".hidden", "a/b", "two words", "naïve"])
def test_model_name_that_breaks_a_path_or_url_is_refused(name: str) -> None:
    with pytest.raises(RepositoryError, match="--name"):
        model_name(name, None)


def test_triton_config_of_a_published_translator(pair: list[Path]) -> None:
    assert (pair[0].parent / "config.pbtxt").read_text(encoding="utf-8") == (
        'name: "toy-AtoB"\n'
        'platform: "onnxruntime_onnx"\n'
        "max_batch_size: 16\n"
        'input [ { name: "source" data_type: TYPE_UINT8 dims: [ -1, -1, 3 ] } ]\n'
        'output [ { name: "image" data_type: TYPE_UINT8 dims: [ -1, -1, 3 ] } ]\n'
        "dynamic_batching { }\n"
    )


def test_triton_config_of_a_generator(generator: Path) -> None:
    text = triton_config(read_manifest(generator))
    assert 'input [ { name: "latent" data_type: TYPE_FP32 dims: [ 8 ] } ]\n' in text
    assert 'output [ { name: "image" data_type: TYPE_UINT8 dims: [ 16, 16, 3 ] } ]\n' in text


@pytest.mark.parametrize(
    ("dtype", "shape", "declared"),
    [
        ("uint8", ("batch", 256, 256, 3), "data_type: TYPE_UINT8 dims: [ 256, 256, 3 ]"),
        ("uint16", ("batch", "height", 256, 1), "data_type: TYPE_UINT16 dims: [ -1, 256, 1 ]"),
        ("float32", ("batch", "height", "width", 12), "data_type: TYPE_FP32 dims: [ -1, -1, 12 ]"),
        ("int64", ("batch",), "data_type: TYPE_INT64 dims: [  ]"),
    ],
)
def test_triton_config_has_axes_and_types(dtype: Any, shape: tuple[int | str, ...], declared: str) -> None:
    interface = dataclasses.replace(GOLDEN.interface, inputs=(TensorSpec("source", dtype, shape, "an image"),))
    text = triton_config(dataclasses.replace(GOLDEN, interface=interface))
    assert f'input [ {{ name: "source" {declared} }} ]' in text
    assert "max_batch_size: 16\n" in text


def test_triton_config_has_no_batch_axis_for_a_fixed_batch() -> None:
    tensor = TensorSpec("source", "uint8", (1, 256, "width", 3), "an image")
    output = dataclasses.replace(tensor, name="y")
    interface = dataclasses.replace(GOLDEN.interface, inputs=(tensor,), outputs=(output,))
    text = triton_config(dataclasses.replace(GOLDEN, interface=interface))
    assert "max_batch_size: 0\n" in text
    assert 'input [ { name: "source" data_type: TYPE_UINT8 dims: [ 1, 256, -1, 3 ] } ]' in text
    assert 'output [ { name: "y" data_type: TYPE_UINT8 dims: [ 1, 256, -1, 3 ] } ]' in text
    assert "dynamic_batching" not in text
