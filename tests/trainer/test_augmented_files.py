"""Examples from image files: the cache changes no pixel, and paired files stay together."""

from __future__ import annotations

import contextlib
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow

from trainer import registry
from trainer.data.augmented_files import AugmentedFiles, DomainFiles, mirror_half
from trainer.data.base import Dataset, DataSpec, Example, Image, ImageSpec
from trainer.data.resized_files import OVERHEAD_BYTES, ImageCache, ResizedFiles, crop_centre, squash
from trainer.errors import DataError
from trainer.loader import Loader, Worker, draw_nothing
from trainer.run_config import BatchSection
from zorse_common.files import ImageFiles

SIZE, LOAD_SIZE = 8, 10
IMAGE_BYTES = LOAD_SIZE * LOAD_SIZE * 3 + OVERHEAD_BYTES


def _noise(seed: int, width: int = 24, height: int = 20) -> Pillow.Image:
    return Pillow.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def _write(root: Path, folders: tuple[str, ...], count: int) -> None:
    for seed, folder in enumerate(folders):
        (root / folder).mkdir(parents=True)
        for number in range(count):
            _noise(100 * seed + number).save(root / folder / f"{number}.png")


def _dataset(root: Path, cache_mib: int, kind: str = "unpaired") -> Dataset:
    section = {"type": kind, "root": str(root), "size": SIZE, "flip": True, "cache_mib": cache_mib}
    dataset: Dataset = registry.build(registry.resolve("data", section), seed=4)
    return dataset


def _pixels(dataset: Dataset, numbers: range) -> list[dict[str, list[Any]]]:
    examples = [dataset.example(number) for number in numbers]
    return [{domain: image.tolist() for domain, image in example.images.items()} for example in examples]


@pytest.mark.parametrize("kind", ["unpaired", "folder"])
def test_cached_examples_are_bit_equal_to_decoded_ones_in_any_order(tmp_path: Path, kind: str) -> None:
    _write(tmp_path, ("trainA", "trainB"), 5)
    expected = _pixels(_dataset(tmp_path, 0, kind), range(20))
    cached = _dataset(tmp_path, 1, kind)
    assert _pixels(cached, range(20)) == expected
    assert _pixels(cached, range(20)) == expected
    backwards = _pixels(_dataset(tmp_path, 1, kind), range(19, -1, -1))
    assert backwards[::-1] == expected
    with ThreadPoolExecutor(4) as threads:
        parallel = _dataset(tmp_path, 1, kind)
        assert list(threads.map(lambda number: _pixels(parallel, range(number, number + 1))[0], range(20))) == expected


def test_cache_serves_later_epochs_without_the_files(tmp_path: Path) -> None:
    _write(tmp_path / "images", ("trainA", "trainB"), 4)
    cached, uncached = _dataset(tmp_path / "images", 1), _dataset(tmp_path / "images", 0)
    expected = _pixels(uncached, range(12))
    assert _pixels(cached, range(4)) == expected[:4]
    shutil.rmtree(tmp_path / "images")
    assert _pixels(cached, range(4, 12)) == expected[4:]
    with pytest.raises(DataError, match="none of the 4 images can be read"):
        _pixels(uncached, range(4))


def test_cache_keeps_what_fits_into_its_bytes_and_counts_them(tmp_path: Path) -> None:
    _write(tmp_path, ("images",), 5)
    images = ImageFiles(str(tmp_path))
    limited = ResizedFiles(images, squash, LOAD_SIZE, cache_bytes=4 * IMAGE_BYTES - 1)
    uncached = ResizedFiles(images, squash, LOAD_SIZE)
    for _ in range(2):
        for name in images.names:
            np.testing.assert_array_equal(limited.read(name, 3), uncached.read(name, 3))
    assert (len(limited.cache), limited.cache.bytes) == (3, 3 * IMAGE_BYTES)
    assert (len(uncached.cache), uncached.cache.bytes) == (0, 0)
    # A smaller image may still fit: a grey one has a third of the pixels' bytes.
    assert limited.read(images.names[0], 1) is not None
    assert limited.cache.bytes == 3 * IMAGE_BYTES + LOAD_SIZE * LOAD_SIZE + OVERHEAD_BYTES


def test_cache_counts_each_image_once_for_many_threads() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    cache = ImageCache(50 * (image.nbytes + OVERHEAD_BYTES))
    with ThreadPoolExecutor(8) as threads:
        for name in range(400):
            threads.submit(cache.add, str(name % 80), 3, image)
    assert (len(cache), cache.bytes) == (50, 50 * (image.nbytes + OVERHEAD_BYTES))


def test_cached_arrays_are_read_only(tmp_path: Path) -> None:
    _write(tmp_path, ("images",), 1)
    image = ResizedFiles(ImageFiles(str(tmp_path)), squash, LOAD_SIZE, cache_bytes=2**20).read("images/0.png", 3)
    assert image is not None
    with pytest.raises(ValueError, match="read-only"):
        image[:] = 0


@pytest.mark.parametrize("size", [(64, 48), (37, 91), (20, 20), (9, 15)])
def test_centre_crop_is_that_of_the_whole_resized_image(size: tuple[int, int]) -> None:
    # Levels from 80 to 176: at black and white the filter's overshoot would be cut between its two passes, whose order
    # Pillow chooses by the size of the box.
    image = _noise(0, *size).point(lambda level: 80 + level * 96 // 255)
    scale = 12 / min(size)
    width, height = (round(side * scale) for side in size)
    left, top = (width - 12) // 2, (height - 12) // 2
    whole = image.resize((width, height), Pillow.Resampling.BICUBIC).crop((left, top, left + 12, top + 12))
    difference = np.asarray(whole).astype(int) - np.asarray(crop_centre(image, 12))
    assert np.abs(difference).max() <= 1


class PairedFolders:
    """Pairs of a grey file below `input/` and a colour file of the same name below `target/`, cropped alike."""

    def __init__(self, root: Path, seed: int = 0, max_unreadable: int = 10) -> None:
        self.spec = DataSpec({"input": ImageSpec(SIZE, 1), "target": ImageSpec(SIZE, 3)}, paired=True)
        self.digest, self.facts = "pairs", list[str]()
        self._files = ImageFiles(str(root))
        domains = {
            domain: DomainFiles([name for name in self._files.names if name.startswith(domain)], image.channels)
            for domain, image in self.spec.domains.items()
        }
        resized = ResizedFiles(self._files, squash, LOAD_SIZE, cache_bytes=2**20)
        self._pairs = AugmentedFiles(resized, domains, seed=seed, stream="pairs", max_unreadable=max_unreadable)

    @property
    def skipped(self) -> list[str]:
        return self._files.skipped

    def count(self, domain: str) -> int:
        return len(self._pairs)

    def example(self, number: int) -> Example:
        return Example(self._pairs.augmented(number, self._augment))

    def held_out(self, domain: str, count: int) -> list[Image]:
        return [images[domain] for images in self._pairs.evenly_spaced(count)]

    def _augment(self, image: Image, draw: np.random.Generator) -> Image:
        top, left = draw.integers(0, LOAD_SIZE - SIZE, size=2, endpoint=True).tolist()
        return mirror_half(image[top : top + SIZE, left : left + SIZE], draw)


def _write_pairs(root: Path, count: int) -> None:
    """Each target has the input's grey as its red channel; its green and blue channel tell the pair's number."""
    for folder in ("input", "target"):
        (root / folder).mkdir(parents=True)
    for number in range(count):
        grey = np.random.default_rng(number).integers(0, 256, (LOAD_SIZE, LOAD_SIZE), dtype=np.uint8)
        level = np.full_like(grey, 10 * number)
        Pillow.fromarray(grey).save(root / "input" / f"{number}.png")
        Pillow.fromarray(np.stack([grey, level, level], axis=2)).save(root / "target" / f"{number}.png")


def _pair_number(example: dict[str, NDArray[np.uint8]]) -> int:
    """Check that both images are the same crop of one pair, and return its number."""
    np.testing.assert_array_equal(example["input"][..., 0], example["target"][..., 0])
    (level,) = np.unique(example["target"][..., 1:])
    return int(level) // 10


def test_paired_images_share_index_crop_and_mirroring(tmp_path: Path) -> None:
    _write_pairs(tmp_path, 6)
    dataset = PairedFolders(tmp_path)
    examples = [dataset.example(number).images for number in range(60)]
    numbers = [_pair_number(example) for example in examples]
    assert all(sorted(numbers[start : start + 6]) == list(range(6)) for start in range(0, 60, 6))
    assert {(image.shape) for example in examples for image in example.values()} == {(SIZE, SIZE, 1), (SIZE, SIZE, 3)}
    # The augmentation is drawn anew for each example: 18 crops of one pair are possible.
    assert len({example["input"].tobytes() for example in examples if _pair_number(example) == 0}) > 3


@pytest.mark.parametrize("broken", ["input/2.png", "target/2.png"])
def test_paired_examples_are_replaced_as_a_whole(tmp_path: Path, broken: str) -> None:
    _write_pairs(tmp_path, 4)
    whole = [_pair_number(PairedFolders(tmp_path).example(number).images) for number in range(8)]
    (tmp_path / broken).write_bytes(b"broken")
    dataset = PairedFolders(tmp_path)
    numbers = [_pair_number(dataset.example(number).images) for number in range(8)]
    assert numbers == [3 if number == 2 else number for number in whole]
    assert [line.split(":")[0] for line in dataset.skipped] == [f"skipped {broken}"]
    held_out = [dataset.held_out(domain, 4) for domain in ("input", "target")]
    assert [_pair_number({"input": one, "target": two}) for one, two in zip(*held_out, strict=True)] == [0, 1, 3]


def test_paired_dataset_says_where_no_pair_or_too_many_files_can_be_read(tmp_path: Path) -> None:
    _write_pairs(tmp_path, 2)
    for name in ("input/0.png", "target/1.png"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"none of the 2 pairs can be read \((input/0|target/1).png: the image is"):
        PairedFolders(tmp_path).example(0)
    with pytest.raises(DataError, match=r"1 images cannot be read .* data.max_unreadable \(0\) allows"):
        PairedFolders(tmp_path, max_unreadable=0).example(0)


def test_loader_keeps_pairs_together(tmp_path: Path) -> None:
    _write_pairs(tmp_path, 6)
    loader = Loader(
        PairedFolders(tmp_path),
        draw_nothing,
        BatchSection(global_size=3),
        Worker(),
        device=torch.device("cpu"),
        threads=3,
    )
    with contextlib.closing(loader.steps(0)) as steps:
        batches = [batch for _ in range(4) for batch in next(steps)]
    for batch in batches:
        assert batch.images["input"].shape == (3, 1, SIZE, SIZE)
        assert batch.images["input"].equal(batch.images["target"][:, :1])
