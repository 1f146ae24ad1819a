"""The output of a batch job: its plan, its lock, its records, and files that appear whole or not at all."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serving.batch.output import BadItem, Output, Record, files_digest
from serving.batch.plan import Plan
from serving.batch.summary import manifest_json
from serving.errors import BatchError
from tests.serving.batch.jobs import files_of, plan_of
from tests.serving.tiny import generator_manifest
from zorse_common.storage import Storage

PLAN = plan_of(generator_manifest())


class _FailingStore(Storage):
    """An object store that fails in the middle of every upload; what was sent until then becomes visible."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.local = None
        self._folder = folder

    def write(self, name: str, content: bytes) -> None:
        (self._folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self._folder / name).write_bytes(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    def read(self, name: str, most: int | None = None) -> bytes:
        return (self._folder / name).read_bytes()


def _output(folder: Path) -> Output:
    return Output(Storage(folder))


def _claim_name(plan: Plan) -> str:
    return f"claim-{plan.digest()[:16]}-{uuid.uuid4().hex}.json"


class _PausingOutput(Output):
    """An output that calls `before` when its claim is written, and when its plan is about to be written."""

    def __init__(self, folder: Path, **before: Callable[[], object]) -> None:
        super().__init__(Storage(folder))
        self._before = before

    def publish(self, name: str, content: bytes, *, is_flushed: bool = True) -> None:
        kind = name.partition("-")[0]
        if kind == "plan" and kind in self._before:
            self._before.pop(kind)()
        super().publish(name, content, is_flushed=is_flushed)
        if kind == "claim" and kind in self._before:
            self._before.pop(kind)()


def test_claim_of_an_equal_job_that_withdraws_leaves_the_first_one(tmp_path: Path) -> None:
    # The first job lists the folder. A different one claims it, and an equal one withdraws because of that. The
    # different one must still see the first one's claim.
    other, refused = PLAN.model_copy(update={"count": 21}), []

    def attempt(output: Output, plan: Plan) -> None:
        try:
            output.claim(plan)
        except BatchError:
            refused.append(plan.count)

    different = _PausingOutput(tmp_path, claim=lambda: attempt(_output(tmp_path), PLAN))
    first = _PausingOutput(tmp_path, plan=lambda: attempt(different, other))
    assert first.claim(PLAN) == PLAN
    assert refused == [20, 21]
    assert list(files_of(tmp_path)) == [f"plan-{PLAN.digest()[:16]}.json"]


def test_claim_keeps_the_plan_that_was_first(tmp_path: Path) -> None:
    output = _output(tmp_path / "out")
    assert output.plan() is None
    assert output.claim(PLAN) == PLAN
    later = PLAN.model_copy(update={"environment": {"numpy": "3"}})
    assert output.claim(later) == PLAN
    assert output.plan() == PLAN


def test_claim_by_another_plan_is_refused_with_the_differences(tmp_path: Path) -> None:
    output = _output(tmp_path / "out")
    output.claim(PLAN)
    before = files_of(tmp_path)
    with pytest.raises(BatchError, match=r"belongs to another job \(count 21 instead of 20\)"):
        output.claim(PLAN.model_copy(update={"count": 21}))
    assert files_of(tmp_path) == before


def test_claim_of_a_killed_job_blocks_others_until_there_is_a_plan(tmp_path: Path) -> None:
    output, other = _output(tmp_path / "out"), PLAN.model_copy(update={"count": 21})
    output.publish(_claim_name(PLAN), PLAN.to_json().encode())
    with pytest.raises(BatchError, match=r"another job \(count 21 instead of 20\)"):
        output.claim(other)
    assert output.claim(PLAN) == PLAN
    output.publish(_claim_name(other), other.to_json().encode())
    assert output.claim(PLAN) == PLAN
    output.sweep()
    assert list(files_of(tmp_path / "out")) == [f"plan-{PLAN.digest()[:16]}.json"]


@pytest.mark.parametrize("content", ['{"name": "web app"}', '{"images": 3, "errors": 0}', "[]", "torn {"])
def test_claim_beside_a_manifest_of_something_else_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(BatchError, match=r"manifest.json is not of this batch job: choose another output"):
        _output(tmp_path).claim(PLAN)
    assert list(files_of(tmp_path)) == ["manifest.json"]


@pytest.mark.parametrize(
    "name", ["shards/000000.tar", "shards/a/b.png", "records/0.json", "report.json", ".temporary/x"]
)
def test_claim_beside_files_of_something_else_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
    (tmp_path / name).write_text("x")
    with pytest.raises(BatchError, match=rf"{name.partition('/')[0]} is not of this batch job: choose another output"):
        _output(tmp_path).claim(PLAN)
    assert list(files_of(tmp_path)) == [name]


def test_manifest_of_another_plan_or_without_totals_is_refused_and_a_torn_one_is_none(tmp_path: Path) -> None:
    output = _output(tmp_path)
    output.claim(PLAN)
    assert output.manifest(PLAN) is None
    output.publish("manifest.json", manifest_json(PLAN, [])[:-9].encode())
    assert output.manifest(PLAN) is None
    for content in (manifest_json(PLAN.model_copy(update={"count": 21}), []), f'{{"plan": "{PLAN.digest()}"}}'):
        output.publish("manifest.json", content.encode())
        with pytest.raises(BatchError, match=r"manifest.json is not of this batch job"):
            output.manifest(PLAN)


def test_lock_refuses_a_second_job_until_the_first_has_ended(tmp_path: Path) -> None:
    first, second = _output(tmp_path / "out"), _output(tmp_path / "out")
    with first.locked(), pytest.raises(BatchError, match="another job writes to"), second.locked():
        pytest.fail("two jobs have the lock")
    with second.locked():
        pass


def test_status_that_asks_for_the_lock_refuses_no_job(tmp_path: Path) -> None:
    output, ended = _output(tmp_path), threading.Event()

    def ask() -> None:
        while not ended.is_set():
            _output(tmp_path).is_locked()

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        try:
            for _ in range(300):
                with output.locked():
                    assert _output(tmp_path).is_locked()
        finally:
            ended.set()
        asking.result()
    assert not output.is_locked()


def test_record_is_found_after_its_shard_is_published(tmp_path: Path) -> None:
    output = _output(tmp_path / "out")
    files = {"000002.tar": b"content"}
    record = Record(2, PLAN.digest(), 1, 1, 7, files_digest(files), (BadItem(3, "a.jpg", "damaged"),))
    assert output.record(2, PLAN.digest()) is None
    output.publish_shard(files, record)
    assert output.record(2, PLAN.digest()) == record
    assert output.recorded() == [2]
    assert output.records(PLAN) == {2: record}
    assert output.is_whole(record)
    assert sorted(files_of(tmp_path / "out")) == ["records/000002.json", "shards/000002.tar"]


def test_record_of_another_plan_or_torn_is_none(tmp_path: Path) -> None:
    output = _output(tmp_path / "out")
    output.publish_shard({"000000.tar": b""}, Record(0, "other", 0, 1, 0, "", ()))
    assert output.record(0, PLAN.digest()) is None
    output.publish("records/000001.json", Record(1, PLAN.digest(), 0, 1, 0, "", ()).to_json().encode()[:-9])
    assert output.record(1, PLAN.digest()) is None
    output.publish("records/000002.json", b"5")
    assert output.record(2, PLAN.digest()) is None


@pytest.mark.parametrize("files", [{"000000.tar": b"content"}, {"000000/a.png": b"a", "000000/b/c.png": b"c"}])
def test_shard_whose_files_are_gone_or_cut_off_is_lost(files: dict[str, bytes], tmp_path: Path) -> None:
    output = _output(tmp_path)
    nbytes = sum(map(len, files.values()))
    record = Record(0, PLAN.digest(), 2, len(files), nbytes, files_digest(files), ())
    output.publish_shard(files, record)
    path = tmp_path / "shards" / next(iter(files))
    assert output.lost([record]) == []
    path.write_bytes(path.read_bytes()[:-1])
    assert output.lost([record]) == [0]
    path.unlink()
    assert output.lost([record]) == [0]


def test_shard_of_several_files_is_damaged_by_each_change(tmp_path: Path) -> None:
    output = _output(tmp_path / "out")
    files = {"000000/a.png": b"a", "000000/b/c.png": b"c"}
    record = Record(0, PLAN.digest(), 2, 2, 2, files_digest(files), ())
    output.publish_shard(files, record)
    assert output.is_whole(record)
    (tmp_path / "out/shards/000000/more.png").write_bytes(b"")
    assert not output.is_whole(record)


@pytest.mark.parametrize("files", [{"000000.tar": b"content"}, {}])
def test_failed_upload_leaves_no_record(files: dict[str, bytes], tmp_path: Path) -> None:
    output = Output(_FailingStore(tmp_path))
    with pytest.raises(OSError, match="No space"):
        output.publish_shard(files, Record(0, PLAN.digest(), 1, 1, 7, "", ()))
    assert output.record(0, PLAN.digest()) is None


def test_failed_write_to_a_disk_leaves_nothing(tmp_path: Path) -> None:
    output = _output(tmp_path / "out")
    (tmp_path / "out/shards/000000.tar/in-the-way").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        output.publish("shards/000000.tar", b"content")
    output.sweep()
    assert files_of(tmp_path / "out") == {}


def test_sweep_removes_the_files_of_killed_processes(tmp_path: Path) -> None:
    output = _output(tmp_path / "out")
    output.publish("shards/a", b"")
    (tmp_path / "out/.temporary/left").write_bytes(b"half")
    output.sweep()
    output.sweep()
    assert sorted(files_of(tmp_path / "out")) == ["shards/a"]
