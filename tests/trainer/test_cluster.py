"""What a Ray of our own leaves out is what Ray calls so."""

from __future__ import annotations

from ray.dashboard.utils import get_address_for_submission_client
from ray.train.v2._internal.constants import ENABLE_PREEMPTION_WATCHER_ENV_VAR

from trainer.cluster import ALONE
from zorse_common.private_ray import ray_environment


def test_a_ray_of_our_own_looks_for_no_dashboard_of_another_ray() -> None:
    with ray_environment(ALONE):
        # Without the variable this searches the machine for a Ray, or fails where there is none.
        assert get_address_for_submission_client(None) == "http://127.0.0.1:1"


def test_the_preemption_watcher_is_called_as_ray_calls_it() -> None:
    assert ALONE[ENABLE_PREEMPTION_WATCHER_ENV_VAR] == "0"
