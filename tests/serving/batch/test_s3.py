"""Inputs and outputs of batch jobs on an object store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import numpy as np
import pytest

from serving.artifacts import load
from serving.batch.formats.base import FORMATS
from serving.batch.inputs import list_inputs, read_entry
from serving.batch.output import BadItem, Output
from serving.batch.results import InProcess
from serving.batch.runner import Runner
from serving.batch.shard import ShardMaker, Task
from serving.batch.stages import Input
from serving.batch.status import job_status
from serving.errors import BatchError
from tests.s3 import s3_server
from tests.serving.batch.chaos import contents
from tests.serving.batch.jobs import make_all, plan_of
from tests.serving.tiny import conditional_manifest, generator_graph, write
from zorse_common.errors import FetchError
from zorse_common.image_writer import encode
from zorse_common.storage import Storage

pytestmark = pytest.mark.ray  # the marker of tests with a network

BUCKET = "s3://zorse-batch-objects"


@pytest.fixture(scope="module", autouse=True)
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with s3_server(tmp_path_factory.mktemp("s3"), BUCKET):
        yield


@pytest.mark.parametrize("name", FORMATS.names())
def test_output_on_an_object_store_is_that_on_a_disk(name: str, repository: Path, tmp_path: Path) -> None:
    plan = plan_of(load(repository / "digits").manifest, format=name)
    make_all(repository / "digits", plan, tmp_path / "disk")
    uri = f"{BUCKET}/out-{name}"
    runner = Runner.load(str(repository / "digits"), "cpu", plan.batch)
    Output(Storage(uri)).claim(plan)
    for is_new in (True, False):
        maker = ShardMaker(InProcess([runner], plan), plan, Output(Storage(uri)), verify=True)
        outcomes = [maker.make(Task(shard)) for shard in range(plan.shards)]
        maker.close()
        assert [outcome.is_new for outcome in outcomes] == [is_new] * 3
    assert contents(uri) == contents(str(tmp_path / "disk"))
    assert (job_status(uri).state, job_status(uri).shards_done) == ("unfinished", 3)


@pytest.mark.parametrize("name", FORMATS.names())
def test_job_on_an_object_store_is_an_input(name: str, tmp_path: Path) -> None:
    model = write(tmp_path / "repository", generator_graph(classes=3), conditional_manifest())
    uri, out = f"{BUCKET}/in-{name}", str(tmp_path / "out")
    make_all(model, plan_of(load(model).manifest, format=name), Path(out))
    for path, content in contents(out).items():
        Storage(uri).write(path, content)
    remote, local = list_inputs(uri), list_inputs(out)
    assert [entry.name for entry in remote.entries] == [entry.name for entry in local.entries]
    assert remote.columns == local.columns
    assert [read_entry(entry) for entry in remote.entries] == [read_entry(entry) for entry in local.entries]
    assert ("label" in read_entry(remote.entries[0]).values) == (name != "images")


def test_claims_of_different_jobs_at_once_are_never_both_successful(repository: Path) -> None:
    plan = plan_of(load(repository / "digits").manifest)
    plans = [plan.model_copy(update={"count": 1 + number // 2}) for number in range(16)]

    def claim(number: int) -> int | None:
        try:
            return Output(Storage(f"{BUCKET}/claims{number % 2}")).claim(plans[number]).count
        except BatchError:
            return None

    with ThreadPoolExecutor(16) as pool:
        claimed = list(pool.map(claim, range(16)))
    for part in (0, 1):
        assert len(set(claimed[part::2]) - {None}) <= 1
        files = Storage(f"{BUCKET}/claims{part}").files()
        assert len(files) == len(set(claimed[part::2]) - {None})


def test_failure_of_the_store_is_no_bad_input() -> None:
    # An object store refuses to read an object that lies in its archive.
    bucket = BUCKET.partition("://")[2]
    boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"]).put_object(
        Bucket=bucket, Key="archived/a.png", Body=b"content", StorageClass="GLACIER"
    )
    (entry,) = list_inputs(f"{BUCKET}/archived").entries
    with pytest.raises(FetchError, match=r"archived: a\.png cannot be fetched"):
        read_entry(entry)


def test_input_that_is_gone_is_a_bad_input(repository: Path) -> None:
    Storage(f"{BUCKET}/photos").write("a.png", encode(np.zeros((20, 20, 3), np.uint8)))
    (entry,) = list_inputs(f"{BUCKET}/photos").entries
    Storage(f"{BUCKET}/photos").remove("a.png")
    plan = plan_of(load(repository / "invert").manifest, count=1)
    runner, output = Runner.load(str(repository / "invert"), "cpu", 4), Output(Storage(f"{BUCKET}/gone"))
    maker = ShardMaker(InProcess([runner], plan), plan, output)
    (error,) = maker.make(Task(0, [Input(0, "a", entry)])).record.errors
    maker.close()
    assert error == BadItem(0, "a.png", "the file is gone: it was there when the inputs were listed")
