"""Small runs for tests that need Ray, and functions that read their results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import load_file

from trainer.run_config import RunConfig

BATCH = 8
EVERY = 8 * BATCH
"""Images from one checkpoint to the next."""
_NETWORKS = {
    "gan": {
        "generator": {"type": "dcgan_generator", "latent_dim": 8, "channels": 1, "size": 16, "width": 4},
        "discriminator": {"type": "dcgan_discriminator", "channels": 1, "size": 16, "width": 4},
    },
    "cyclegan": {
        "generator": {"type": "resnet_generator", "width": 4, "blocks": 1},
        "discriminator": {"type": "patchgan_discriminator", "width": 4, "layers": 1},
        "pool_size": 10,
    },
}
_DATA = {"gan": {"type": "digits", "size": 16}, "cyclegan": {"type": "stripes", "images": 50}}


def toy(task: str, folder: Path | str, **run: Any) -> dict[str, Any]:
    """The config of a run with EMA, a decaying rate and frequent checkpoints."""
    keys = {"dir": str(folder), "workers": 2, "log_images": BATCH, "checkpoint_images": EVERY}
    optimizer = {"lr": 0.0005, "decay_from": 0.5}
    optimizers = {"generator_optimizer": optimizer, "discriminator_optimizer": optimizer}
    return {
        "run": keys | run,
        "batch": {"global_size": BATCH},
        "data": _DATA[task],
        "task": {"type": task, **_NETWORKS[task], **optimizers},
        "ema": {"half_life_images": 100},
    }


def config(data: dict[str, Any]) -> RunConfig:
    """`data` as a run's config."""
    return RunConfig.model_validate(data)


def newest_tensors(run: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a run's newest checkpoint."""
    newest = max((run / "checkpoints").iterdir(), key=lambda path: path.name)
    return load_file(newest / "state.safetensors")


def differing(one: Path, two: Path) -> list[str]:
    """The names of the tensors in which the newest checkpoints of two runs differ by a bit or more."""
    first, second = newest_tensors(one), newest_tensors(two)
    assert first.keys() == second.keys()
    return [name for name in first if not torch.equal(first[name], second[name])]


def events(run: Path) -> list[str]:
    """Return a run's events."""
    return [json.loads(line)["event"] for line in (run / "events.jsonl").read_text().splitlines()]


def workers() -> list[psutil.Process]:
    """The processes of Ray Train's workers that descend from this one."""
    processes = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "RayTrainWorker" in " ".join(process.cmdline()):
                processes.append(process)
        except psutil.Error:
            continue
    return processes
