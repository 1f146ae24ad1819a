"""Folders and zips of images, whatever is in them."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainer import registry
from trainer.config import DataComponent
from trainer.errors import DataError


def _write(path: Path, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(len(path.name))
    Image.fromarray(draw.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).convert(mode).save(path)


def _folder(root: Path, **keys: object) -> DataComponent:
    return DataComponent.model_validate({"type": "folder", "root": str(root), "size": 16, **keys})


def test_images_of_any_size_and_mode_become_equal(tmp_path: Path) -> None:
    for name, size, mode in (("a.png", (40, 30), "RGB"), ("b.png", (8, 90), "L"), ("c.jpg", (17, 17), "CMYK")):
        _write(tmp_path / name, size, mode)
    source = registry.build(_folder(tmp_path), seed=0)
    images = [source.image("image", number) for number in range(9)]
    assert {image.shape for image in images} == {(16, 16, 3)}
    assert all(np.array_equal(image, source.image("image", number)) for number, image in enumerate(images))
    grey = registry.build(_folder(tmp_path, channels=1), seed=0)
    assert grey.image("image", 0).shape == (16, 16, 1)


def test_a_zip_gives_what_the_folder_gives(tmp_path: Path) -> None:
    names = [f"set/{domain}/{number}.png" for domain in ("trainA", "trainB", "testA", "testB") for number in range(3)]
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name in names:
            _write(tmp_path / name)
            archive.write(tmp_path / name, name)
    sources = [
        registry.build(DataComponent.model_validate({"type": "unpaired", "root": str(root), "size": 16}), seed=5)
        for root in (tmp_path / "set", tmp_path / "set.zip")
    ]
    for domain in "AB":
        assert [source.count(domain) for source in sources] == [3, 3]
        assert len(sources[0].held_out(domain, 8)) == 3
        for number in range(6):
            assert np.array_equal(*(source.image(domain, number) for source in sources))


def test_unreadable_images_are_named_and_skipped_up_to_the_limit(tmp_path: Path) -> None:
    for number in range(4):
        _write(tmp_path / f"good{number}.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "good0.png").read_bytes()[:60])
    (tmp_path / "text.jpg").write_text("not an image")
    source = registry.build(_folder(tmp_path, max_unreadable=2), seed=0)
    assert len([source.image("image", number) for number in range(12)]) == 12
    assert {line.split(":")[0] for line in source.skipped} == {"skipped torn.png", "skipped text.jpg"}
    strict = registry.build(_folder(tmp_path, max_unreadable=1), seed=0)
    with pytest.raises(DataError, match=r"2 images cannot be read \(.*\.(png|jpg).*data.max_unreadable \(1\)"):
        [strict.image("image", number) for number in range(12)]


def test_missing_and_empty_places_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        registry.build(_folder(tmp_path / "nowhere"), seed=0)
    with pytest.raises(DataError, match="holds no images"):
        registry.build(_folder(tmp_path), seed=0)
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(DataError, match="neither a folder nor a zip"):
        registry.build(_folder(tmp_path / "file.txt"), seed=0)
    with pytest.raises(DataError, match="no images in trainA/"):
        registry.build(DataComponent.model_validate({"type": "unpaired", "root": str(tmp_path), "size": 16}), seed=0)
