"""Measures how fast the engine runs the benchmark models by batch and size, on the CPU and, where there is one, a GPU.

    python -m benchmarks.serve_engine

The models are DCGAN for 32 px and ResNet-9. Each is opened as a replica opens it. A figure is the shortest of up to
five warm runs, without HTTP, decoding or encoding. On a GPU each shape also runs without bound tensors
(`unbound_milliseconds`). Writes `benchmarks/results/serve_engine.json`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.models import NETWORKS, export_models, model_file
from benchmarks.report import write_report
from serving import artifacts
from serving.batching import Tensors
from serving.config import Device
from serving.cuda import cuda_devices
from serving.engine import OrtEngine
from serving.opening import load_checked_engine
from serving.profile import doublings, measure

ROWS = 16
SIDES, TRANSLATED_ROWS = (64, 128, 256), (1, 4)
BUDGET_SECONDS = 2.0


def main() -> None:
    """Measure every model on every device and write the result."""
    devices: tuple[Device, ...] = ("cpu", "cuda") if cuda_devices() else ("cpu",)
    with tempfile.TemporaryDirectory() as folder:
        repository = export_models(Path(folder))
        rows = [row for name in NETWORKS for device in devices for row in _measure(repository, name, device)]
    write_report("serve_engine", {"rows": rows})


def _measure(repository: Path, name: str, device: Device) -> Iterator[dict[str, Any]]:
    artifact = artifacts.load(model_file(repository, name).parent)
    engine = load_checked_engine(artifact, device)
    latent = artifact.manifest.interface.latent
    for feeds in _sources() if latent is None else _latents(latent.dim):
        first = next(iter(feeds.values()))
        yield {
            "model": name,
            "device": device,
            "threads": engine.threads,
            "shape": first.shape,
            **_times(engine, feeds),
        }


def _times(engine: OrtEngine, feeds: Tensors) -> dict[str, float]:
    """Return the milliseconds of a run of `feeds`, and the images a second."""
    count = len(next(iter(feeds.values())))
    seconds = measure(lambda _: engine.run(feeds), [1], budget=BUDGET_SECONDS)[1]
    times = {"milliseconds": 1000 * seconds, "images_per_second": count / seconds}
    if "CUDAExecutionProvider" in engine.providers:
        unbound = measure(lambda _: engine._session.run(None, dict(feeds)), [1], budget=BUDGET_SECONDS)[1]
        times["unbound_milliseconds"] = 1000 * unbound
    return times


def _latents(dim: int) -> Iterator[Tensors]:
    random = np.random.default_rng(0)
    for count in doublings(ROWS):
        yield {"latent": random.standard_normal((count, dim), np.float32)}


def _sources() -> Iterator[Tensors]:
    random = np.random.default_rng(0)
    for side in SIDES:
        for count in TRANSLATED_ROWS:
            yield {"source": random.integers(0, 256, (count, side, side, 3), dtype=np.uint8)}


if __name__ == "__main__":
    main()
