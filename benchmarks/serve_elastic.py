"""Shows how the replicas of a model follow its work: a load from nothing to a peak and back to nothing.

    python -m benchmarks.serve_elastic [--size small|full]

Clients in a closed loop ask ResNet-9 of `zorse serve --replicas 0:N`; their number changes in equal steps. Writes
`benchmarks/results/serve_elastic.json`, and draws `docs/images/elastic.svg` of it. Sizes: small takes four minutes and
shows the shape; full is eight replicas, for a machine with as many cores or a GPU. Ends with 1 if a request failed, or
if the model is not back at none.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from benchmarks.elastic_chart import chart
from benchmarks.load.client import metric
from benchmarks.peers.environments import ENVIRONMENTS
from benchmarks.peers.models import RESNET, export_models
from benchmarks.peers.servers import SERVERS, Running, running, stop_servers_on_sigterm, verb_request
from benchmarks.report import write_report

WORK = "resnet9 translate"
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "elastic.svg"
LOOK_SECONDS = 0.5


class Size(NamedTuple):
    """The most replicas, the numbers of clients in turn, the seconds of each, and when an idle replica stops."""

    most: int
    clients: tuple[int, ...]
    step_seconds: float
    keep_seconds: float


SIZES = {
    "small": Size(4, (0, 1, 8, 8, 2, 0), 30, 20),
    "full": Size(8, (0, 1, 4, 16, 16, 4, 1, 0), 60, 30),
}


@dataclass
class Clients:
    """Clients in a closed loop, of which the first `wanted` send requests."""

    url: str
    wanted: int = 0
    answers: list[tuple[float, float, int | str]] = field(default_factory=list)
    """When each request was sent and answered, and its status or error."""
    _ended: threading.Event = field(default_factory=threading.Event)

    def run(self, most: int) -> list[threading.Thread]:
        """Start the threads of `most` clients."""
        threads = [threading.Thread(target=self._send, args=(number,)) for number in range(most)]
        for thread in threads:
            thread.start()
        return threads

    def end(self) -> None:
        """Let each client end after its answer."""
        self._ended.set()

    def _send(self, number: int) -> None:
        post = verb_request(WORK)
        with httpx.Client(base_url=self.url, timeout=300, trust_env=False) as client:
            while not self._ended.is_set():
                if number >= self.wanted:
                    self._ended.wait(0.05)
                    continue
                sent = time.monotonic()
                try:
                    status: int | str = client.post(
                        post.path, content=post.body, headers=dict(post.headers)
                    ).status_code
                except httpx.HTTPError as error:
                    status = type(error).__name__
                self.answers.append((sent, time.monotonic(), status))


def main() -> None:
    """Run the load, write the result and draw it."""
    stop_servers_on_sigterm()
    parser = argparse.ArgumentParser(description="Show how the replicas of a model follow its work.")
    parser.add_argument("--size", choices=list(SIZES), default="small")
    name = parser.parse_args().size
    size, zorse = SIZES[name], SERVERS[0]
    words = ["--replicas", f"0:{size.most}", "--scale-down-after", f"{size.keep_seconds:g}"]
    server = dataclasses.replace(zorse, command=lambda *place: [*zorse.command(*place), *words])
    repository = export_models(ENVIRONMENTS / "repository")
    with running(server, repository, WORK) as run:
        result = _measure(run, size)
    write_report("serve_elastic", {"size": name, "work": WORK, **result})
    PICTURE.write_text(chart(result["samples"]), encoding="utf-8")
    if result["failed"] or result["samples"][-1]["replicas"]:
        sys.exit(1)


def _measure(run: Running, size: Size) -> dict[str, Any]:
    """Return the samples of the load, from a model without a replica until it has none again."""
    clients, samples = Clients(run.url), []
    while metric(run.url, "zorse_replicas", RESNET):
        time.sleep(LOOK_SECONDS)
    began = time.monotonic()
    threads = clients.run(max(size.clients))
    last = len(size.clients) * size.step_seconds
    while (now := time.monotonic() - began) < last or (samples[-1]["replicas"] and now < 4 * last):
        clients.wanted = size.clients[min(int(now / size.step_seconds), len(size.clients) - 1)]
        replicas = int(metric(run.url, "zorse_replicas", RESNET))
        samples.append({"seconds": round(now, 1), "clients": clients.wanted, "replicas": replicas})
        time.sleep(LOOK_SECONDS)
    clients.end()
    for thread in threads:
        thread.join()
    answers = sorted(clients.answers)
    return {
        "replicas": f"0:{size.most}",
        "scale_down_after_s": size.keep_seconds,
        "requests": len(answers),
        "failed": sum(status != 200 for *_, status in answers),
        "first_request_s": round(answers[0][1] - answers[0][0], 2),
        "most_replicas": max(sample["replicas"] for sample in samples),
        "samples": samples,
    }


if __name__ == "__main__":
    main()
