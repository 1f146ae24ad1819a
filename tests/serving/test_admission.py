"""Admission: what is in progress is counted, and what does not fit is refused."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.admission import Admission
from serving.config import Capacity, Limits
from serving.errors import OverloadedError

SMALL = Capacity(requests=3, bytes=100, images=10, pixels=1000, seconds=5.0)


def test_requests_are_limited_until_they_end() -> None:
    admission = Admission(SMALL)
    with admission.request(), admission.request(), admission.request():
        with pytest.raises(OverloadedError, match="is busy with 3 requests and takes 3: try again in 1 s"):
            admission.check(0)
        with pytest.raises(OverloadedError):
            admission.request().__enter__()
    admission.check(0)
    assert admission.requests == 0


def test_bytes_are_limited_as_they_arrive() -> None:
    admission = Admission(SMALL)
    with admission.content() as first, admission.content() as second:
        first.receive(30)
        first.receive(30)
        with pytest.raises(OverloadedError, match="is busy with 60 bytes and takes 100"):
            admission.check(50)
        second.receive(40)
        with pytest.raises(OverloadedError, match="60 bytes"):
            second.receive(1)
        second.keep(1000)  # an answer is sent all the same
        assert admission.bytes == 1100
    assert admission.bytes == 0


def test_stated_bytes_take_no_room() -> None:
    admission = Admission(SMALL)
    admission.check(90)
    admission.check(90)
    assert admission.bytes == 0


@pytest.mark.parametrize(
    ("images", "pixels", "seconds", "unit"), [(9, 1, 0, "images"), (1, 900, 0, "pixels"), (1, 1, 4, "seconds")]
)
def test_work_is_limited_in_every_unit(images: int, pixels: int, seconds: float, unit: str) -> None:
    admission = Admission(SMALL)
    with admission.work(3, 200, 2.0):
        with pytest.raises(OverloadedError, match=unit):
            admission.work(images, pixels, seconds).__enter__()
        with admission.work(1, 1, 0.5):
            assert (admission.images, admission.pixels, admission.seconds) == (4, 201, 2.5)
    assert (admission.images, admission.pixels, admission.seconds) == (0, 0, 0.0)


def test_work_larger_than_the_limits_is_admitted_alone() -> None:
    with Admission(SMALL).work(100, 10**6, 60.0):
        pass
    Admission(SMALL).check(10**6)
    with Admission(SMALL).content() as content:
        content.receive(10**6)


def test_request_is_refused_before_its_body_while_too_many_seconds_are_in_progress() -> None:
    admission = Admission(SMALL)
    with admission.work(1, 1, 30.0), pytest.raises(OverloadedError) as caught:
        admission.check(0)
    assert caught.value.headers == {"Retry-After": "25"}


def test_retry_after_is_when_the_work_fits() -> None:
    admission = Admission(SMALL)
    with admission.work(1, 1, 4.5), pytest.raises(OverloadedError) as caught:
        admission.work(1, 1, 3.2).__enter__()
    assert caught.value.headers == {"Retry-After": "3"}  # 4.5 + 3.2 - 5 = 2.7


def test_work_that_cannot_end_before_its_deadline_is_refused() -> None:
    admission = Admission(SMALL)
    with admission.work(1, 1, 2.0):
        with pytest.raises(OverloadedError):
            admission.work(1, 1, 1.0, remaining=2.5).__enter__()
        with admission.work(1, 1, 1.0, remaining=3.5):
            pass


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 500), st.floats(0, 3)), max_size=20))
def test_sums_return_to_zero_and_never_pass_the_limits(requests: list[tuple[int, int, float]]) -> None:
    admission = Admission(SMALL)
    with ExitStack() as stack:
        for images, pixels, seconds in requests:
            try:
                stack.enter_context(admission.work(images, pixels, seconds))
            except OverloadedError:
                continue
            assert admission.images <= SMALL.images
            assert admission.pixels <= SMALL.pixels
            assert admission.seconds <= SMALL.seconds + 1e-9
    assert (admission.images, admission.pixels, admission.seconds) == (0, 0, 0.0)


def test_security_page_states_the_limits() -> None:
    page = (Path(__file__).parents[2] / "docs" / "security.md").read_text(encoding="utf-8")
    most, limits, mega = Capacity(), Limits(), 2**20
    work = f"{most.requests} requests, {most.bytes // mega} MiB of bodies and answers, {most.images} images"
    assert f"{work}, {most.pixels // mega} megapixels, {most.seconds:g} s of the model" in page
    assert f"| {limits.bytes // mega} MiB, compressed or not" in page
    assert f"| {limits.images}, of {limits.pixels // mega} megapixels together" in page
