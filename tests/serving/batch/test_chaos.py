"""A killed batch job, repeated until it is done, has the same bytes as an undisturbed one."""

from __future__ import annotations

import signal
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from serving.batch import job
from serving.batch.formats.base import FORMATS
from serving.batch.job import JobOptions
from serving.local_model import LocalModel
from tests.s3 import s3_server
from tests.serving.batch.chaos import STOPPED, Schedule, Victim, contents, run_together, run_until_done
from tests.serving.batch.jobs import images_of, make_all, plan_of_command
from zorse_common.image_writer import encode

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]

BUCKET = "s3://zorse-batch"
COUNT, SHARD = 1200, {"generate": 30, "translate": 6}
SOAK_SCHEDULES = 32


@pytest.fixture(scope="module")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with s3_server(tmp_path_factory.mktemp("s3"), BUCKET):
        yield


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zip of images of several sizes, some of which are damaged."""
    path, draws = tmp_path_factory.mktemp("photos") / "photos.zip", np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(200):
            pixels = draws.integers(0, 256, (20 + 4 * (number % 4), 32, 3), dtype=np.uint8)
            content = encode(pixels)
            archive.writestr(f"zoo/{number:03d}.png", content if number % 17 else content[:99])
    return path


def _command(verb: str, name: str, repository: Path, photos: Path) -> list[str]:
    if verb == "generate":
        words = ["generate", str(repository / "digits"), "--count", str(COUNT), "--seed", "3"]
    else:
        words = ["translate", str(repository / "invert"), "--input", str(photos), "--max-errors", "20"]
    return [*words, "--format", name, "--shard-size", str(SHARD[verb]), "--device", "cpu"]


def _undisturbed(verb: str, name: str, repository: Path, photos: Path, folder: Path) -> dict[str, bytes]:
    """Return the files of the same job in one process, without Ray."""
    options = JobOptions(device="cpu", format=name, shard_size=SHARD[verb])
    if not folder.exists():
        if verb == "generate":
            keys = {"seed": 3, "first": 0, "truncation": 1.0}
            make_all(repository / "digits", plan_of_command(repository / "digits", keys, COUNT, options), folder)
            job.generate(str(repository / "digits"), str(folder), COUNT, options, [].append, **keys)
        else:
            listing = job.list_inputs(str(photos))
            plan = plan_of_command(repository / "invert", {}, len(listing.entries), options)
            make_all(repository / "invert", plan, folder, str(photos))
            job.translate(str(repository / "invert"), str(photos), str(folder), options, [].append)
    return contents(str(folder))


def _assert_equal(actual: dict[str, bytes], expected: dict[str, bytes], schedule: Schedule) -> None:
    assert actual.keys() == expected.keys(), schedule
    assert [name for name in expected if actual[name] != expected[name]] == [], schedule


def _assert_single_answers(shards: Path, repository: Path, photos: Path) -> None:
    """Compare each translated file with the answer to a request for it alone: nothing of a batch job is used."""
    model, files = LocalModel.load(repository / "invert"), images_of(shards)
    with zipfile.ZipFile(photos) as archive:
        for name, content in files.items():
            source = archive.read(name.partition("/")[2])
            assert content == model.fetch("translate", source).content, name
    assert len(files) == 200 - len(range(0, 200, 17))


@pytest.mark.parametrize(
    ("verb", "name", "kills"),
    [
        ("generate", "webdataset", (("ctrl-c", 1), ("actor", 8))),
        ("translate", "images", (("driver", 9),)),
    ],
)
def test_killed_job_has_the_bytes_of_an_undisturbed_one(
    verb: str, name: str, kills: tuple[tuple[Victim, int], ...], repository: Path, photos: Path, tmp_path: Path
) -> None:
    command, output = _command(verb, name, repository, photos), str(tmp_path / "out")
    codes = run_until_done([*command, "--output", output], output, Schedule(kills), tmp_path / "log")
    _assert_equal(contents(output), _undisturbed(verb, name, repository, photos, tmp_path / "alone"), Schedule(kills))
    if name == "images":
        _assert_single_answers(tmp_path / "out/shards", repository, photos)
    first, last = codes
    assert first == STOPPED if kills[0][0] == "ctrl-c" else first != 0
    assert last == 0


def test_second_job_on_a_disk_is_refused(repository: Path, photos: Path, tmp_path: Path) -> None:
    command, output = _command("generate", "webdataset", repository, photos), str(tmp_path / "out")
    done = run_together([[*command, "--output", output]] * 2, tmp_path)
    assert sorted(code for code, _ in done) == [0, 1]
    assert all("another job writes to" in log for code, log in done if code)
    expected = _undisturbed("generate", "webdataset", repository, photos, tmp_path / "alone")
    _assert_equal(contents(output), expected, Schedule(()))


def test_job_on_an_object_store_that_is_killed_leaves_an_equal_one_to_finish_and_others_are_refused(
    repository: Path, photos: Path, tmp_path: Path, object_store: None
) -> None:
    command, output = _command("generate", "parquet", repository, photos), f"{BUCKET}/together"
    done = run_together([[*command, "--output", output]] * 2, tmp_path, first_killed_at=(output, 15))
    assert [code for code, _ in done] == [-signal.SIGKILL, 0], done
    expected = _undisturbed("generate", "parquet", repository, photos, tmp_path / "alone")
    _assert_equal(contents(output), expected, Schedule(()))
    ((code, log),) = run_together([[*command, "--output", output, "--seed", "4"]], tmp_path)
    assert code == 1
    assert "belongs to another job (seed 4 instead of 3)" in log


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_jobs_survive_random_kills(
    repository: Path, photos: Path, tmp_path: Path, object_store: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each verb and format is tried on a disk and on an object store."""
    names = FORMATS.names()
    for seed in range(SOAK_SCHEDULES):
        verb, name = ("generate", "translate")[seed % 2], names[seed // 2 % len(names)]
        schedule = Schedule.seeded(seed, 50)
        output = f"{BUCKET}/soak{seed}" if seed // (2 * len(names)) % 2 else str(tmp_path / f"out{seed}")
        command = [*_command(verb, name, repository, photos), "--output", output]
        codes = run_until_done(command, output, schedule, tmp_path / "log")
        expected = _undisturbed(verb, name, repository, photos, tmp_path / f"{verb}-{name}")
        _assert_equal(contents(output), expected, schedule)
        with capsys.disabled():
            print(seed, verb, name, output.partition(":")[0], schedule.kills, codes, flush=True)  # noqa: T201
