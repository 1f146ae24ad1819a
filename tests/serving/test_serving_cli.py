"""`zorse generate` and `zorse translate` on artifacts of this machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from serving.cli import register
from serving.errors import ImageError, OutputError, ServingError

PIXELS = np.random.default_rng(0).integers(0, 256, (18, 21, 3), dtype=np.uint8)


@pytest.fixture
def horse(tmp_path: Path) -> Path:
    path = tmp_path / "horse.png"
    Image.fromarray(PIXELS).save(path)
    return path


def run(*arguments: object) -> str:
    app = typer.Typer()
    register(app)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception
    return result.output


def test_translate_writes_each_image_under_its_name(repository: Path, horse: Path, tmp_path: Path) -> None:
    run("translate", repository / "invert", horse, "--out", tmp_path / "new" / "out", "--device", "cpu")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "new" / "out" / "horse.png")), 255 - PIXELS)


def test_translate_replaces_no_file(repository: Path, horse: Path, tmp_path: Path) -> None:
    before = horse.read_bytes()
    other = tmp_path / "deep" / "other.png"
    other.parent.mkdir()
    other.write_bytes(before)
    with pytest.raises(OutputError, match=r"horse\.png exists and would be replaced"):
        run("translate", repository / "invert", other, horse, "--out", tmp_path, "--device", "cpu")
    assert horse.read_bytes() == before
    assert not (tmp_path / "other.png").exists()


def test_translate_refuses_two_images_of_one_name_before_it_begins(
    repository: Path, horse: Path, tmp_path: Path
) -> None:
    twin = tmp_path / "deep" / "horse.jpg"
    twin.parent.mkdir()
    Image.fromarray(PIXELS).save(twin)
    out = tmp_path / "out"
    with pytest.raises(OutputError, match=r"horse\.png and .*horse\.jpg would both become .*horse\.png"):
        run("translate", repository / "invert", horse, twin, "--out", out, "--device", "cpu")
    with pytest.raises(ImageError, match=r"no image file at .*none\.png"):
        run("translate", repository / "invert", horse, tmp_path / "none.png", "--out", out, "--device", "cpu")
    assert not out.exists()


def test_translate_names_the_file_that_fails(repository: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with pytest.raises(ServingError, match=r"broken\.png: the image is not a PNG"):
        run("translate", repository / "invert", broken, "--out", tmp_path / "out", "--device", "cpu")


@pytest.mark.parametrize(("name", "kind"), [("a.png", "PNG"), ("b.JPG", "JPEG"), ("c.jpeg", "JPEG")])
def test_generate_writes_what_the_name_says(repository: Path, tmp_path: Path, name: str, kind: str) -> None:
    run("generate", repository / "digits", "--out", tmp_path / name, "--n", 4, "--device", "cpu")
    with Image.open(tmp_path / name) as image:
        assert (image.format, image.size) == (kind, (16, 16))


def test_generate_refuses_a_format_that_it_does_not_write(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"a\.webp is no file that can be written: .* \.png, \.jpg, \.jpeg"):
        run("generate", repository / "digits", "--out", tmp_path / "a.webp")
