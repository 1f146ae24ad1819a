"""`config.pbtxt` says the same as the manifest, as parsed by tritonclient's own protobuf message."""

from __future__ import annotations

import json
import subprocess
import venv
from pathlib import Path
from typing import Any

import pytest

from export.interface import TensorSpec
from export.manifest import Manifest
from export.triton import triton_config
from tests.serving.tiny import REALS, WORDS, Axes, generator_manifest, inverter_manifest, with_interface

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
CONSTRAINTS = Path(__file__).with_name("triton-constraints.txt")
READ = """
import json, sys
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as messages

def ports(tensors):
    return [[tensor.name, messages.DataType.Name(tensor.data_type), list(tensor.dims)] for tensor in tensors]

def read(text):
    try:
        config = text_format.Parse(text, messages.ModelConfig())
    except text_format.ParseError as error:
        return {"error": str(error)}
    return {
        "name": config.name,
        "platform": config.platform,
        "max_batch_size": config.max_batch_size,
        "input": ports(config.input),
        "output": ports(config.output),
        "dynamic_batching": config.HasField("dynamic_batching"),
        "other": sorted({field.name for field, _ in config.ListFields()}),
    }

json.dump([read(text) for text in json.load(sys.stdin)], sys.stdout)
"""

SQUARE: Axes = (1, 256, 256, 3)
LABELLED = with_interface(
    generator_manifest("labelled"),
    inputs=(*generator_manifest().interface.inputs, TensorSpec("label", "int64", ("batch",), "class", (0, 9))),
)
MANIFESTS = {
    "generator": generator_manifest(),
    "translator": inverter_manifest("horse2zebra-AtoB"),
    "fixed size": inverter_manifest(axes=("batch", 128, 256, 3)),
    "fixed size and batch": inverter_manifest(axes=SQUARE),
    "16 bits": inverter_manifest(pixels=WORDS),
    "floats": inverter_manifest(pixels=REALS),
    "generator of 16 bits, one at a time": generator_manifest(pixels=WORDS, batch=1),
    "with labels": LABELLED,
}


def run(*command: str | Path, stdin: str = "") -> str:
    result = subprocess.run([*map(str, command)], input=stdin, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{' '.join(map(str, command[:5]))}: {result.stderr or result.stdout}"
    return result.stdout


@pytest.fixture(scope="module")
def client() -> Path:
    """Return a Python with tritonclient. The environment is made once, and again when its constraints change."""
    folder = ROOT / ".cache" / "tritonclient"
    python, installed = folder / "bin" / "python", folder / CONSTRAINTS.name
    constraints = CONSTRAINTS.read_text(encoding="utf-8")
    if not installed.is_file() or installed.read_text(encoding="utf-8") != constraints:
        venv.create(folder, clear=True, with_pip=True, symlinks=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        run(*pip, "--constraint", CONSTRAINTS, "tritonclient[grpc]")
        installed.write_text(constraints, encoding="utf-8")
    return python


@pytest.fixture(scope="module")
def parsed(client: Path) -> dict[str, dict[str, Any]]:
    """Return what tritonclient reads from the configuration of each manifest, and from one with an unknown field."""
    texts = {name: triton_config(manifest) for name, manifest in MANIFESTS.items()}
    texts["unknown"] = texts["generator"] + "colour: 3\n"
    configs = json.loads(run(client, "-c", READ, stdin=json.dumps(list(texts.values()))))
    return dict(zip(texts, configs, strict=True))


def expected(tensor: TensorSpec, batched: bool) -> list[Any]:
    dtype = {"uint8": "TYPE_UINT8", "uint16": "TYPE_UINT16", "float32": "TYPE_FP32", "int64": "TYPE_INT64"}
    axes = tensor.shape[1:] if batched else tensor.shape
    return [tensor.name, dtype[tensor.dtype], [axis if isinstance(axis, int) else -1 for axis in axes]]


@pytest.mark.parametrize("name", MANIFESTS)
def test_triton_config_agrees_with_the_manifest(parsed: dict[str, dict[str, Any]], name: str) -> None:
    manifest: Manifest = MANIFESTS[name]
    batched = manifest.interface.inputs[0].shape[0] == "batch"
    config = dict(parsed[name])
    assert (config.pop("max_batch_size") > 0) == batched
    assert set(config.pop("other")) <= {
        "name",
        "platform",
        "max_batch_size",
        "input",
        "output",
        "dynamic_batching",
    }
    assert config == {
        "name": manifest.name,
        "platform": "onnxruntime_onnx",
        "input": [expected(tensor, batched) for tensor in manifest.interface.inputs],
        "output": [expected(tensor, batched) for tensor in manifest.interface.outputs],
        "dynamic_batching": batched,
    }


def test_triton_config_of_a_translator_with_one_size(parsed: dict[str, dict[str, Any]]) -> None:
    config = parsed["fixed size and batch"]
    assert config["max_batch_size"] == 0
    assert config["input"] == [["source", "TYPE_UINT8", [1, 256, 256, 3]]]
    assert parsed["fixed size"]["output"] == [["image", "TYPE_UINT8", [128, 256, 3]]]
    assert parsed["translator"]["input"] == [["source", "TYPE_UINT8", [-1, -1, 3]]]


def test_triton_config_with_an_unknown_field_is_an_error(parsed: dict[str, dict[str, Any]]) -> None:
    assert 'no field named "colour"' in parsed["unknown"]["error"]
