"""Models with images of 16 bits or floats: tensors of them are served, and image files are refused."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from export.manifest import Manifest
from serving import codec
from serving.batching import Tensors
from serving.config import Limits
from serving.engine import OrtEngine
from serving.errors import BadRequestError, UnsupportedError
from serving.feeds import latents, source_channels
from serving.local_model import LocalModel
from serving.open_inference import HEADER_LENGTH, pack, unpack_outputs
from serving.service import ModelService
from tests.serving.apps import server
from tests.serving.fakes import FakeEngine
from tests.serving.tiny import (
    BYTES,
    LATENT_DIM,
    REALS,
    WORDS,
    Pixels,
    generator_graph,
    generator_manifest,
    inverter_graph,
    inverter_manifest,
    write,
)

KINDS = pytest.mark.parametrize("pixels", [BYTES, WORDS, REALS], ids=lambda pixels: pixels.dtype)
DEEP = pytest.mark.parametrize("pixels", [WORDS, REALS], ids=lambda pixels: pixels.dtype)
DATATYPES = {"uint8": "UINT8", "uint16": "UINT16", "float32": "FP32"}


class Models:
    """The generator and the translator of one kind of pixels, run by onnxruntime."""

    def __init__(self, folder: Path, pixels: Pixels) -> None:
        self.generator, self.inverter = generator_manifest(pixels=pixels), inverter_manifest(pixels=pixels)
        self._engines = {}
        for manifest, graph in ((self.generator, generator_graph(pixels)), (self.inverter, inverter_graph(pixels))):
            path = write(folder / pixels.dtype, graph, manifest) / "model.onnx"
            self._engines[manifest.interface.inputs[0].name] = OrtEngine(path, "cpu", 1)

    def engine(self, manifest: Manifest) -> OrtEngine:
        return self._engines[manifest.interface.inputs[0].name]

    async def submit(self, tensors: Tensors, deadline: float | None = None) -> Tensors:
        (name,) = tensors
        return self._engines[name].run(tensors)

    def service(self, manifest: Manifest) -> ModelService:
        return ModelService(manifest, self.submit, Limits())

    def server(self) -> httpx.Client:
        return server(manifests=[self.generator, self.inverter], submit=self.submit)


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Models]:
    folder = tmp_path_factory.mktemp("pixels")
    return {pixels.dtype: Models(folder, pixels) for pixels in (BYTES, WORDS, REALS)}


def images(pixels: Pixels, *shape: int) -> NDArray[Any]:
    return np.random.default_rng(0).uniform(pixels.low, pixels.high, shape).astype(pixels.dtype)


def inverted(pixels: Pixels, source: NDArray[Any]) -> NDArray[Any]:
    return (np.float32(pixels.low + pixels.high) - source.astype(np.float32)).astype(pixels.dtype)


def infer(client: httpx.Client, model: str, tensors: dict[str, NDArray[Any]], binary: bool) -> httpx.Response:
    extra = {"parameters": {"binary_data_output": binary}}
    content, headers = pack("inputs", tensors, dict.fromkeys(tensors, binary), extra)
    return client.post(f"/v2/models/{model}/infer", content=content, headers=headers)


@KINDS
def test_translate_keeps_the_dtype_for_images_of_any_size(every: dict[str, Models], pixels: Pixels) -> None:
    models, source = every[pixels.dtype], images(pixels, 2, 33, 18, 3)
    service = models.service(models.inverter)
    translated = asyncio.run(service.run({"source": source}))["image"]
    assert translated.dtype == pixels.dtype
    np.testing.assert_array_equal(translated, inverted(pixels, source))
    local = LocalModel(models.inverter, models.engine(models.inverter))
    np.testing.assert_array_equal(local.translate(source), translated)


@KINDS
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
def test_tensors_of_every_dtype_go_over_the_wire(every: dict[str, Models], pixels: Pixels, binary: bool) -> None:
    models, source = every[pixels.dtype], images(pixels, 1, 17, 20, 3)
    source[0, 0, 0] = pixels.low, pixels.high, pixels.low  # the ends of the range are legal
    client = models.server()
    response = infer(client, "invert", {"source": source}, binary)
    assert response.status_code == 200, response.text
    translated = unpack_outputs(response.content, response.headers.get(HEADER_LENGTH))["image"]
    assert translated.dtype == pixels.dtype
    np.testing.assert_array_equal(translated, inverted(pixels, source))
    assert f'"datatype":"{DATATYPES[pixels.dtype]}"'.encode() in response.content
    ports = client.get("/v2/models/invert").json()
    assert ports["inputs"][0]["datatype"] == ports["outputs"][0]["datatype"] == DATATYPES[pixels.dtype]


@KINDS
def test_generate_returns_the_models_dtype(every: dict[str, Models], pixels: Pixels) -> None:
    models = every[pixels.dtype]
    codes = latents(7, range(3), LATENT_DIM)
    response = infer(models.server(), "digits", {"latent": codes}, binary=True)
    generated = unpack_outputs(response.content, response.headers.get(HEADER_LENGTH))["image"]
    assert (generated.dtype, generated.shape) == (pixels.dtype, (3, 8, 8, 3))
    assert generated.std() > (pixels.high - pixels.low) / 10
    assert pixels.low <= generated.min() < generated.max() <= pixels.high
    local = LocalModel(models.generator, models.engine(models.generator)).generate(3, seed=7)
    np.testing.assert_array_equal(local, generated)


@DEEP
def test_image_files_are_refused_in_one_line(every: dict[str, Models], pixels: Pixels) -> None:
    client = every[pixels.dtype].server()
    photo = codec.encode(images(BYTES, 17, 20, 3), "png")
    requests: list[tuple[str, str, dict[str, Any]]] = [
        ("invert", "translate", {"content": photo}),
        ("invert", "translate", {"files": {"image": ("a.png", photo)}}),
        ("digits", "generate", {}),
        ("digits", "generate", {"json": {"n": 3, "layout": "zip"}}),
        ("digits", "generate", {"json": {"format": "jpeg"}}),
    ]
    for model, verb, options in requests:
        response = client.post(f"/v2/models/{model}/{verb}", **options)
        remedy = "use infer" if model == "invert" else "use the format npy, or infer"
        error = f"the images of the model are {pixels.dtype}, which no image file has: {remedy}"
        assert (response.status_code, response.json()) == (400, {"error": error, "code": "unsupported"})


@DEEP
def test_image_files_have_no_channels_for_such_models(pixels: Pixels) -> None:
    with pytest.raises(UnsupportedError, match=pixels.dtype):
        source_channels(inverter_manifest(pixels=pixels).interface)
    assert source_channels(inverter_manifest().interface) == 3


def _json(datatype: str, *data: float) -> dict[str, Any]:
    return {"inputs": [{"name": "source", "shape": [1, 1, 1, 3], "datatype": datatype, "data": list(data)}]}


@pytest.mark.parametrize(
    ("pixels", "body", "message"),
    [
        (WORDS, _json("UINT16", 0, 1, 65536), "source is not UINT16 [1, 1, 1, 3]: its data leaves 0…65535"),
        (WORDS, _json("UINT16", 0, 1, -1), "leaves 0…65535"),
        (WORDS, _json("UINT16", 0, 1, 2**70), "is not UINT16"),
        (WORDS, _json("UINT16", 0, 1, 1.5), "its data is float64"),
        (WORDS, _json("UINT16", 0, 1), "is not UINT16 [1, 1, 1, 3]"),
        (WORDS, _json("UINT8", 0, 1, 2), "source must be uint16 [batch, height, width, 3] and is uint8"),
        (WORDS, _json("FP32", 0, 1, 2), "source must be uint16"),
        (BYTES, _json("UINT16", 0, 1, 2), "source must be uint8"),
        (REALS, _json("UINT16", 0, 1, 2), "source must be float32"),
        (REALS, _json("FP32", 0, 1, 5.5), "source must lie in [-3, 5]"),
        (REALS, _json("FP32", 0, 1, 1e300), "NaN or infinity"),
    ],
)
def test_infer_refuses_values_out_of_the_dtype_or_range(
    every: dict[str, Models], pixels: Pixels, body: dict[str, Any], message: str
) -> None:
    response = every[pixels.dtype].server().post("/v2/models/invert/infer", json=body)
    assert (response.status_code, response.json()["code"]) == (400, "bad_request")
    assert message in response.json()["error"]


def test_infer_refuses_floats_that_are_not_finite_in_binary(every: dict[str, Models]) -> None:
    for value, message in ((np.nan, "NaN"), (np.inf, "NaN or infinity"), (-3.001, "must lie in")):
        source = np.full((1, 16, 16, 3), value, np.float32)
        response = infer(every["float32"].server(), "invert", {"source": source}, binary=True)
        assert (response.status_code, response.json()["code"]) == (400, "bad_request")
        assert message in response.json()["error"]


def test_run_refuses_values_outside_the_range() -> None:
    manifest = inverter_manifest(pixels=Pixels("uint16", 300, 4000))
    service = ModelService(manifest, FakeEngine().submit, Limits())
    with pytest.raises(BadRequestError, match=r"source must lie in \[300, 4000\]"):
        asyncio.run(service.run({"source": np.full((1, 16, 16, 3), 4001, np.uint16)}))
