"""The summary of a batch job, and its commit."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.artifacts import load
from serving.batch.formats.base import FORMATS
from serving.batch.output import Output
from serving.batch.summary import commit
from serving.errors import BatchError
from tests.serving.batch.jobs import make_all, plan_of
from zorse_common.storage import Storage


@pytest.mark.parametrize("name", sorted(FORMATS.names()))
def test_damaged_shard_is_not_committed_and_the_error_says_what_repairs_it(
    name: str, repository: Path, tmp_path: Path
) -> None:
    plan = plan_of(load(repository / "digits").manifest, format=name)
    records = [outcome.record for outcome in make_all(repository / "digits", plan, tmp_path)]
    for path in (tmp_path / "shards").rglob("*"):
        if path.is_file():
            path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(BatchError, match=r"a shard cannot be read \(.*: try again; --verify makes a damaged one again"):
        commit(Output(Storage(tmp_path)), plan, records, {})
    assert not (tmp_path / "manifest.json").exists()
