"""Batching: merging, splitting, and which jobs the queue lets run together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.batching import BatchQueue, Key, capacity, chunks, group_key, merge, rows, split
from serving.config import Batching
from tests.serving.gated_model import ones


def test_merge_and_split_are_inverse() -> None:
    parts = [ones(n, n) for n in (1, 3, 2)]
    for part, back in zip(parts, split(merge(parts), [1, 3, 2]), strict=True):
        np.testing.assert_array_equal(part["x"], back["x"])


def test_chunks_cover_every_row_once() -> None:
    parts = chunks({"x": np.arange(7)[:, None]}, 3)
    assert [rows(part) for part in parts] == [3, 3, 1]
    np.testing.assert_array_equal(merge(parts)["x"][:, 0], np.arange(7))


def test_group_key_depends_on_shape_and_dtype_and_not_on_rows() -> None:
    assert group_key(ones(1, 0)) == group_key(ones(5, 9))
    assert group_key(ones(1, 0)) != group_key(ones(1, 0, width=3))
    assert group_key(ones(1, 0)) != group_key({"x": np.zeros((1, 2), np.float32)})


@pytest.mark.parametrize(
    ("shape", "most"),
    [((8,), 16), ((), 16), ((4, 4, 3), 16), ((10, 10, 3), 10), ((10, 30, 3), 3), ((32, 32, 3), 1), ((999, 999, 3), 1)],
)
def test_capacity_limits_the_pixels_of_images_and_not_of_latents(shape: tuple[int, ...], most: int) -> None:
    assert capacity(group_key({"x": np.zeros((2, *shape))}), Batching(max_size=16, max_pixels=1000)) == most


@dataclass(frozen=True)
class Job:
    number: int
    group: int
    rows: int
    deadline: float
    is_live: bool


jobs_lists = st.lists(
    st.builds(
        Job,
        number=st.just(0),
        group=st.integers(0, 3),
        rows=st.integers(1, 6),
        deadline=st.integers(0, 5).map(float),
        is_live=st.booleans(),
    ),
    max_size=30,
).map(lambda jobs: [Job(number, job.group, job.rows, job.deadline, job.is_live) for number, job in enumerate(jobs)])
CAPACITY = 5


def key_of(group: int) -> Key:
    return (("x", "<f4", (group,)),)


def filled(jobs: list[Job]) -> BatchQueue[Job]:
    queue: BatchQueue[Job] = BatchQueue()
    for job in jobs:
        queue.push(job, key_of(job.group), job.rows, job.deadline)
    return queue


def batches_of(queue: BatchQueue[Job]) -> list[list[Job]]:
    batches = []
    while batch := queue.pop_batch(lambda key: CAPACITY, lambda job: job.is_live):
        batches.append(batch)
    return batches


@given(jobs_lists)
def test_queue_runs_every_live_job_once_and_no_other(jobs: list[Job]) -> None:
    queue = filled(jobs)
    ran = [job for batch in batches_of(queue) for job in batch]
    assert sorted(ran, key=lambda job: job.number) == [job for job in jobs if job.is_live]
    assert not queue


@given(jobs_lists)
def test_queue_batches_are_of_one_group_and_fit(jobs: list[Job]) -> None:
    for batch in batches_of(filled(jobs)):
        assert len({job.group for job in batch}) == 1
        assert len(batch) == 1 or sum(job.rows for job in batch) <= CAPACITY


@given(jobs_lists)
def test_queue_serves_the_earliest_deadline_first(jobs: list[Job]) -> None:
    waiting = {job.number: job for job in jobs if job.is_live}
    for batch in batches_of(filled(jobs)):
        order = [(job.deadline, job.number) for job in batch]
        assert order == sorted(order)
        # The first job is the most urgent of all, and no job of its group is overtaken by a later one.
        assert order[0] == min((job.deadline, job.number) for job in waiting.values())
        for job in batch:
            del waiting[job.number]
        left = [(job.deadline, job.number) for job in waiting.values() if job.group == batch[0].group]
        assert not left or order[-1] < min(left)


@given(jobs_lists)
def test_queue_batches_are_as_large_as_they_can_be(jobs: list[Job]) -> None:
    waiting = {job.number: job for job in jobs if job.is_live}
    for batch in batches_of(filled(jobs)):
        for job in batch:
            del waiting[job.number]
        group = [job for job in waiting.values() if job.group == batch[0].group]
        if group:
            following = min(group, key=lambda job: (job.deadline, job.number))
            assert sum(job.rows for job in (*batch, following)) > CAPACITY


def test_queue_starves_no_group_under_a_flood_of_another() -> None:
    queue: BatchQueue[str] = BatchQueue()
    queue.push("rare", key_of(1), 1, deadline=10.0)
    for now in range(20):
        queue.push("flood", key_of(0), 1, deadline=now + 5.0)
        queue.push("flood", key_of(0), 1, deadline=now + 5.0)
        if queue.pop_batch(lambda key: 1) == ["rare"]:
            assert now <= 10
            return
    pytest.fail("the rare job never ran")


@given(jobs_lists, st.lists(st.integers(0, 29), max_size=10))
def test_queue_forgets_removed_jobs(jobs: list[Job], removed: list[int]) -> None:
    queue = filled(jobs)
    for number in removed:
        for job in jobs:
            if job.number == number:
                queue.remove(job, key_of(job.group))
    stays = [job for job in jobs if job.number not in removed]
    assert queue.rows == sum(job.rows for job in stays)
    ran = [job for batch in batches_of(queue) for job in batch]
    assert sorted(ran, key=lambda job: job.number) == [job for job in stays if job.is_live]
    assert queue.rows == 0
