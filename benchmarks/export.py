"""How long it takes to export CycleGAN's ResNet-9 (256 px) to each target, and to start and first run what came out.

Writes `benchmarks/results/export.json`.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.step import describe_machine
from export.pipeline import export
from serving import artifacts
from serving.engine import OrtEngine, cpu_cores
from trainer import registry
from trainer.snapshot import Network, Snapshot, write_snapshot
from zorse_common.files import write_image
from zorse_common.storage import Storage

RESULT = Path(__file__).parent / "results" / "export.json"
SIZE, REPEATS, FITTING_STEPS = 256, 5, 30
TARGETS = ("onnx", "onnx-fp16", "onnx-int8")


def main() -> None:
    """Measure every target and write the result."""
    with tempfile.TemporaryDirectory() as folder:
        place, images = _snapshot(Path(folder) / "resnet9"), _images(Path(folder) / "images")
        # The first export of a process also imports torch's exporter.
        report = {"date": datetime.now(UTC).isoformat(timespec="seconds"), **describe_machine()}
        report["targets"] = {target: _measure(place, images, f"{folder}/repository", target) for target in TARGETS}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=2))  # noqa: T201


def _measure(place: str, images: str, repository: str, target: str) -> dict[str, Any]:
    seconds, (artifact,) = _timed(
        lambda: export(place, repository, target=target, images=images if target == "onnx-int8" else None)
    )
    found = artifacts.load(Path(artifact))
    source = np.random.default_rng(0).integers(0, 256, (1, SIZE, SIZE, 3), dtype=np.uint8)
    starts = [_timed(lambda: OrtEngine(found.model, "cpu", cpu_cores())) for _ in range(REPEATS)]
    engine = starts[-1][1]
    runs = [_timed(lambda: engine.run({"source": source}))[0] for _ in range(REPEATS)]
    proof = found.manifest.proof
    return {
        "export_seconds": seconds,
        "megabytes": found.model.stat().st_size / 2**20,
        "max_grey_diff": proof.max_grey_diff,
        "psnr": proof.psnr,
        "start_seconds": min(time for time, _ in starts),
        "first_run_seconds": runs[0],
        "next_run_seconds": min(runs[1:]),
    }


def _snapshot(run: Path) -> str:
    model = {"type": "resnet_generator", "width": 64, "blocks": 9}
    torch.manual_seed(0)
    network = registry.build(registry.resolve("model", model))
    _fit(network)
    snapshot = Snapshot(
        "resnet9", "cyclegan", 0, False, {"G": Network(model, "AtoB", SIZE)}, {}, {"G": network.state_dict()}
    )
    return write_snapshot(Storage(run), snapshot)


def _fit(network: torch.nn.Module) -> None:
    """Some steps towards negatives of noise: integers do badly at what an untrained network makes."""
    optimizer, draw = torch.optim.Adam(network.parameters(), lr=1e-3), torch.Generator().manual_seed(0)
    for _ in range(FITTING_STEPS):
        coarse = torch.rand(1, 3, 4, 4, generator=draw) * 2 - 1
        images = torch.nn.functional.interpolate(coarse, (64, 64))
        optimizer.zero_grad()
        torch.nn.functional.l1_loss(network(images), -images).backward()
        optimizer.step()


def _images(folder: Path) -> str:
    """Smooth noise, since calibration wants images that look like some."""
    draw = np.random.default_rng(0)
    for number in range(8):
        coarse = draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        write_image(folder / f"{number}.png", np.kron(coarse, np.ones((16, 16, 1), dtype=np.uint8)))
    return str(folder)


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    done = work()
    return time.perf_counter() - begun, done


if __name__ == "__main__":
    main()
