"""Projection finds latents of images that a generator made, and the nearest ones of others."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor, nn
from typer.testing import CliRunner

from tests.trainer.networks import build
from trainer.cli_latent import register_latent
from trainer.config import Section
from trainer.errors import ConfigError, DataError, SnapshotError
from trainer.models.base import Generator
from trainer.projection import ProjectionSettings, loss, project
from trainer.registry import register
from trainer.snapshot import Network, Snapshot, read_snapshot, write_snapshot
from zorse_common.files import read_images, write_image
from zorse_common.random import normal
from zorse_common.storage import Storage

DIM, SIZE = 6, 8


@register("model")
class Linear(nn.Module):
    """A generator whose image is tanh of a linear map of the latent, negated for class 1."""

    class Config(Section):
        """`classes` is 2 or None."""

        classes: int | None = None

    latent_dim, channels, size = DIM, 1, SIZE

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.classes = config.classes
        self.weight = nn.Parameter(torch.from_numpy(normal(0, "test/weight", range(SIZE * SIZE), DIM)) / 4)

    def forward(self, *inputs: Tensor) -> Tensor:
        images = (inputs[0] @ self.weight.T).tanh().reshape(-1, 1, SIZE, SIZE)
        return images if self.classes is None else images * (1 - 2 * inputs[1][:, None, None, None])


def _images(generator: Generator, latents: NDArray[np.float32], *labels: Tensor) -> NDArray[np.uint8]:
    with torch.no_grad():
        images = generator(torch.from_numpy(latents), *labels)
    return ((images + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def test_projection_finds_the_latents_of_generated_images() -> None:
    generator = Linear(Linear.Config())
    latents = normal(1, "test/latents", range(3), DIM)
    images = _images(generator, latents)
    projections = project(generator, images)
    np.testing.assert_allclose(projections.latents, latents, atol=0.1)
    assert (projections.psnr > 40).all()
    assert projections.images.shape == images.shape
    errors = np.square(projections.images.astype(float) - images).mean((1, 2, 3))
    np.testing.assert_allclose(projections.psnr, 10 * np.log10(255**2 / errors))
    np.testing.assert_allclose(projections.images, _images(generator, projections.latents), atol=1)
    assert generator.weight.grad is None


def test_projection_of_an_image_does_not_depend_on_the_others() -> None:
    generator, settings = Linear(Linear.Config()), ProjectionSettings(starts=2, steps=20)
    images = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 1), dtype=np.uint8)
    together, alone = project(generator, images, settings), project(generator, images[2:], settings)
    np.testing.assert_allclose(together.latents[2:], alone.latents, atol=1e-4)
    other_seed = project(generator, images[2:], ProjectionSettings(starts=2, steps=20, seed=1))
    assert not np.allclose(other_seed.latents, alone.latents, atol=1e-2)


def test_projection_with_more_starts_is_at_least_as_near() -> None:
    generator = build(type="dcgan_generator", latent_dim=4, channels=1, size=16, width=4).eval()
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 1), dtype=np.uint8)
    assert isinstance(generator, Generator)
    few, many = (project(generator, images, ProjectionSettings(starts=n, steps=10)).psnr for n in (1, 6))
    assert (many >= few - 1e-6).all()


def test_projection_reports_each_step_of_each_batch() -> None:
    images = np.zeros((5, SIZE, SIZE, 1), dtype=np.uint8)
    steps: list[tuple[int, int]] = []
    # 64 starts: two images fit into one batch.
    settings = ProjectionSettings(starts=64, steps=2)
    projections = project(
        Linear(Linear.Config()), images, settings, progress=lambda done, total: steps.append((done, total))
    )
    assert steps == [(done, 6) for done in range(1, 7)]
    assert len(projections.latents) == len(projections.images) == len(projections.psnr) == 5


def test_projection_keeps_latents_of_unreachable_images_plausible() -> None:
    white = np.full((1, SIZE, SIZE, 1), 255, dtype=np.uint8)
    projections = project(Linear(Linear.Config()), white)
    assert np.linalg.norm(projections.latents) < 2 * math.sqrt(DIM)


def test_projection_of_identical_images_has_infinite_psnr() -> None:
    class Black(Linear):
        def forward(self, *inputs: Tensor) -> Tensor:
            return super().forward(*inputs) * 0 - 1

    black = np.zeros((1, SIZE, SIZE, 1), dtype=np.uint8)
    assert project(Black(Linear.Config()), black, ProjectionSettings(1, 1)).psnr.tolist() == [math.inf]


def test_projection_loss_in_closed_form() -> None:
    target, latents = torch.zeros(2, 1, 4, 4), torch.tensor([[1.0, 1.0], [4.0, 0.0]])
    stripes = torch.tensor([1.0, -1.0]).repeat(2).expand(1, 1, 4, 4)
    generated = torch.cat([torch.ones(1, 1, 4, 4), stripes])
    # The constant image differs in its pixels alone; the differences across the stripes are 2 or -2. The second latent
    # has the length 4, where √dim is √2.
    expected = [1.0, 1 + 4 + 0.1 * (4 / math.sqrt(2) - 1) ** 2]
    assert loss(generated, target, latents).tolist() == pytest.approx(expected)


def test_projection_for_a_class() -> None:
    generator = Linear(Linear.Config(classes=2))
    latents, labels = normal(1, "test/latents", range(2), DIM), np.array([0, 1])
    images = _images(generator, latents, torch.from_numpy(labels))
    projections = project(generator, images, labels=labels)
    np.testing.assert_allclose(projections.latents, latents, atol=0.1)


@pytest.mark.parametrize(
    ("classes", "labels", "message"),
    [
        (None, [0, 0], "the generator has no classes: leave the label out"),
        (2, None, "makes images of 2 classes: give a label from 0 to 1"),
        (2, [0, 2], r"the labels \[0, 2\] do not fit: give each image a label from 0 to 1"),
        (2, [0], r"the labels \[0\] do not fit"),
    ],
)
def test_projection_refuses_labels_that_do_not_fit(classes: int | None, labels: list[int] | None, message: str) -> None:
    images = np.zeros((2, SIZE, SIZE, 1), dtype=np.uint8)
    with pytest.raises(ConfigError, match=message):
        project(Linear(Linear.Config(classes=classes)), images, labels=None if labels is None else np.array(labels))


def test_projection_refuses_images_of_another_shape() -> None:
    with pytest.raises(DataError, match=r"makes images \(8, 8, 1\), but those to project are \(1, 8, 8, 3\)"):
        project(Linear(Linear.Config()), np.zeros((1, SIZE, SIZE, 3), dtype=np.uint8))


MODELS: dict[str, dict[str, Any]] = {
    "conditional": {"type": f"{__name__}:Linear", "classes": 2},
    "G": {"type": "dcgan_generator", "latent_dim": 4, "channels": 3, "size": 16, "width": 4},
    "AtoB": {"type": "resnet_generator", "in_channels": 3, "out_channels": 3, "width": 4, "blocks": 1},
}


def _run(place: Path, network: str, labels: list[str] | None = None) -> str:
    weights = {network: build(**MODELS[network]).state_dict()}
    networks = {network: Network(MODELS[network], None, MODELS[network].get("size", SIZE), labels=labels)}
    write_snapshot(Storage(place), Snapshot("run", "gan", 20, False, networks, {}, weights))
    return str(place)


def _project(*words: object) -> str:
    app = typer.Typer()
    app.callback()(lambda: None)
    register_latent(app)
    result = CliRunner().invoke(app, ["project", *map(str, words)])
    if result.exception:
        raise result.exception
    return result.stdout


def test_latent_project_writes_strip_and_latents_of_files_and_folders(tmp_path: Path) -> None:
    run = _run(tmp_path / "run", "G")
    draw = np.random.default_rng(0)
    for index in range(11):
        write_image(tmp_path / "images" / f"{index:02d}.png", draw.integers(0, 256, (20, 30, 3), dtype=np.uint8))
    write_image(tmp_path / "grey.png", np.full((16, 16, 1), 200, dtype=np.uint8))
    out = tmp_path / "new" / "strip.png"
    words = (run, tmp_path / "images", tmp_path / "grey.png", "--out", out, "--starts", 1, "--steps", 2)
    answer = json.loads(_project(*words, "--json"))
    assert [Path(row["image"]).name for row in answer["images"]] == [f"{i:02d}.png" for i in range(11)] + ["grey.png"]
    assert answer["strip"] == str(out)
    with np.load(answer["latents"]) as arrays:
        latents = arrays["latent"]
    assert latents.shape == (12, 4)
    assert latents.dtype == np.float32
    assert [row["length"] for row in answer["images"]] == pytest.approx(np.linalg.norm(latents, axis=1) / 2)
    # Ten images of 64 pixels in a row with gaps of 2, over ten reconstructions; then the other two.
    strip = read_images(str(out.parent))["strip.png"]
    assert strip.shape == (4 * 66 - 2, 10 * 66 - 2, 3)
    assert (strip[132:196, 66:130] == 200).all()
    assert (strip[132:, 132:] == 255).all()
    generator = read_snapshot(run).build("G")
    assert isinstance(generator, Generator)
    shown = strip[198:262:4, 66:130:4].astype(int)
    np.testing.assert_allclose(shown, _images(generator, latents[11:])[0], atol=1)
    table = _project(*words).splitlines()
    assert table[0].split() == ["image", "PSNR", "(dB)", "length", "of", "the", "latent", "/", "√dim"]
    assert table[-1].startswith("mean PSNR ")


@pytest.mark.parametrize("label", ["negative", "1"])
def test_latent_project_for_a_class_by_name_or_index(tmp_path: Path, label: str) -> None:
    run = _run(tmp_path / "run", "conditional", ["positive", "negative"])
    generator = read_snapshot(run).build("conditional")
    assert isinstance(generator, Generator)
    image, out = tmp_path / "image.png", tmp_path / "strip.png"
    write_image(image, _images(generator, normal(1, "test/latents", range(1), DIM), torch.tensor([1]))[0])
    answer = json.loads(_project(run, image, "--out", out, "--label", label, "--json"))
    assert answer["images"][0]["psnr"] > 40
    with np.load(answer["latents"]) as arrays:
        labels = arrays["label"]
    assert labels.tolist() == [1]
    assert labels.dtype == np.int64
    with pytest.raises(ConfigError, match=r"no class 'negativ' \(did you mean negative\?\): give the name or index"):
        _project(run, image, "--out", out, "--label", "negativ")


def test_latent_project_refuses_a_translator_and_missing_images(tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    write_image(image, np.zeros((16, 16, 3), dtype=np.uint8))
    out = ("--out", tmp_path / "strip.png")
    with pytest.raises(
        SnapshotError, match=r"has no generator with latents: AtoB translate images. Give a run of a GAN"
    ):
        _project(_run(tmp_path / "translator", "AtoB"), image, *out)
    run = _run(tmp_path / "run", "G")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no images"):
        _project(run, tmp_path / "empty", *out)
    with pytest.raises(DataError, match=r"there is nothing at .*none\.png: give image files, or folders or zips"):
        _project(run, tmp_path / "none.png", *out)
    (tmp_path / "broken.png").write_bytes(image.read_bytes()[:40])
    with pytest.raises(DataError, match=r"broken\.png: the (PNG )?image cannot be read"):
        _project(run, tmp_path / "broken.png", *out)
    with pytest.raises(SystemExit):
        _project(run, image, "--out", tmp_path / "strip.jpg")
