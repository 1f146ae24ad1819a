"""Artifacts in an object store are loaded as those in a folder."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import zorse
from serving import artifacts
from serving.errors import ArtifactError
from serving.selftest import verify_artifact
from tests.s3 import s3_server
from zorse_common.storage import Storage

pytestmark = pytest.mark.ray

REPOSITORY = "s3://models/repository"


@pytest.fixture(scope="module")
def s3_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the S3 server, with its log."""
    return tmp_path_factory.mktemp("s3")


@pytest.fixture(scope="module")
def uri(s3_folder: Path, repository: Path) -> Iterator[str]:
    """The repository of the other tests on S3, with an alias."""
    with s3_server(s3_folder, "s3://models"):
        place = Storage(REPOSITORY)
        for name in Storage(repository).tree().sizes:
            place.write(name, (repository / name).read_bytes())
        place.write("digits/aliases.json", json.dumps({"stable": 1}).encode())
        yield REPOSITORY


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "zorse" / "artifacts"


@pytest.mark.parametrize("name", ["digits", "digits@stable", "digits@latest", "digits@1", "digits/1"])
def test_load_from_a_uri_equals_load_from_the_folder(uri: str, repository: Path, cache: Path, name: str) -> None:
    images = zorse.load(f"{uri}/{name}").generate(4, seed=3)
    np.testing.assert_array_equal(images, zorse.load(repository / "digits").generate(4, seed=3))
    assert len(list(cache.iterdir())) == 1


def test_find_at_a_uri_equals_find_in_the_folder(uri: str, repository: Path, cache: Path) -> None:
    there, here = artifacts.find(uri), artifacts.find(repository)
    assert list(there.models) == list(here.models)
    for name, found in there.models.items():
        fetched, local = artifacts.load(found.uri), artifacts.load(here.models[name].uri)
        assert fetched.manifest == local.manifest
        assert fetched.model.read_bytes() == local.model.read_bytes()
    assert list(artifacts.find(uri, "stable").models) == ["digits"]
    assert verify_artifact(f"{uri}/invert", "cpu").max_grey_diff == 0
    source = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    np.testing.assert_array_equal(zorse.load(f"{uri}/invert").translate(source), 255 - source)


def test_cache_fetches_a_damaged_entry_again(uri: str, cache: Path) -> None:
    first = artifacts.load(f"{uri}/digits")
    for damage in (b"", first.model.read_bytes()[:-1] + b"x"):
        first.model.write_bytes(damage)
        assert artifacts.load(f"{uri}/digits") == first
    first.model.unlink()
    assert artifacts.load(f"{uri}/digits") == first
    assert [entry.name for entry in cache.iterdir()] == [first.path.name]


def test_cache_fetches_an_entry_once_for_all_that_ask_at_the_same_moment(
    uri: str, cache: Path, s3_folder: Path
) -> None:
    def fetches() -> int:
        return (s3_folder / "log").read_text().count("GET /models/repository/digits/1/model.onnx ")

    before, barrier = fetches(), threading.Barrier(4)

    def load(_: int) -> Path:
        barrier.wait(60)
        return artifacts.load(f"{uri}/digits/1").path

    with ThreadPoolExecutor(4) as threads:
        (path,) = set(threads.map(load, range(4)))
    assert fetches() == before + 1
    assert [entry.name for entry in cache.iterdir()] == [path.name]


def test_load_reports_missing_and_changed_files_at_a_uri_in_one_line(uri: str, cache: Path) -> None:
    with pytest.raises(ArtifactError, match="there is no artifact at s3://models/repository/nothing"):
        artifacts.load(f"{uri}/nothing")
    with pytest.raises(ArtifactError, match=r"has no digits@canary: digits has 1, .*latest"):
        artifacts.load(f"{uri}/digits@canary")
    with pytest.raises(ArtifactError, match="there is no model repository at s3://models/elsewhere"):
        artifacts.find("s3://models/elsewhere")
    damaged = Storage("s3://models/damaged")
    for name in Storage(f"{uri}/digits/1").tree().sizes:
        damaged.write(f"digits/1/{name}", (Storage(f"{uri}/digits/1")).read(name))
    damaged.write("digits/1/model.onnx", b"other")
    with pytest.raises(ArtifactError, match=r"damaged/digits/1/model.onnx is not the file .* \(digest mismatch\)"):
        artifacts.load("s3://models/damaged/digits")
    assert list(cache.iterdir()) == []
