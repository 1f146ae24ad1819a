"""The variables for a private Ray are the ones that Ray reads."""

from __future__ import annotations

from ray.dashboard.utils import get_address_for_submission_client
from ray.train.v2._internal.constants import ENABLE_PREEMPTION_WATCHER_ENV_VAR

from trainer.cluster import ALONE
from zorse_common.private_ray import ray_environment


def test_private_ray_ignores_dashboards_of_other_rays() -> None:
    with ray_environment(ALONE):
        # Without the variable this searches the machine for a Ray, or fails where there is none.
        assert get_address_for_submission_client(None) == "http://127.0.0.1:1"


def test_preemption_watcher_variable_is_the_one_that_ray_reads() -> None:
    assert ALONE[ENABLE_PREEMPTION_WATCHER_ENV_VAR] == "0"
