"""A cluster of two nodes on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.cluster_utils import Cluster

from trainer.cluster import ALONE
from zorse_common.private_ray import ray_environment


@contextmanager
def two_nodes_cluster() -> Iterator[Cluster]:
    """Run a cluster of two nodes with a CPU each, to which this process is connected, while the block runs."""
    with ray_environment(ALONE):
        # The dashboard is ten processes, which a busy machine does not start in Ray's time.
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        try:
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()
