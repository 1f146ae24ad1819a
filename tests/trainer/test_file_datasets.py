"""Datasets of files: which files are trained on, which are left out, and the facts on them."""

from __future__ import annotations

import io
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.common.image_files import RGB, raw_png
from trainer import registry
from trainer.errors import ConfigError, DataError
from zorse_common.files import FilesError, ImageFiles


def _picture(seed: int = 0, top: float = 255, dtype: str = "uint8", size: tuple[int, int] = (20, 16)) -> Image.Image:
    """Return a grey gradient with noise, from 0 to `top`."""
    width, height = size
    ramp = np.linspace(0, 0.9, width)[None] + np.random.default_rng(seed).uniform(0, 0.1, (height, width))
    return Image.fromarray(np.rint(ramp * top).astype(dtype))


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def _fill(root: Path, *names: str, **keys: Any) -> None:
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        _picture(seed, **keys).save(root / name)


def _dataset(kind: str, root: Path, **keys: Any) -> Any:
    section = {"type": kind, "root": str(root), "size": 16, "channels": 1, **keys}
    return registry.build(registry.resolve("data", section), seed=0)


def test_folder_refuses_a_class_named_train_as_ambiguous(tmp_path: Path) -> None:
    _fill(tmp_path, *(f"{name}/{number}.png" for name in ("bus", "car", "train") for number in range(3)))
    message = r"has 3 images in train/ and 6 elsewhere \(bus, car\).* data.splits=none .* data.root to the folder train"
    with pytest.raises(DataError, match=message):
        _dataset("folder", tmp_path)
    assert _dataset("folder", tmp_path, splits="none").count("image") == 9
    assert _dataset("folder", tmp_path / "train").count("image") == 3


def test_folder_finds_splits_at_the_root_and_below_one_folder(tmp_path: Path) -> None:
    names = ("train/a/0.png", "train/1.png", "test/2.png")
    _fill(tmp_path / "plain", *names)
    _fill(tmp_path / "outer" / "wrapped", *names)
    _fill(tmp_path / "outer" / "deep", *(f"one/two/{name}" for name in names))
    for root, count in (("plain", 2), ("outer/wrapped", 2), ("outer/deep/one", 2), ("outer/deep", 3)):
        dataset = _dataset("folder", tmp_path / root)
        assert (dataset.count("image"), len(dataset.held_out("image", 8))) == (count, 3 - count)


def test_unpaired_refuses_two_datasets_below_one_root(tmp_path: Path) -> None:
    for name in ("apple2orange", "horse2zebra"):
        _fill(tmp_path / name, *(f"{folder}/{number}.png" for folder in ("trainA", "trainB") for number in range(2)))
    with pytest.raises(FilesError, match=r"more than one data set \(apple2orange/trainA and horse2zebra/trainA\)"):
        _dataset("unpaired", tmp_path)
    assert _dataset("unpaired", tmp_path / "horse2zebra").count("A") == 2


def test_links_are_followed_once_and_not_in_cycles(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "set", tmp_path / "elsewhere"
    _fill(root, "trainA/0.png", "trainB/0.png", "trainB/1.png")
    _fill(elsewhere, "2.png", "3.png")
    (root / "trainA" / "up").symlink_to(root.absolute())
    (root / "trainA" / "linked").symlink_to(elsewhere)
    (root / "trainA" / "again").symlink_to(elsewhere)
    (root / "trainB" / "gone").symlink_to(tmp_path / "nothing")
    dataset = _dataset("unpaired", root)
    assert (dataset.count("A"), dataset.count("B")) == (3, 2)
    assert dataset.facts[-1] == (
        "left out 3 files: 2 a link to a folder that is read already (trainA/linked, trainA/up); "
        "1 a link to a missing file (trainB/gone)"
    )


def test_links_to_sibling_and_hidden_folders_rename_them(tmp_path: Path) -> None:
    _fill(tmp_path, "horses/0.png", "horses/1.png", ".store/zebras/2.png", "cows/3.png")
    (tmp_path / "trainA").symlink_to("horses")
    (tmp_path / "trainB").symlink_to(".store/zebras")
    # From elsewhere in the tree a link adds nothing to what its target is listed as.
    (tmp_path / "horses" / "others").symlink_to(tmp_path / "cows")
    dataset = _dataset("unpaired", tmp_path)
    assert (dataset.count("A"), dataset.count("B")) == (2, 1)


def test_images_without_usual_suffix_are_recognised_by_their_bytes(tmp_path: Path) -> None:
    _fill(tmp_path, "0.jpg", "1.ppm", "2.tga")
    for name in ("3.jfif", "4.jpe", "IMG_0005"):
        _picture().save(tmp_path / name, "JPEG")
    (tmp_path / "6.dat").write_bytes(_png(_picture()))
    for name in ("notes.txt", "LICENSE"):
        (tmp_path / name).write_text("not an image")
    dataset = _dataset("folder", tmp_path)
    assert dataset.count("image") == 7
    assert len(dataset.held_out("image", 8)) == 0
    assert {dataset.example(number).images["image"].shape for number in range(7)} == {(16, 16, 1)}
    assert dataset.skipped == []
    assert dataset.facts == [
        "training: 7 images of 20×16 pixels (4 8-bit JPEG, 1 8-bit PPM, 1 8-bit TGA, 1 8-bit PNG)",
        "left out 2 files: 2 no image (LICENSE, notes.txt)",
    ]


def test_zip_with_backslashes_is_read_like_one_with_slashes(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "windows.zip", "w") as archive:
        for folder in ("trainA", "trainB", "testA"):
            for number in range(2):
                archive.writestr(zipfile.ZipInfo(f"animals\\{folder}\\{number}.png"), _png(_picture(number)))
        archive.writestr(zipfile.ZipInfo("__MACOSX\\animals\\trainA\\._0.png"), _png(_picture()))
    dataset = _dataset("unpaired", tmp_path / "windows.zip")
    assert [dataset.count("A"), dataset.count("B"), len(dataset.held_out("A", 8))] == [2, 2, 2]
    assert dataset.example(0).images["A"].shape == (16, 16, 1)
    assert dataset.facts[-1] == "left out 1 files: 1 hidden (__MACOSX/animals/trainA/._0.png)"


def test_file_names_need_not_be_utf8(tmp_path: Path) -> None:
    _fill(tmp_path, "0.png")
    name = os.fsencode(tmp_path) + b"/Mu\xf1oz.png"
    Path(os.fsdecode(name)).write_bytes(_png(_picture(1)))
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")).write_bytes(b"broken")
    dataset = _dataset("folder", tmp_path)
    assert dataset.count("image") == 3
    assert len({dataset.example(number).images["image"].tobytes() for number in range(3)}) == 2
    assert [line.split(":")[0] for line in dataset.skipped] == [r"skipped \xff.png"]
    "".join(dataset.skipped + dataset.facts + [dataset.digest]).encode()


@pytest.mark.parametrize(
    ("top", "dtype", "suffix"), [(4095, "uint16", "png"), (255, "uint16", "png"), (65535, "int32", "tif")]
)
def test_value_range_is_refused_if_the_greys_span_little_of_it(
    tmp_path: Path, top: int, dtype: str, suffix: str
) -> None:
    names = [f"{domain}/{number}.{suffix}" for domain in ("trainA", "trainB") for number in range(3)]
    _fill(tmp_path, *names, top=top, dtype=dtype)
    message = rf"trainA: images of more than 8 bits \(such as trainA/0.{suffix}\) use under 1/16 .* data.value_range"
    with pytest.raises(FilesError, match=message):
        _ = _dataset("unpaired", tmp_path).facts
    dataset = _dataset("unpaired", tmp_path, value_range=[0, top])
    assert dataset.facts[1] == f"trainA: greys of more than 8 bits are mapped from [0, {top}] (data.value_range)"
    expected = np.asarray(_picture(0).resize((16, 16), Image.Resampling.BICUBIC), dtype=int)
    assert np.abs(dataset.held_out("A", 1)[0][..., 0].astype(int) - expected).max() <= 1


def test_greys_of_16_bits_and_full_range_need_no_value_range(tmp_path: Path) -> None:
    _fill(tmp_path, "0.png", "1.png", top=65535, dtype="uint16")
    dataset = _dataset("folder", tmp_path)
    assert dataset.facts == [
        "training: 2 images of 20×16 pixels (2 16-bit PNG)",
        "training: greys of more than 8 bits are mapped from the range that each file states or its integers "
        "have (data.value_range)",
    ]
    assert dataset.example(0).images["image"].max() > 200


def test_held_out_images_are_evenly_spaced(tmp_path: Path) -> None:
    _fill(tmp_path, *(f"train/{number:02}.png" for number in range(2)))
    for number in range(20):
        (tmp_path / "test").mkdir(exist_ok=True)
        Image.new("L", (16, 16), number).save(tmp_path / "test" / f"{number:02}.png")
    (tmp_path / "test" / "05.png").write_bytes(b"")
    shown = [int(image[0, 0, 0]) for image in _dataset("folder", tmp_path).held_out("image", 4)]
    assert shown == [0, 6, 10, 15]


def test_folder_images_are_resized_centre_cropped_and_mirrored_on_request(tmp_path: Path) -> None:
    half = np.zeros((32, 64, 3), np.uint8)
    half[:, 32:] = 255
    Image.fromarray(half).save(tmp_path / "half.png")
    dataset = _dataset("folder", tmp_path, channels=3)
    middle = np.asarray(Image.fromarray(half).resize((32, 16), Image.Resampling.BICUBIC).crop((8, 0, 24, 16)))
    assert {dataset.example(number).images["image"].tobytes() for number in range(20)} == {middle.tobytes()}
    flipped = _dataset("folder", tmp_path, channels=3, flip=True)
    shown = {flipped.example(number).images["image"].tobytes() for number in range(20)}
    assert shown == {middle.tobytes(), middle[:, ::-1].tobytes()}


def test_digest_changes_with_the_training_files_alone(tmp_path: Path) -> None:
    for name in ("one", "two"):
        _fill(tmp_path / name, "trainA/0.png", "trainB/0.png", "testA/0.png")
    digests = [_dataset("unpaired", tmp_path / name).digest for name in ("one", "two")]
    assert digests[0] == digests[1]
    (tmp_path / "two" / "testA" / "0.png").write_bytes(b"")
    assert _dataset("unpaired", tmp_path / "two").digest == digests[0]
    _picture(5, size=(21, 17)).save(tmp_path / "two" / "trainA" / "0.png")
    assert _dataset("unpaired", tmp_path / "two").digest != digests[0]


def test_object_store_files_are_sniffed_once_per_suffix(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.img").write_bytes(_png(_picture(number)))
        (tmp_path / f"{number}.log").write_text("text")
    local, remote = ImageFiles(str(tmp_path)), ImageFiles(f"file://{tmp_path}")
    assert local.names == remote.names == ["0.img", "1.img", "2.img"]
    assert set(remote.left_out) == {"0.log", "1.log", "2.log"}
    assert re.fullmatch("no image", remote.left_out["2.log"])


def test_colours_of_16_bits_keep_their_high_byte_without_value_range(tmp_path: Path) -> None:
    row = np.repeat(np.arange(0, 4096, 256), 3).astype(">u2").tobytes()
    content = raw_png(16, 16, 16, RGB, [row] * 16)
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(content)
    dataset = _dataset("folder", tmp_path, channels=3)
    assert dataset.facts == ["training: 2 images of 16×16 pixels (2 16-bit PNG)"]
    assert dataset.example(0).images["image"][0, :, 1].tolist() == list(range(16))


@pytest.mark.parametrize(
    ("value_range", "message"),
    [([5, 5], "are no value range: give two different finite"), ([0, float("inf")], "Input should be a finite number")],
)
def test_value_range_of_equal_or_infinite_numbers_is_refused(
    tmp_path: Path, value_range: list[float], message: str
) -> None:
    _fill(tmp_path, "0.png")
    with pytest.raises(ConfigError, match=message):
        _dataset("folder", tmp_path, value_range=value_range)
    with pytest.raises(FilesError, match="are no value range"):
        ImageFiles(str(tmp_path), value_range=(value_range[0], value_range[1]))
