"""Training, export, server and `zorse translate` decode a file to equal pixels, or all refuse it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import typer
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from export.images import ImagePlace, load_images
from export.interface import SizeLimits, TensorSpec
from serving.cli import register
from tests.common.image_files import SIDE, bad, every, good
from tests.serving.apps import server
from tests.serving.tiny import write_repository
from trainer import registry
from zorse_common.errors import ZorseError
from zorse_common.images import decode

Pixels = NDArray[np.uint8]
FILES = {name: content for name, content, _ in every()}
PORT = TensorSpec("source", "uint8", ("batch", "height", "width", 3), "the image", (0, 255))


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the model `invert`, which returns 255 minus each input value."""
    return write_repository(tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with server() as client:
        yield client


def _training_pixels(path: Path) -> Pixels:
    section = {"type": "folder", "root": str(path.parent), "size": SIDE, "max_unreadable": 0}
    image: Pixels = registry.build(registry.resolve("data", section), seed=0).example(0).images["image"]
    return image


def _export_pixels(path: Path) -> Pixels:
    (image,) = load_images(ImagePlace(str(path.parent)), PORT, SizeLimits.square(4, 8, 64), SIDE)
    return image


def _server_pixels(path: Path, client: httpx.Client) -> Pixels:
    response = client.post("/v2/models/invert/translate", content=path.read_bytes())
    if response.status_code != 200:
        assert 400 <= response.status_code < 500
        raise ZorseError(response.json()["error"])
    return 255 - decode(response.content)


def _translate_pixels(path: Path, repository: Path) -> Pixels:
    app = typer.Typer()
    register(app)
    out = path.parent.parent / "out"
    arguments = ["translate", str(repository / "invert"), str(path), "--out", str(out), "--device", "cpu"]
    result = CliRunner().invoke(app, arguments)
    written = list(out.rglob("*.png"))
    if not written:
        raise ZorseError(result.output or str(result.exception))
    with Image.open(written[0]) as image:
        return 255 - np.asarray(image)


def _pixels_or_none(read: Callable[[], Pixels]) -> Pixels | None:
    """Return the pixels, or None if the file is refused with a message for users."""
    try:
        return read()
    except ZorseError:
        return None


@pytest.mark.parametrize("name", FILES)
def test_stages_decode_the_same_pixels_or_all_refuse(
    tmp_path: Path, name: str, repository: Path, client: httpx.Client
) -> None:
    path = tmp_path / "in" / name
    path.parent.mkdir()
    path.write_bytes(FILES[name])
    by_stage = {
        "train": _pixels_or_none(lambda: _training_pixels(path)),
        "export": _pixels_or_none(lambda: _export_pixels(path)),
        "serve": _pixels_or_none(lambda: _server_pixels(path, client)),
        "translate": _pixels_or_none(lambda: _translate_pixels(path, repository)),
    }
    row = "  ".join(
        f"{stage} {'refused' if image is None else image.mean().round(2)}" for stage, image in by_stage.items()
    )
    print(f"{name:28}{row}")  # noqa: T201  (with -s: the table)
    if name in bad():
        assert list(by_stage.values()) == [None] * 4
        return
    expected = decode(FILES[name], 3)
    for stage, image in by_stage.items():
        assert image is not None, stage
        np.testing.assert_array_equal(image, expected, stage)


def test_table_has_at_least_forty_files() -> None:
    assert len(good()) + len(bad()) == len(FILES) >= 40
