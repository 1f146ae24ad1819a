"""The profile of an engine: estimates are pure, and the measurement has a clock of its own."""

from __future__ import annotations

import pytest

from serving.profile import GOOD_THROUGHPUT, INLINE_SECONDS, Profile, doublings, fit, measure


class Machine:
    """A model that takes `overhead + rows × per_row` seconds on a clock that only its runs move."""

    def __init__(self, overhead: float, per_row: float) -> None:
        self.overhead, self.per_row = overhead, per_row
        self.now = 0.0
        self.runs: list[int] = []

    def run(self, rows: int) -> None:
        self.runs.append(rows)
        self.now += self.overhead + rows * self.per_row

    def clock(self) -> float:
        return self.now

    def profile(self, heaviest: tuple[int, int] = (16, 0), pixels: int = 0) -> Profile:
        return fit(measure(self.run, doublings(16), self.clock), heaviest, pixels)


def test_profile_predicts_the_seconds_of_any_number_of_rows() -> None:
    profile = Machine(overhead=1e-4, per_row=1e-5).profile()
    for rows in (1, 2, 3, 11, 16):
        assert profile.seconds(rows) == pytest.approx(1e-4 + rows * 1e-5)
    assert profile.seconds(40) == pytest.approx(profile.seconds(16) * 40 / 16)


def test_profile_calls_no_large_run_short_because_of_noise() -> None:
    profile = fit({1: 0.0004, 2: 0.0006, 4: 0.0008, 8: 0.0012, 16: 0.0011}, (1, 2**20), 4096)
    assert not profile.inline
    assert profile.cost(1, 2**24) > 0.1


def test_profile_is_linear_in_the_pixels() -> None:
    profile = Machine(overhead=1e-3, per_row=1e-2).profile(pixels=64 * 64)
    assert profile.seconds(1, 64 * 64) == pytest.approx(0.011)
    assert profile.seconds(1, 128 * 128) == pytest.approx(0.041)
    assert profile.seconds(3, 32 * 64) == pytest.approx(0.016)
    assert profile.seconds(1, 1) >= 0


def test_profile_of_one_measurement_is_proportional() -> None:
    profile = fit({4: 0.2}, (4, 0))
    assert (profile.seconds(4), profile.seconds(1), profile.max_useful_rows) == (0.2, pytest.approx(0.05), 4)


@pytest.mark.parametrize(
    ("overhead", "per_row", "useful"), [(0.0, 0.001, 1), (0.001, 0.0001, 16), (0.001, 0.001, 8), (0.0001, 0.001, 1)]
)
def test_profile_says_how_many_rows_pay(overhead: float, per_row: float, useful: int) -> None:
    profile = Machine(overhead, per_row).profile()
    assert profile.max_useful_rows == useful
    throughput = {rows: rows / seconds for rows, seconds in profile.timings}
    assert throughput[useful] >= GOOD_THROUGHPUT * max(throughput.values())


def test_profile_is_inline_if_the_heaviest_run_is_short() -> None:
    short, long = INLINE_SECONDS / 20, INLINE_SECONDS / 10
    assert Machine(0, short).profile().inline
    assert not Machine(0, long).profile().inline
    assert Machine(0, long).profile(heaviest=(1, 0)).inline
    assert not Machine(0, short).profile(heaviest=(1, 640 * 640), pixels=64 * 64).inline


def test_fit_takes_no_run_of_more_rows_as_faster() -> None:
    assert fit({4: 2.0, 1: 1.5, 2: 1.0}, (4, 0)).timings == ((1, 1.5), (2, 1.5), (4, 2.0))


def test_measure_takes_the_shortest_of_warm_runs() -> None:
    durations = iter([9.0, 3.0, 1.0, 2.0, 3.0, 2.0])
    now = 0.0

    def run(_: int) -> None:
        nonlocal now
        now += next(durations)

    assert measure(run, [1], lambda: now, budget=100) == {1: 1.0}


def test_measure_compares_two_numbers_of_rows_of_a_slow_model() -> None:
    assert Machine(0.0, 0.06).profile().timings == ((1, pytest.approx(0.06)), (2, pytest.approx(0.12)))


@pytest.mark.parametrize("per_row", [1e-6, 1e-3, 0.02, 0.05, 0.3])
def test_measure_stays_within_its_budget(per_row: float) -> None:
    machine = Machine(0.0, per_row)
    seconds = measure(machine.run, doublings(16), machine.clock, budget=0.8)
    assert 1 in seconds
    assert machine.now <= max(0.8, 2 * per_row) + 1e-9


def test_measure_runs_one_row_even_beyond_its_budget() -> None:
    machine = Machine(0.0, 5.0)
    assert measure(machine.run, doublings(16), machine.clock) == {1: 5.0}
    assert machine.runs == [1, 1]


@pytest.mark.parametrize(("limit", "expected"), [(1, [1]), (2, [1, 2]), (12, [1, 2, 4, 8, 12]), (16, [1, 2, 4, 8, 16])])
def test_doublings_end_with_the_limit(limit: int, expected: list[int]) -> None:
    assert doublings(limit) == expected
