"""A Ray cluster on this machine that is not the server's own, and what `serve` and `zorse` do with it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from ray.cluster_utils import Cluster

from serving.ports import free_port
from tests.cluster.sockets import command_line
from zorse_common.private_ray import ray_environment

ROOT = Path(__file__).parents[2]
CPUS = 4
"""The CPUs that each node says to have."""


@dataclass(frozen=True)
class ServeCluster:
    """A cluster. Each node has a folder of its own in `folder`, with its cache.

    `dashboard` is the URL to which `serve` sends its commands.
    """

    address: str
    dashboard: str
    folder: Path
    nodes: Cluster

    def lose_node(self) -> list[str]:
        """Kill the processes of a node that is not the head, and return what they were called."""
        node = next(iter(self.nodes.worker_nodes))
        (raylet,) = node.all_processes["raylet"]
        names = [command_line(child) for child in psutil.Process(raylet.process.pid).children()]
        self.nodes.remove_node(node, allow_graceful=False)
        return names

    def zorse(self, *words: str) -> str:
        """Return what `zorse` with these words prints."""
        return _output([sys.executable, "-c", "from zorse.cli import main; main()", *words])

    def deploy(self, config: str) -> None:
        """Deploy a printed configuration as it is."""
        file = self.folder / "serve.yaml"
        file.write_text(config, encoding="utf-8")
        self._serve("deploy", str(file))

    def remove_all(self) -> None:
        """Deploy a configuration without applications."""
        self.deploy("applications: []")

    def serve_status(self) -> str:
        """Return what `serve status` prints."""
        return self._serve("status")

    def _serve(self, command: str, *words: str) -> str:
        return _output([str(Path(sys.executable).with_name("serve")), command, "--address", self.dashboard, *words])

    def caches(self, digest: str) -> list[str]:
        """Return the nodes that have fetched the artifact whose manifest has this digest."""
        return sorted(entry.parents[2].name for entry in self.folder.glob(f"*/zorse/artifacts/{digest}"))


@contextmanager
def serve_cluster(
    folder: Path, nodes: int, *, has_dashboard: bool = True, **environment: str
) -> Iterator[ServeCluster]:
    """Run a cluster of `nodes` with these environment variables while the block runs."""
    # The nodes have zorse installed, as those of a cluster that serves it must.
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))

    def variables(node: int) -> dict[str, str]:
        cache = folder / f"node{node}"
        cache.mkdir(parents=True)
        return {**os.environ, "PYTHONPATH": path, "XDG_CACHE_HOME": str(cache), **environment}

    with ray_environment({}):
        dashboard = {"include_dashboard": has_dashboard, "dashboard_port": free_port()}
        head = {"num_cpus": CPUS, "env_vars": variables(0), **dashboard}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            for node in range(1, nodes):
                cluster.add_node(num_cpus=CPUS, env_vars=variables(node))
            yield ServeCluster(cluster.address, f"http://{cluster.webui_url}", folder, cluster)
        finally:
            cluster.shutdown()


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
