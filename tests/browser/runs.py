"""Writes folders of made-up runs."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from trainer.run_config import RunConfig

CONFIG: dict[str, Any] = {
    "run": {"dir": "toy", "total_images": 1000, "workers": 2},
    "batch": {"global_size": 8},
    "data": {"type": "digits", "size": 16},
    "task": {
        "type": "gan",
        "generator": {"type": "dcgan_generator", "latent_dim": 8, "channels": 1, "size": 16, "width": 4},
        "discriminator": {"type": "dcgan_discriminator", "channels": 1, "size": 16, "width": 4},
    },
    "ema": {"half_life_images": 100},
}


def write_run(folder: Path, lines: int = 50, grids: int = 5, **record: Any) -> Path:
    """Write a run of 1000 images to `folder` and return it. `record` has keys of `run.json`; grid k has grey 40 k."""
    (folder / "samples").mkdir(parents=True)
    resolved = RunConfig.model_validate(CONFIG).model_dump(mode="json")
    (folder / "config.yaml").write_text(yaml.safe_dump(resolved, sort_keys=False))
    figures = [line(1000 * (number + 1) // lines, number / lines) for number in range(lines)]
    write_lines(folder, figures)
    events = [{"time": "2026-01-02T03:04:05+00:00", "images": 8, "event": "training from image 0 on with 2 workers"}]
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    content = {"state": "finished", "reason": None, "images_seen": 1000, "time": "2026-01-02T04:05:06+00:00"}
    environment = {"python": "3.11.7", "torch": "2.13.0"}
    (folder / "run.json").write_text(json.dumps(content | {"environment": environment} | record))
    for number in range(grids):
        images = 1000 * number // max(1, grids - 1)
        (folder / "samples" / f"{images:010d}.png").write_bytes(png(40 * number % 256))
    return folder


def line(images: int, progress: float) -> dict[str, Any]:
    """Return a line of figures; with `progress` 0..1 the discriminator slowly wins."""
    return {
        "images": images,
        "seconds": images / 100,
        "figures": {"D loss": 1.4 - progress, "G loss": 0.7 + progress},
        "realness": {"D": [0.5 + progress / 3, 0.5 - progress / 3]},
        "performance": {"images/s": 100.0, "data wait": 0.05, "hooks": 0.01, "memory GiB": 0.5},
    }


def write_lines(folder: Path, lines: list[dict[str, Any]]) -> None:
    """Write `lines` as the only part of the log of figures of the run in `folder`."""
    (folder / "metrics").mkdir(exist_ok=True)
    (folder / "metrics" / "000000000000.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def png(grey: int, size: int = 48) -> bytes:
    """Return a PNG file of a plain square."""
    stream = io.BytesIO()
    Image.new("L", (size, size), grey).save(stream, "PNG")
    return stream.getvalue()
