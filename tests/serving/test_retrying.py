"""When requests are repeated: as often as allowed, before the deadline, and not before the server wants."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import BadRequestError
from serving.retrying import GONE, Endpoints, Failure, RetryPolicy, failure_of, next_attempt

SECONDS = st.floats(0, 1000)
POLICIES = st.builds(RetryPolicy, st.integers(1, 100), SECONDS, SECONDS)
FAILURES = st.builds(Failure, st.booleans(), st.booleans(), SECONDS)


@given(POLICIES, st.integers(1, 200), FAILURES, SECONDS, SECONDS, st.booleans(), st.floats(0, 1, exclude_max=True))
def test_next_attempt_keeps_to_attempts_deadline_and_retry_after(
    policy: RetryPolicy, attempt: int, failure: Failure, now: float, deadline: float, other: bool, draw: float
) -> None:
    wait = next_attempt(policy, attempt, failure, now=now, deadline=deadline, has_other=other, draw=draw)
    if wait is None:
        longest = failure.retry_after + policy.max_seconds
        assert attempt >= policy.attempts or now + longest >= deadline
        return
    assert attempt < policy.attempts
    assert now + wait < deadline
    if other and failure.is_of_endpoint:
        assert wait == 0
    else:
        assert failure.retry_after <= wait <= failure.retry_after + policy.max_seconds


def test_next_attempt_waits_twice_as_long_each_time() -> None:
    policy = RetryPolicy(attempts=9, base_seconds=1, max_seconds=4)
    waits = [
        next_attempt(policy, attempt, GONE, now=0, deadline=math.inf, has_other=False, draw=0.5)
        for attempt in range(1, 10)
    ]
    assert waits == [0.5, 1, 2, 2, 2, 2, 2, 2, None]


@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 405, 406, 408, 413, 415, 422, 500, 501])
def test_failure_of_other_statuses_is_none(status: int) -> None:
    assert failure_of(status, "1", "application/json") is None


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_failure_is_repeated_where_the_server_names_a_time(status: int) -> None:
    assert failure_of(status, "7", "application/json") == Failure(is_of_endpoint=status != 429, retry_after=7)
    for text in (None, "", "x", "-1", "inf"):
        assert failure_of(status, text, "application/json") is None


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_failure_of_a_proxy_is_repeated(status: int) -> None:
    assert failure_of(status, None, "text/plain; charset=utf-8") == failure_of(status, None, "") == Failure()
    assert failure_of(404, None, "text/html") is None


def test_endpoints_take_turns_and_leave_out_those_that_failed_for_a_while() -> None:
    endpoints = Endpoints(3)
    assert [endpoints.choose(0) for _ in range(6)] == [0, 1, 2, 0, 1, 2]
    endpoints.eject(1, now=10)
    assert 1 not in {endpoints.choose(11) for _ in range(9)}
    assert {endpoints.choose(100) for _ in range(3)} == {0, 1, 2}
    endpoints.eject(1, now=200)
    endpoints.admit(1)
    assert {endpoints.choose(201) for _ in range(3)} == {0, 1, 2}
    for number in range(3):
        endpoints.eject(number, now=300 + number)
    assert endpoints.choose(303) == 0
    assert endpoints.choose(303, tried=[0]) == 1


@pytest.mark.parametrize("numbers", [(0, 1, 1), (101, 1, 1), (1, -1, 1), (1, 1, math.nan), (1, math.inf, 1)])
def test_policy_refuses_numbers_out_of_range(numbers: tuple[int, float, float]) -> None:
    with pytest.raises(BadRequestError):
        RetryPolicy(*numbers)
