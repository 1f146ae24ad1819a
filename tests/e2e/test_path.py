"""The whole path with tiny totals: train on Ray and DeepSpeed, export, serve on Ray Serve, query as users do."""

from __future__ import annotations

import contextlib
import io
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
import tritonclient.http
from onnx import helper, numpy_helper
from PIL import Image

import zorse
from export.declared import Declared
from serving.ports import free_port
from serving.selftest import verify_artifact
from trainer.cluster import cluster
from trainer.errors import DataError

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

TOY = """
run: {{dir: {run}, total_images: 8, workers: 2, snapshot_images: 4, log_images: 4}}
batch: {{global_size: 4}}
data: {{type: {data}}}
task: {task}
ema: {{half_life_images: 100}}
"""
GAN = """
  type: gan
  generator: {type: dcgan_generator, latent_dim: 8, channels: 1, size: 32, width: 4}
  discriminator: {type: dcgan_discriminator, channels: 1, size: 32, width: 4}
"""
CYCLEGAN = """
  type: cyclegan
  generator: {type: resnet_generator, width: 4, blocks: 1}
  discriminator: {type: patchgan_discriminator, width: 4, layers: 1}
"""


def painter() -> onnx.ModelProto:
    """Return a translator as old exporters wrote it: opset 9, NCHW, floats in 0..255, one image of 256 × 256."""
    random = np.random.default_rng(0)
    constants = {
        "half": np.float32(127.5),
        "down": random.normal(0, 0.3, (4, 3, 3, 3)).astype(np.float32),
        "twice": np.array([1, 1, 2, 2], np.float32),
        "up": random.normal(0, 0.3, (3, 4, 3, 3)).astype(np.float32),
    }
    chain = [
        ("Sub", ["half"], {}),
        ("Div", ["half"], {}),
        ("Conv", ["down"], {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ("Relu", [], {}),
        ("Upsample", ["twice"], {"mode": "nearest"}),
        ("Conv", ["up"], {"pads": [1, 1, 1, 1]}),
        ("Tanh", [], {}),
        ("Mul", ["half"], {}),
        ("Add", ["half"], {}),
    ]
    nodes = [
        helper.make_node(operator, [str(number), *inputs], [str(number + 1)], **attributes)
        for number, (operator, inputs, attributes) in enumerate(chain)
    ]
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    input_info, output_info = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, 256, 256]) for name in ("0", str(len(chain)))
    )
    inputs = [input_info, *(helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in initializers)]
    graph = helper.make_graph(nodes, "painter", inputs, [output_info], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=3)


@pytest.fixture(scope="module")
def one_ray() -> Iterator[None]:
    """Start one Ray for all runs of this file."""
    with cluster(workers=2):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, one_ray: None) -> Path:
    """Make two runs, their three artifacts, and the artifact of an imported ONNX file."""
    folder = tmp_path_factory.mktemp("path")
    for name, data, task in (("digits", "digits", GAN), ("stripes", "stripes", CYCLEGAN)):
        config = folder / f"{name}.yaml"
        config.write_text(TOY.format(run=folder / "runs" / name, data=data, task=task))
        zorse.train(str(config))
        zorse.export(str(folder / "runs" / name), str(folder / "repository"))
    onnx.save(painter(), folder / "painter.onnx")
    declared = Declared(input_range=(0, 255))
    zorse.export(str(folder / "painter.onnx"), str(folder / "repository"), origin="onnx", declared=declared)
    return folder


def serve_command(folder: Path) -> tuple[int, list[str]]:
    """Return an unused port, and the command that serves the repository on it."""
    port = free_port()
    return port, [sys.executable, "-m", "zorse", "serve", str(folder / "repository"), "--port", str(port)]


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    """Start `zorse serve` and yield its URL."""
    port, command = serve_command(folder)
    process = subprocess.Popen(command)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(3000):
            assert process.poll() is None, "the server ended"
            try:
                if httpx.get(f"{url}/v2/health/ready", timeout=5).is_success:
                    break
            except httpx.TransportError:
                pass
            try:
                process.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                continue
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=300) == 0


def test_run_writes_config_metrics_samples_and_snapshots(folder: Path) -> None:
    run = folder / "runs" / "digits"
    lines = [json.loads(line) for line in next((run / "metrics").iterdir()).read_text().splitlines()]
    assert [line["images"] for line in lines] == [4, 8]
    assert lines[-1]["figures"].keys() == {"D loss", "G loss"}
    assert lines[-1]["realness"].keys() == {"D"}
    names = ["0000000000", "0000000004", "0000000008"]
    assert sorted(path.name for path in (run / "snapshots").iterdir()) == names
    with Image.open(run / "samples" / "0000000008.png") as grid:
        assert grid.size == (8 * 34 - 2, 8 * 34 - 2)
    assert "latent_dim: 8" in (run / "config.yaml").read_text()


def test_run_folder_in_use_is_refused(folder: Path) -> None:
    command = [sys.executable, "-m", "zorse", "train", str(folder / "digits.yaml")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("error: run.dir")
    assert "Traceback" not in result.stderr


def test_worker_error_becomes_one_line_for_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_ray: None
) -> None:
    monkeypatch.chdir(tmp_path)
    for domain in "AB":
        for number in range(4):
            path = Path("images") / f"train{domain}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"not a picture")
    config = tmp_path / "bad.yaml"
    data = "unpaired, root: images, size: 32, max_unreadable: 1"
    config.write_text(TOY.format(run=tmp_path / "run", data=data, task=CYCLEGAN))
    with pytest.raises(DataError, match="images cannot be read"):
        zorse.train(str(config))


def test_generated_images_are_the_same_online_and_offline(folder: Path, server: str) -> None:
    with zorse.Client(server) as client:
        online = client.generate("digits", 5, seed=3)
        later = client.generate("digits", 2, seed=3, first=3)
    offline = zorse.load(folder / "repository" / "digits" / "1").generate(5, seed=3)
    assert online.shape == (5, 32, 32, 1)
    np.testing.assert_array_equal(online, offline)
    np.testing.assert_array_equal(later, offline[3:])


def test_translated_image_keeps_its_size(server: str) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (61, 83, 3), dtype=np.uint8)
    with zorse.Client(server) as client:
        assert client.translate("stripes-AtoB", picture).shape == picture.shape
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    answer = httpx.post(f"{server}/v2/models/stripes-BtoA/translate", content=stream.getvalue(), timeout=60)
    assert Image.open(io.BytesIO(answer.content)).size == (83, 61)
    form = httpx.post(
        f"{server}/v2/models/stripes-BtoA/translate", files={"image": ("a.png", stream.getvalue())}, timeout=60
    )
    assert form.content == answer.content


def test_stock_triton_client_gets_its_tensor(folder: Path, server: str) -> None:
    client = tritonclient.http.InferenceServerClient(server.removeprefix("http://"))
    source = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    tensor = tritonclient.http.InferInput("source", list(source.shape), "UINT8")
    tensor.set_data_from_numpy(source)
    image = client.infer("stripes-AtoB", [tensor]).as_numpy("image")
    client.close()
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, zorse.load(folder / "repository" / "stripes-AtoB" / "1").translate(source))


def test_server_explains_invalid_requests(server: str) -> None:
    answer = httpx.post(f"{server}/v2/models/stripes-AtoB/translate", content=b"not a picture", timeout=60)
    assert answer.status_code in (400, 415, 422)
    assert {"error", "code"} <= answer.json().keys()
    missing = httpx.post(f"{server}/v2/models/nobody/generate", timeout=60)
    assert missing.status_code == 404


def test_artifacts_pass_verify(folder: Path) -> None:
    artifacts = sorted((folder / "repository").glob("*/1"))
    assert [path.parent.name for path in artifacts] == ["digits", "painter", "stripes-AtoB", "stripes-BtoA"]
    for path in artifacts:
        report = verify_artifact(path, "cpu")
        assert report.samples > 0
        assert report.max_grey_diff <= 1


def test_imported_model_is_served_at_its_size(folder: Path, server: str) -> None:
    local = zorse.load(folder / "repository" / "painter" / "1")
    with zorse.Client(server) as client:
        for height, width in ((256, 256), (200, 256)):
            picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
            painted = client.translate("painter", picture)
            assert painted.shape == picture.shape
            assert painted.std() > 5
            np.testing.assert_array_equal(painted, local.translate(picture))
    stream = io.BytesIO()
    Image.new("RGB", (257, 256)).save(stream, "PNG")
    answer = httpx.post(f"{server}/v2/models/painter/translate", content=stream.getvalue(), timeout=60)
    assert answer.status_code == 422
    assert "257×256 is larger than the 256×256 pixels that the model takes" in answer.json()["error"]


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("moment", ["its port accepts connections", "it is started"])
def test_server_stopped_before_it_is_ready_ends_without_an_error(folder: Path, tmp_path: Path, moment: str) -> None:
    port, command = serve_command(folder)
    with (tmp_path / "output").open("w+b") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            while moment != "it is started" and not accepts(port):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=0.02)
                assert process.poll() is None, "the server ended"
            process.send_signal(signal.SIGTERM)
            code = process.wait(timeout=300)
        finally:
            process.kill()
            process.wait()
        output.seek(0)
        log = output.read().decode()
    # Until the handler is installed, the signal itself ends the process.
    assert code in ((0, -signal.SIGTERM) if moment == "it is started" else (0,)), log
    assert "Traceback" not in log
    assert "/v2/models/" not in log, "it was ready"
