"""Measures the export of CycleGAN's ResNet-9 generator (256 px) to each target, and the start of each artifact.

    python -m benchmarks.export

For each target it measures the seconds of the export with its proof, the size of the graph, the largest difference in
grey levels, the PSNR, and the seconds of the session's start, of the first inference and of a later one. The network is
trained for a few steps on noise, because int8 has large errors on untrained networks. Writes
`benchmarks/results/export.json`.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.report import write_report
from export.pipeline import export
from serving import artifacts
from serving.engine import OrtEngine, cpu_cores
from trainer import registry
from trainer.snapshot import Network, Snapshot, write_snapshot
from zorse_common.files import write_image
from zorse_common.storage import Storage

SIZE, REPEATS, FITTING_STEPS = 256, 5, 30
TARGETS = ("onnx", "onnx-fp16", "onnx-int8")


def main() -> None:
    """Measure every target and write the result."""
    with tempfile.TemporaryDirectory() as folder:
        snapshot, images = _write_snapshot(Path(folder) / "resnet9"), _write_images(Path(folder) / "images")
        # The seconds of the first target include the import of torch's exporter.
        targets = {target: _measure(snapshot, images, f"{folder}/repository", target) for target in TARGETS}
    write_report("export", {"targets": targets})


def _measure(snapshot: str, images: str, repository: str, target: str) -> dict[str, Any]:
    seconds, (path,) = _timed(
        lambda: export(snapshot, repository, target=target, images=images if target == "onnx-int8" else None)
    )
    artifact = artifacts.load(Path(path))
    source = np.random.default_rng(0).integers(0, 256, (1, SIZE, SIZE, 3), dtype=np.uint8)
    sessions = [_timed(lambda: OrtEngine(artifact.model, "cpu", cpu_cores())) for _ in range(REPEATS)]
    engine = sessions[-1][1]
    run_seconds = [_timed(lambda: engine.run({"source": source}))[0] for _ in range(REPEATS)]
    proof = artifact.manifest.proof
    return {
        "export_seconds": seconds,
        "megabytes": artifact.model.stat().st_size / 2**20,
        "max_grey_diff": proof.max_grey_diff,
        "psnr": proof.psnr,
        "start_seconds": min(start_seconds for start_seconds, _ in sessions),
        "first_run_seconds": run_seconds[0],
        "next_run_seconds": min(run_seconds[1:]),
    }


def _write_snapshot(run: Path) -> str:
    """Write a snapshot of a slightly trained ResNet-9 below the folder `run` and return its path."""
    model = {"type": "resnet_generator", "width": 64, "blocks": 9}
    torch.manual_seed(0)
    network = registry.build(registry.resolve("model", model))
    _fit(network)
    snapshot = Snapshot(
        "resnet9", "cyclegan", 0, False, {"G": Network(model, "AtoB", SIZE)}, {}, {"G": network.state_dict()}
    )
    return write_snapshot(Storage(run), snapshot)


def _fit(network: torch.nn.Module) -> None:
    """Train `network` for `FITTING_STEPS` steps to invert smooth noise."""
    optimizer, draw = torch.optim.Adam(network.parameters(), lr=1e-3), torch.Generator().manual_seed(0)
    for _ in range(FITTING_STEPS):
        coarse = torch.rand(1, 3, 4, 4, generator=draw) * 2 - 1
        images = torch.nn.functional.interpolate(coarse, (64, 64))
        optimizer.zero_grad()
        torch.autograd.backward(torch.nn.functional.l1_loss(network(images), -images))
        optimizer.step()


def _write_images(folder: Path) -> str:
    """Write 8 images of coarse noise, from which int8 is calibrated, and return the folder."""
    draw = np.random.default_rng(0)
    for number in range(8):
        coarse = draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        write_image(folder / f"{number}.png", np.kron(coarse, np.ones((16, 16, 1), dtype=np.uint8)))
    return str(folder)


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that `work` takes, and its result."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


if __name__ == "__main__":
    main()
