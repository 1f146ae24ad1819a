"""How many replicas a model needs: Ray Serve's autoscaling policy, and the rule that it follows.

Ray Serve copies the policy into its controller. The module uses the standard library alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

BUSY, ONGOING = "busy", "ongoing"
"""The names of the two numbers that a replica reports: see `Load`."""
BUSY_SHARE = 0.7
"""How much of its time a replica should be busy. Beyond it, requests that come at random wait longer than they run."""
ONGOING_BATCHES = 2.0
"""How many batches a replica should have in progress: one that runs, and one that gathers meanwhile."""

Needs = tuple[tuple[float, int], ...]
"""Pairs of a time in seconds and the number of replicas that were needed then. Times rise and numbers fall."""


class Load(NamedTuple):
    """The work of a replica, as means over some seconds.

    `busy` is the share of the time, 0 to 1, in which its model or its event loop was busy. `ongoing` is the number of
    batches of work that it had in progress, waiting ones included.
    """

    busy: float
    ongoing: float


def replicas_for(loads: Sequence[Load]) -> int:
    """Return how many replicas the work needs that replicas with these `loads` have; 0 if none of them has any.

    A slow model shows its demand by the batches that wait, and a fast one, whose requests wait in sockets where nobody
    counts them, by the share of the time that it is busy. That share is also what keeps replicas that were needed:
    where two replicas are busy for half of their time each, nothing waits, and still one of them would not do.
    """
    needed = sum(max(load.busy / BUSY_SHARE, load.ongoing / ONGOING_BATCHES) for load in loads)
    # Shares that add up to a whole number in theory do not always do so in floating point.
    return math.ceil(needed - 1e-9)


def with_need(needs: Needs, now: float, count: int, keep_s: float) -> Needs:
    """Return `needs` with `count` replicas at the time `now`, without those of more than `keep_s` seconds before.

    Only what can still be the greatest later is kept, so that the first pair has the greatest number.
    """
    kept = [(time, number) for time, number in needs if number > count and now - time < keep_s]
    return (*kept, (now, count))


class OngoingWork:
    """The policy of Ray Serve for a model: more replicas at once, fewer once they were not needed for `keep_s` seconds.

    The number is the greatest that was needed in the last `keep_s` seconds, so that work that comes in waves does not
    start and stop replicas.
    """

    def __init__(self, keep_s: float) -> None:
        self._keep_s = keep_s

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """Return the number of replicas for an `AutoscalingContext`, and the state for the next call."""
        state = context.policy_state
        needs: Needs = state.get("needs", ())
        if context.target_num_replicas > state.get("decided", 0):
            # Ray Serve has raised the number itself: at the start, and for a request that finds no replica.
            needs = with_need(needs, context.current_time, context.target_num_replicas, self._keep_s)
        loads = loads_of(context.aggregated_metrics or {})
        needed = replicas_for(loads)
        if len(loads) < context.current_num_replicas:
            # A replica that has not reported yet may have taken over all of the work.
            needed = max(needed, context.current_num_replicas)
        if context.total_queued_requests:
            # Requests that found no replica may not have reached the one that was started for them.
            needed = max(needed, 1)
        lowest = max(context.capacity_adjusted_min_replicas, min(1, context.target_num_replicas - 1))
        needs = with_need(needs, context.current_time, needed, self._keep_s)
        decided = min(context.capacity_adjusted_max_replicas, max(lowest, needs[0][1]))
        return decided, {"needs": needs, "decided": decided}


def loads_of(metrics: Mapping[str, Mapping[Any, float]]) -> list[Load]:
    """Return the loads of the replicas that have reported both numbers."""
    busy, ongoing = metrics.get(BUSY, {}), metrics.get(ONGOING, {})
    return [Load(busy[replica], ongoing[replica]) for replica in busy if replica in ongoing]
