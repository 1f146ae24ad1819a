"""The commands `generate`, `translate` and `latent` on artifacts of this machine."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import typer
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from serving.cli import register, register_latent
from serving.cli_endings import check_ending
from serving.cli_models import split_url, write_file
from serving.codec import File
from serving.errors import (
    BadRequestError,
    ImageError,
    OutputError,
    ServerError,
    ServingError,
    TooLargeError,
    UnsupportedError,
)
from serving.local_model import LocalModel
from tests.serving.timed_server import answer, timed_server
from zorse_common.image_writer import encode

PIXELS = np.random.default_rng(0).integers(0, 256, (18, 21, 3), dtype=np.uint8)


@pytest.fixture
def horse(tmp_path: Path) -> Path:
    path = tmp_path / "horse.png"
    Image.fromarray(PIXELS).save(path)
    return path


def invoke(*arguments: object) -> Result:
    app = typer.Typer()
    register(app)
    latent = typer.Typer()
    register_latent(latent)
    app.add_typer(latent, name="latent")
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def run(*arguments: object) -> str:
    result = invoke(*arguments)
    if result.exception is not None:
        raise result.exception
    return result.output


def test_translate_writes_each_image_under_its_name(repository: Path, horse: Path, tmp_path: Path) -> None:
    run("translate", repository / "invert", horse, "--out", tmp_path / "new" / "out", "--device", "cpu")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "new" / "out" / "horse.png")), 255 - PIXELS)


def test_translate_replaces_no_image(repository: Path, horse: Path, tmp_path: Path) -> None:
    before = horse.read_bytes()
    with pytest.raises(OutputError, match=r"horse\.png is one of the images and would be taken for its result"):
        run("translate", repository / "invert", horse, "--out", tmp_path, "--device", "cpu")
    assert horse.read_bytes() == before


def test_translate_takes_folders_and_continues_after_a_bad_image_and_does_what_is_missing(
    repository: Path, tmp_path: Path
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    for name in ("a.png", "deep/b.jpg", "deep/c.bmp"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PIXELS).save(folder / name)
    (folder / "bad.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image either")
    command = ["translate", str(repository / "invert"), str(folder), "--out", str(out), "--device", "cpu"]
    result = invoke(*command)
    assert result.exit_code == 1
    assert f"error: {folder / 'bad.png'}: the image is not a PNG" in result.stderr
    assert result.stdout.endswith("3 of 4 images translated, 0 existed already, 1 failed\n")
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*.*")) == ["a.png", "deep/b.png", "deep/c.png"]
    kept = (out / "a.png").read_bytes()
    (out / "deep" / "b.png").unlink()
    Image.fromarray(PIXELS).save(folder / "bad.png")
    result = invoke(*command)
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (
        0,
        "2 of 4 images translated, 2 existed already, 0 failed",
    )
    assert (out / "a.png").read_bytes() == kept
    np.testing.assert_array_equal(np.asarray(Image.open(out / "bad.png")), 255 - PIXELS)
    assert invoke(*command).stdout == "0 of 4 images translated, 4 existed already, 0 failed\n"


def test_translate_keeps_the_endings_of_a_folders_images_that_have_one_stem(repository: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "images", tmp_path / "out"
    folder.mkdir()
    for name in ("a.png", "a.jpg", "a.jpg.gif", "b.png"):
        Image.fromarray(PIXELS).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    result = invoke("translate", repository / "invert", folder, "--out", out, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in out.iterdir()) == [
        "a.jpg.gif.png",
        "a.jpg.png",
        "a.png.png",
        "b.png",
    ]
    assert f"{folder}: left out 1 files: 1 no image (notes.txt)" in result.stderr
    with pytest.raises(OutputError, match="would be taken for images the next time: choose another --out"):
        run("translate", repository / "invert", folder, "--out", folder, "--device", "cpu")
    for output in ("4 of 4 images translated, 0 existed already", "0 of 4 images translated, 4 existed already"):
        assert output in run("translate", repository / "invert", folder, "--out", folder / "out", "--device", "cpu")
    refused = invoke("translate", repository / "invert", folder, "--out", out, "--value-range", "5", "5")
    assert refused.exit_code == 2
    assert "are no value range" in " ".join(refused.output.replace("│", " ").split())


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


@pytest.mark.parametrize("end", ["", "/", "/generate", "/generate/", "/translate", "/infer"])
def test_split_url_takes_the_urls_that_serve_prints(end: str) -> None:
    assert split_url(f"http://127.0.0.1:1/v2/models/digits{end}") == ("http://127.0.0.1:1", "digits")
    with pytest.raises(typer.BadParameter, match="is not a model's URL"):
        split_url("http://127.0.0.1:1/v2/models/digits/elsewhere")


def test_verify_prints_json(repository: Path) -> None:
    printed = json.loads(run("verify", repository / "digits", "--device", "cpu", "--json"))
    assert (printed["model"], printed["max_grey_diff"], printed["device"]) == ("digits", 0, "cpu")


@pytest.mark.parametrize(("name", "kind"), [("a.png", "PNG"), ("b.JPG", "JPEG"), ("c.jpeg", "JPEG")])
def test_generate_writes_the_format_of_the_ending(repository: Path, tmp_path: Path, name: str, kind: str) -> None:
    run("generate", repository / "digits", "--out", tmp_path / name, "--n", 4, "--device", "cpu")
    with Image.open(tmp_path / name) as image:
        assert (image.format, image.size) == (kind, (16, 16))


def test_generate_writes_arrays_and_archives(repository: Path, tmp_path: Path) -> None:
    command = ("generate", repository / "digits", "--n", 3, "--first", 2, "--truncation", 0.5, "--device", "cpu")
    run(*command, "--out", tmp_path / "a.npy")
    run(*command, "--out", tmp_path / "a.zip")
    expected = LocalModel.load(repository / "digits", "cpu").generate(3, first=2, truncation=0.5)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), expected)
    np.testing.assert_array_equal(File((tmp_path / "a.zip").read_bytes(), "application/zip").value(), expected)


def test_generate_refuses_a_format_that_it_does_not_write(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"a\.tif cannot be written: .* \.png, \.jpg, \.jpeg, \.webp, \.npy, \.zip$"):
        run("generate", repository / "digits", "--out", tmp_path / "a.tif")


def test_generate_passes_labels_on(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="the model has no classes: leave the label out"):
        run("generate", repository / "digits", "--out", tmp_path / "a.png", "--label", "cat", "--device", "cpu")


def test_latent_interpolate_writes_a_strip_and_a_gif(repository: Path, tmp_path: Path) -> None:
    command = ("latent", "interpolate", repository / "digits", "--steps", 5, "--seed", 3, "--device", "cpu")
    output = run(*command, "--first", 2, "--last", 6, "--out", tmp_path / "new" / "a.png")
    assert output == f"images 2, 6 of seed 3, 5 steps from each to the next, in {tmp_path / 'new' / 'a.png'}\n"
    strip = np.asarray(Image.open(tmp_path / "new" / "a.png"))
    assert strip.shape == (8, 40, 3)
    ends = [LocalModel.load(repository / "digits", "cpu").generate(1, 3, number)[0] for number in (2, 6)]
    np.testing.assert_array_equal(strip[:, :8], ends[0])
    np.testing.assert_array_equal(strip[:, -8:], ends[1])
    run(*command, "--number", 2, "--number", 6, "--number", 9, "--out", tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as gif:
        assert (gif.format, gif.n_frames) == ("GIF", 9)
    with pytest.raises(OutputError, match=r"a\.tif cannot be written: .* \.zip, \.gif$"):
        run(*command, "--out", tmp_path / "a.tif")


def test_latent_arithmetic_writes_a_strip_and_the_result_alone(repository: Path, tmp_path: Path) -> None:
    terms = ("--a", 1, "--a", 2, "--b", 3, "--c", 4, "--device", "cpu")
    output = run("latent", "arithmetic", repository / "digits", *terms, "--out", tmp_path / "a.png")
    assert output == f"mean(1, 2) - 3 + 4 of seed 0 in {tmp_path / 'a.png'}\n"
    run("latent", "arithmetic", repository / "digits", *terms, "--only-result", "--out", tmp_path / "b.png")
    strip, result = (np.asarray(Image.open(tmp_path / name)) for name in ("a.png", "b.png"))
    assert (strip.shape, result.shape) == ((8, 32, 3), (8, 8, 3))
    np.testing.assert_array_equal(strip[:, 24:], result)


def test_latent_arithmetic_takes_weighted_terms(repository: Path, tmp_path: Path) -> None:
    command = ("latent", "arithmetic", repository / "digits", "--out", tmp_path / "a.npy", "--device", "cpu")
    output = run(*command, "--term", "2:4", "--term", "-0.5:9")
    assert output == f"+2·4 -0.5·9 of seed 0 in {tmp_path / 'a.npy'}\n"
    expected = LocalModel.load(repository / "digits", "cpu").call(
        "arithmetic", numbers=[4, 9], weights=[2, -0.5], format="npy"
    )
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), expected)
    assert invoke(*command, "--term", "2").exit_code == 2
    with pytest.raises(BadRequestError, match="b is missing: give a, b and c"):
        run(*command, "--a", 1)


def test_latent_interpolate_takes_straight_lines(repository: Path, tmp_path: Path) -> None:
    command = ("latent", "interpolate", repository / "digits", "--out", tmp_path / "a.npy", "--device", "cpu")
    run(*command, "--method", "lerp")
    expected = LocalModel.load(repository / "digits", "cpu").call("interpolate", method="lerp", format="npy")
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), expected)


def test_translate_takes_large_images_in_tiles(repository: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (20, 700, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    command = ("translate", repository / "invert", tmp_path / "wide.png", "--out", tmp_path / "out", "--device", "cpu")
    assert "translate it in tiles (tile=true)" in invoke(*command).stderr
    run(*command, "--tile", "--overlap", 8)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "wide.png")), 255 - pixels)


def test_cycle_prints_the_error_and_writes_the_row(repository: Path, horse: Path, tmp_path: Path) -> None:
    command = ("cycle", repository / "invert", horse, "--out", tmp_path / "row.png", "--device", "cpu")
    output = run(*command, "--partner", "invert")
    assert output == f"there and back in {tmp_path / 'row.png'}: 0.0 grey levels of mean difference, PSNR inf dB\n"
    row = np.asarray(Image.open(tmp_path / "row.png"))
    np.testing.assert_array_equal(row, np.concatenate([PIXELS, 255 - PIXELS, PIXELS], axis=1))
    with pytest.raises(BadRequestError, match="name it with partner"):
        run(*command)


def test_cycle_with_another_server_is_one_clear_line(horse: Path, tmp_path: Path) -> None:
    async def respond(number: int, body: bytes) -> bytes:
        return answer("200 OK", encode(PIXELS), "Content-Type: image/png", "Connection: close")

    out = tmp_path / "row.png"
    with timed_server(respond) as server, pytest.raises(ServerError, match="answers cycle as no zorse server does"):
        run("cycle", f"http://127.0.0.1:{server.port}/v2/models/a", horse, "--out", out)
    assert not out.exists()


def test_cycle_writes_the_format_of_the_ending(repository: Path, horse: Path, tmp_path: Path) -> None:
    command = ("cycle", repository / "invert", horse, "--partner", "invert", "--device", "cpu", "--out")
    run(*command, tmp_path / "error.json")
    assert json.loads((tmp_path / "error.json").read_text()) == {"errors": [{"l1": 0.0, "psnr": "inf"}]}
    run(*command, tmp_path / "row.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "row.npy"), np.stack([PIXELS, 255 - PIXELS, PIXELS]))
    with pytest.raises(OutputError, match=r"c\.gif cannot be written: .* \.zip, \.json$"):
        run(*command, tmp_path / "c.gif")


def test_call_refuses_a_name_of_another_format(repository: Path, tmp_path: Path) -> None:
    command = ("call", repository / "digits", "generate", "format=npy", "--device", "cpu", "--out")
    with pytest.raises(OutputError, match=r"o\.png is not written, since the answer is application/x-npy: .* \.npy"):
        run(*command, tmp_path / "o.png")
    assert not (tmp_path / "o.png").exists()
    run(*command, tmp_path / "o.NPY")
    run(*command, tmp_path / "o.bin")
    assert (tmp_path / "o.NPY").read_bytes() == (tmp_path / "o.bin").read_bytes()


def test_endings_of_one_format_are_accepted() -> None:
    for name in ("a.jpg", "a.JPEG", "a", "a.raw"):
        check_ending(Path(name), "image/jpeg")
    with pytest.raises(OutputError, match=r"ends in \.jpg or \.jpeg, or another format"):
        check_ending(Path("a.png"), "image/jpeg")


def test_written_file_follows_links(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    for name in ("old", "new"):
        (tmp_path / name).symlink_to(tmp_path / "real" / name)
    (tmp_path / "real" / "old").write_bytes(b"before")
    for name in ("old", "new"):
        write_file(tmp_path / name, File(b"after", "image/png"))
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "real" / name).read_bytes() == b"after"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["new", "new", "old", "old", "real"]


def test_written_file_goes_into_a_pipe_that_exists(tmp_path: Path) -> None:
    pipe, received = tmp_path / "pipe.png", list[bytes]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write_file(pipe, File(b"content", "image/png"))
    reader.join(10)
    assert received == [b"content"]
    assert pipe.is_fifo()


def test_written_file_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a folder: give the name of a file in it"):
        write_file(tmp_path, File(b"", "image/png"))


def test_call_answers_any_verb_with_its_keys(repository: Path, horse: Path, tmp_path: Path) -> None:
    model, out, device = repository / "digits", tmp_path / "out.png", ("--device", "cpu")
    output = run("call", model, "generate", "n=3", "seed=5", "--out", out, *device)
    assert output == f"image/png in {out}\n"
    expected = LocalModel.load(model, "cpu").fetch("generate", n=3, seed=5)
    assert out.read_bytes() == expected.content
    run("call", model, "arithmetic", "a=1", "a=2", "b=3", "c=4", "only_result=true", "--out", out, *device)
    assert (
        out.read_bytes()
        == LocalModel.load(model, "cpu").fetch("arithmetic", a=[1, 2], b=[3], c=[4], only_result=True).content
    )
    run("call", repository / "invert", "translate", "--image", horse, "--out", out, *device)
    np.testing.assert_array_equal(np.asarray(Image.open(out)), 255 - PIXELS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generat", "n=3"], "did you mean generate"),
        (["generate", "m=3"], "unknown key m"),
        (["generate", "n=three"], "n: Input should be a valid integer"),
    ],
)
def test_call_refuses_unknown_verbs_and_keys(
    repository: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    with pytest.raises(ServingError, match=message):
        run("call", repository / "digits", *arguments, "--out", tmp_path / "out.png", "--device", "cpu")
    assert not (tmp_path / "out.png").exists()


def test_call_needs_keys_with_values(repository: Path, tmp_path: Path) -> None:
    result = invoke("call", repository / "digits", "generate", "n", "--out", tmp_path / "out.png")
    assert result.exit_code == 2
    assert "is not of the form key=value" in result.output


def test_interpolate_refuses_more_images_than_memory_is_for(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(TooLargeError, match="the limit is 10000 a call"):
        run("latent", "interpolate", repository / "digits", "--steps", 10**9, "--out", tmp_path / "x.png")
