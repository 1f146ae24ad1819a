"""How many replicas a model needs: the rule, the policy over time, and the options by which Ray Serve follows it."""

from __future__ import annotations

import math
import pickle
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from ray.serve.config import AutoscalingConfig

from serving.builder import model_options
from serving.config import Replicas
from serving.scaling import BUSY, BUSY_SHARE, ONGOING, ONGOING_BATCHES, Load, OngoingWork, replicas_for, with_need

KEEP = 30.0


@pytest.mark.parametrize(
    ("loads", "count"),
    [
        ([], 0),
        ([Load(0, 0)], 0),
        # A request now and then keeps a replica.
        ([Load(1e-6, 0)], 1),
        ([Load(BUSY_SHARE, ONGOING_BATCHES)], 1),
        # A fast model that uses its event loop up: what waits in sockets cannot be counted.
        ([Load(1, 0.1)], 2),
        # A slow model with eight clients.
        ([Load(1, 8)], 4),
        ([Load(1, 2)] * 4, 6),
        # Two replicas without a queue that one could not replace, and two that it could.
        ([Load(0.45, 0.5)] * 2, 2),
        ([Load(0.3, 0.3)] * 2, 1),
        ([Load(0.7, 0), Load(0.7, 0), Load(0.7, 0)], 3),
    ],
)
def test_replicas_follow_what_is_busy_and_what_waits(loads: list[Load], count: int) -> None:
    assert replicas_for(loads) == count


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1000)), max_size=20))
def test_replicas_are_enough_for_both_targets_and_no_more_than_both_together(pairs: list[tuple[float, float]]) -> None:
    count = replicas_for([Load(*pair) for pair in pairs])
    busy, ongoing = (sum(column) for column in zip(*pairs, strict=True)) if pairs else (0.0, 0.0)
    assert count >= max(busy / BUSY_SHARE, ongoing / ONGOING_BATCHES) - 1e-6
    assert count <= math.ceil(busy / BUSY_SHARE + ongoing / ONGOING_BATCHES + 1e-6)


@given(st.lists(st.tuples(st.floats(0.01, 20), st.integers(0, 9)), min_size=1, max_size=60))
def test_needs_keep_the_greatest_of_the_window(steps: list[tuple[float, int]]) -> None:
    needs, now, all_needs = (), 0.0, []
    for pause, count in steps:
        now += pause
        all_needs.append((now, count))
        needs = with_need(needs, now, count, KEEP)
        assert needs[0][1] == max(number for time, number in all_needs if now - time < KEEP or time == now)
        assert len(needs) <= 10


@dataclass
class Controller:
    """Ray's controller as the policy sees it. It does what the policy says at once, but for the limits of a step."""

    lowest: int = 1
    highest: int = 8
    target: int = 1
    now: float = 0.0
    state: dict[str, Any] = field(default_factory=dict)
    policy: OngoingWork = field(default_factory=lambda: OngoingWork(KEEP))

    def step(self, *loads: Load, silent: int = 0, queued: float = 0.0) -> int:
        """Return the target after a second with these loads.

        `silent` more replicas have not reported yet, and `queued` requests wait in Ray's proxy.
        """
        self.now += 1.0
        context = _Context(
            dict(self.state),
            self.target,
            len(loads) + silent,
            queued,
            self.now,
            self.lowest,
            self.highest,
            {name: {n: getattr(load, name) for n, load in enumerate(loads)} for name in (BUSY, ONGOING)},
        )
        self.target, self.state = self.policy(context)
        return self.target


@dataclass
class _Context:
    policy_state: dict[str, Any]
    target_num_replicas: int
    current_num_replicas: int
    total_queued_requests: float
    current_time: float
    capacity_adjusted_min_replicas: int
    capacity_adjusted_max_replicas: int
    aggregated_metrics: dict[str, dict[int, float]]


def test_policy_adds_replicas_at_once_and_takes_them_after_a_while() -> None:
    controller = Controller()
    assert controller.step(Load(1, 8)) == 4
    for _ in range(29):
        assert controller.step(*[Load(0.1, 0.1)] * 4) == 4
    assert controller.step(*[Load(0.1, 0.1)] * 4) == 1
    assert controller.step(Load(1, 100)) == 8


def test_policy_is_still_in_waves_that_are_shorter_than_the_window() -> None:
    controller = Controller()
    busy, idle = [Load(0.9, 4)] * 4, [Load(0, 0)] * 4
    targets = [controller.step(*(busy if second // 10 % 2 else idle)) for second in range(10, 300)]
    assert len(set(targets)) == 1


def test_policy_goes_to_zero_in_single_steps_as_ray_does() -> None:
    controller = Controller(lowest=0, target=3)
    targets = [controller.step() for _ in range(32)]
    assert targets == [3] * 30 + [1, 0]


def test_policy_keeps_a_replica_that_ray_started_for_a_request_whose_client_has_gone() -> None:
    controller = Controller(lowest=0, target=1)
    while controller.step():
        continue
    controller.target = 1
    assert [controller.step() for _ in range(31)] == [1] * 30 + [0]


def test_policy_keeps_replicas_that_have_not_reported_yet() -> None:
    controller = Controller(lowest=0, target=2)
    assert [controller.step(Load(0, 0), silent=1) for _ in range(100)][-1] == 2
    # They are no reason for more.
    assert controller.step(Load(1, 8), silent=1) == 4
    assert controller.step(Load(1, 8), silent=3) == 4


def test_policy_keeps_a_replica_that_the_waiting_requests_have_not_reached() -> None:
    controller = Controller(lowest=0, target=1)
    assert [controller.step(Load(0, 0), queued=0.1) for _ in range(100)][-1] == 1
    assert [controller.step(Load(0, 0)) for _ in range(30)][-1] == 0


def test_policy_starts_anew_with_what_runs() -> None:
    controller = Controller(target=5)
    assert [controller.step(*[Load(0.1, 0)] * 5) for _ in range(30)][-1] == 5
    assert controller.step(*[Load(0.1, 0)] * 5) == 1


@pytest.mark.parametrize(("text", "pair"), [("2", (2, 2)), ("1:8", (1, 8)), ("0:4", (0, 4)), ("3:3", (3, 3))])
def test_replicas_are_a_number_or_a_range(text: str, pair: tuple[int, int]) -> None:
    replicas = Replicas.parse(text)
    assert (replicas.min, replicas.max) == pair
    assert replicas.is_range == (pair[0] < pair[1])


@pytest.mark.parametrize("text", ["", "0", "0:0", "8:1", "-1", "1:", ":4", "1:2:3", "two", "1.5", "2 ", "9999999", "٣"])
def test_replicas_that_are_no_number_and_no_range_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no number of replicas: write 2, or a range such as 1:8 or 0:4"):
        Replicas.parse(text)


def test_replicas_of_a_config_are_checked_too() -> None:
    with pytest.raises(ValidationError, match="8:1 replicas are no range"):
        Replicas(min=8, max=1)


def test_options_of_a_number_are_those_of_ray() -> None:
    options = model_options(Replicas.parse("3"), {"num_cpus": 0.1})
    assert options == {"num_replicas": 3, "ray_actor_options": {"num_cpus": 0.1}, "max_surge_percent": 100}


@pytest.mark.parametrize(
    ("text", "running", "initial"), [("0:4", 0, 1), ("2:4", 0, 2), ("1:4", 3, 3), ("1:4", 9, 4), ("0:4", 2, 2)]
)
def test_options_of_a_range_are_those_of_the_policy(text: str, running: int, initial: int) -> None:
    replicas = Replicas.parse(text, keep_s=7)
    options = model_options(replicas, {"num_cpus": 0.1}, running)
    assert "num_replicas" not in options
    # Ray has no other setting for the interval that it obeys.
    with pytest.warns(DeprecationWarning, match="metrics_interval_s"):
        config = AutoscalingConfig(**options["autoscaling_config"])
    assert (config.min_replicas, config.initial_replicas, config.max_replicas) == (replicas.min, initial, 4)
    policy = config.policy.get_policy()(**config.policy.policy_kwargs)
    assert policy._keep_s == 7
    assert pickle.loads(config.policy.get_serialized_policy_def()).__name__ == OngoingWork.__name__
