"""The ordinary libraries read every output format, with the images of `zorse.load`."""

from __future__ import annotations

import gc
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from serving.artifacts import load
from serving.batch.formats.base import FORMATS, Columns, Item
from serving.local_model import LocalModel
from tests.serving.batch.jobs import make_all, plan_of
from tests.serving.tiny import conditional_manifest, generator_graph, write
from zorse_common.image_writer import encode

# webdataset leaves the files of its shards open.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

COUNT = 20


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator with three classes."""
    return write(tmp_path_factory.mktemp("repository"), generator_graph(classes=3), conditional_manifest())


@pytest.fixture
def expected(model: Path) -> list[bytes]:
    """The file of each image, as a request for it alone is answered."""
    opened = LocalModel.load(model)
    return [opened.fetch("generate", n=1, seed=7, first=number).content for number in range(COUNT)]


def _shards(model: Path, name: str, folder: Path) -> list[str]:
    make_all(model, plan_of(load(model).manifest, format=name, count=COUNT), folder)
    return sorted(str(path) for path in (folder / "shards").iterdir())


@pytest.mark.slow
def test_webdataset_reads_its_shards(model: Path, expected: list[bytes], tmp_path: Path) -> None:
    data = webdataset.WebDataset(_shards(model, "webdataset", tmp_path), shardshuffle=False)
    samples = list(data)
    assert [sample["__key__"] for sample in samples] == [f"7_{number:06d}" for number in range(COUNT)]
    assert [sample["png"] for sample in samples] == expected
    assert [int(sample["cls"]) for sample in samples] == [number % 3 for number in range(COUNT)]
    del data
    gc.collect()


@pytest.mark.slow
def test_datasets_reads_parquet(model: Path, expected: list[bytes], tmp_path: Path) -> None:
    import datasets

    shards = _shards(model, "parquet", tmp_path / "out")
    data = datasets.load_dataset("parquet", data_files=shards, split="train", cache_dir=str(tmp_path / "cache"))
    assert isinstance(data.features["image"], datasets.Image)
    assert data["number"][:] == list(range(COUNT))
    assert data["label"][:] == [number % 3 for number in range(COUNT)]
    for number in (0, 9, 19):
        assert np.array_equal(data[number]["image"], Image.open(io.BytesIO(expected[number])))


@pytest.mark.slow
def test_datasets_reads_a_folder_of_images(model: Path, tmp_path: Path) -> None:
    import datasets

    _shards(model, "images", tmp_path / "out")
    data = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "out/shards"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(data) == COUNT


@pytest.mark.slow
def test_datasets_reads_the_images_of_several_models_and_all_values(tmp_path: Path) -> None:
    import datasets

    columns: Columns = {"a": "image", "a-back": "image", "number": "index", "label": "int", "a-l1": "float"}
    pixels = [np.full((4, 4, 3), level, np.uint8) for level in range(5)]
    for shard in range(2):
        items = [
            Item(
                f"zoo/{number}",
                {"a": encode(pixels[number]), "a-back": encode(pixels[number + 1])},
                "png",
                {"number": number, "label": number % 2, "a-l1": number / 2},
            )
            for number in range(2 * shard, 2 * shard + 2)
        ]
        for name, content in FORMATS.find("images")(f"{shard:06d}", items, columns).items():
            (tmp_path / "shards" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "shards" / name).write_bytes(content)
    data = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "shards"), split="train", cache_dir=str(tmp_path / "cache")
    )
    rows = sorted(data, key=lambda row: row["number"])
    assert [(row["number"], row["label"], row["a-l1"]) for row in rows] == [(n, n % 2, n / 2) for n in range(4)]
    for number, row in enumerate(rows):
        assert np.array_equal(row["a"], pixels[number])
        assert np.array_equal(row["a-back"], pixels[number + 1])


def test_pillow_reads_images(model: Path, expected: list[bytes], tmp_path: Path) -> None:
    _shards(model, "images", tmp_path)
    for number in range(COUNT):
        file = tmp_path / f"shards/{number // 8:06d}/7_{number:06d}.png"
        assert file.read_bytes() == expected[number]
        assert np.asarray(Image.open(file)).shape == (8, 8, 3)


def test_zip_is_read_as_stylegan_reads_it(model: Path, expected: list[bytes], tmp_path: Path) -> None:
    # As ImageFolderDataset of StyleGAN: every file with the ending of an image, sorted, and the labels of dataset.json.
    import json

    contents, labels = {}, {}
    for shard in _shards(model, "zip", tmp_path):
        with zipfile.ZipFile(shard) as archive:
            names = sorted(name for name in archive.namelist() if Path(name).suffix in Image.registered_extensions())
            contents |= {name: archive.read(name) for name in names}
            labels |= dict(json.loads(archive.read("dataset.json"))["labels"])
    assert list(contents.values()) == expected
    assert [labels[name] for name in contents] == [number % 3 for number in range(COUNT)]
