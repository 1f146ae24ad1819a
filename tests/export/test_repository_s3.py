"""The model repository on an object store: pushed, pulled, and killed in mid-upload."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from export.errors import RepositoryError
from export.layout import ALIASES_FILE
from export.manifest import MANIFEST_FILE
from export.repository import Repository
from export.uploads import TRITON_FILE, UNFINISHED_AGE
from tests.export.artifacts import FILES, TRITON, UPLOAD, add, manifest, stage, tree
from tests.s3 import s3_server
from zorse_common.storage import Storage

pytestmark = pytest.mark.ray

BUCKET = "s3://zorse-models"


@pytest.fixture(scope="module", autouse=True)
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A local S3 server with the bucket."""
    with s3_server(tmp_path_factory.mktemp("s3"), BUCKET):
        yield


@pytest.fixture
def local(tmp_path: Path) -> Repository:
    """A repository on the disk with two versions of a model."""
    repository = Repository(str(tmp_path / "models"))
    for _ in range(2):
        add(repository, tmp_path)
    return repository


@pytest.fixture
def store(request: pytest.FixtureRequest) -> Repository:
    """A place of the test's own in the bucket."""
    return Repository(f"{BUCKET}/{re.sub(r'[^a-z0-9]+', '-', request.node.name.lower())}")


def _objects(repository: Repository, folder: str) -> dict[str, bytes]:
    storage = Storage(f"{repository.place}/{folder}")
    return {name: storage.read(name) for name in storage.tree().sizes}


def test_pushed_and_pulled_version_is_byte_for_byte_equal(local: Repository, store: Repository, tmp_path: Path) -> None:
    local.copy("digits", 2, store, alias="stable")
    here = tree(Path(local.place, "digits", "2"))
    assert _objects(store, "digits/2") == here
    assert (list(store.models().manifests), store.versions("digits"), store.resolve("digits@stable")) == (
        ["digits"],
        [2],
        ("digits", 2),
    )
    assert store.manifest("digits", 2) == local.manifest("digits", 2)
    back = Repository(str(tmp_path / "back"))
    store.copy("digits", 2, back, alias="stable")
    assert tree(Path(back.place, "digits")) == {
        **{f"2/{name}": content for name, content in here.items()},
        TRITON_FILE: TRITON.encode(),
        ALIASES_FILE: b'{\n  "stable": 2\n}\n',
    }


def test_published_version_is_not_overwritten(local: Repository, store: Repository, tmp_path: Path) -> None:
    local.copy("digits", 1, store)
    copied: list[str] = []
    local.copy("digits", 1, store, progress=lambda name, _: copied.append(name))
    assert copied == []
    before = _objects(store, "digits")
    other = Repository(str(tmp_path / "other"))
    add(other, tmp_path, licence="another")
    with pytest.raises(RepositoryError, match="1 is another artifact with the same number"):
        other.copy("digits", 1, store)
    assert _objects(store, "digits") == before


def test_damaged_file_is_not_published(local: Repository, store: Repository) -> None:
    path = Path(local.place, "digits", "1", "model.onnx.data")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RepositoryError, match=r"digits/1/model\.onnx\.data is damaged \(10999 bytes"):
        local.copy("digits", 1, store)
    assert list(store.models().manifests) == store.versions("digits") == []


def test_versions_are_added_on_the_store(store: Repository, tmp_path: Path) -> None:
    staged = stage(tmp_path / "staged")
    with ThreadPoolExecutor(4) as pool:
        added = list(pool.map(lambda _: store.add(staged, manifest(staged)), range(8)))
    assert sorted(added) == store.versions("digits")
    assert len(set(added)) == 8
    for version in added:
        content = store.manifest("digits", version).to_json().encode()
        assert _objects(store, f"digits/{version}") == {**FILES, MANIFEST_FILE: content}


def test_delete_of_the_last_version_removes_the_model(local: Repository, store: Repository) -> None:
    for version in (1, 2):
        local.copy("digits", version, store, alias="stable")
    with pytest.raises(RepositoryError, match=r"digits@2 of .* is stable"):
        store.delete("digits", 2)
    store.delete("digits", 1)
    assert store.versions("digits") == [2]
    store.remove_alias("digits", "stable")
    store.delete("digits", 2)
    assert list(store.models().manifests) == []
    assert _objects(store, "") == {}


@pytest.mark.parametrize(("name", "there"), [("golden.npz", set()), ("model.onnx.data", {"golden.npz", "model.onnx"})])
def test_killed_push_leaves_only_whole_versions_and_the_next_succeeds(
    store: Repository, tmp_path: Path, name: str, there: set[str]
) -> None:
    local = Repository(str(tmp_path / "models"))
    # Several parts of an upload: the kill comes between them.
    large = stage(tmp_path / "large", {**FILES, "model.onnx.data": bytes(20 * 2**20)})
    local.add(large, manifest(large))
    add(local, tmp_path)
    local.copy("digits", 2, store)
    command = [sys.executable, "-c", UPLOAD, local.place, store.place, name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"in the middle\n"
        assert {path for path in _objects(store, "digits/1") if not path.startswith(".")} == there
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    assert (list(store.models().manifests), store.versions("digits"), store.resolve("digits")) == (
        ["digits"],
        [2],
        ("digits", 2),
    )
    with pytest.raises(RepositoryError, match="has no digits@1"):
        store.copy("digits", 1, Repository(str(tmp_path / "back")))
    local.copy("digits", 1, store)
    assert store.versions("digits") == [1, 2]
    assert _objects(store, "digits/1") == tree(Path(local.place, "digits", "1"))


def test_leftovers_are_swept_after_a_day_and_nothing_else(local: Repository, store: Repository, tmp_path: Path) -> None:
    local.copy("digits", 2, store)
    foreign = Storage(f"{store.place}/digits")
    foreign.write("9/model.onnx", b"written by another program")
    command = [sys.executable, "-c", UPLOAD, local.place, store.place, "model.onnx"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"in the middle\n"
        child.send_signal(signal.SIGKILL)
    assert add(Repository(store.place, now=lambda: time.time() + UNFINISHED_AGE / 2), tmp_path) == 10
    assert _objects(store, "digits/1") != {}
    assert add(Repository(store.place, now=lambda: time.time() + UNFINISHED_AGE + 60), tmp_path) == 11
    assert {path.split("/")[0] for path in _objects(store, "digits")} == {"2", "9", "10", "11", TRITON_FILE}
    assert store.versions("digits") == [2, 10, 11]


def test_published_version_survives_its_mark_and_half_a_deletion_does_not(
    local: Repository, store: Repository, tmp_path: Path
) -> None:
    for version in (1, 2):
        local.copy("digits", version, store)
        Storage(f"{store.place}/digits").write(f"{version}/.unfinished-dead", b"killed before this was removed")
    Storage(f"{store.place}/digits/1").remove(MANIFEST_FILE)
    assert add(Repository(store.place, now=lambda: time.time() + UNFINISHED_AGE + 60), tmp_path) == 3
    assert store.versions("digits") == [2, 3]
    assert {path.split("/")[0] for path in _objects(store, "digits")} == {"2", "3", TRITON_FILE}


def test_missing_bucket_is_one_clear_line(local: Repository) -> None:
    nowhere = Repository("s3://no-such-bucket/models")
    with pytest.raises(RepositoryError, match="no-such-bucket") as error:
        local.copy("digits", 1, nowhere)
    assert "\n" not in str(error.value)
    with pytest.raises(RepositoryError, match="no-such-bucket"):
        nowhere.models()
