"""Writes a benchmark's results, with the date and a description of the machine, to `benchmarks/results`."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("torch", "deepspeed", "ray", "onnx", "onnxruntime-gpu")


def write_report(name: str, results: Mapping[str, Any]) -> None:
    """Write `results` to `benchmarks/results/<name>.json`, after date, machine and versions, and print the document."""
    report = {"date": datetime.now(UTC).isoformat(timespec="seconds"), **_describe_machine(), **results}
    text = json.dumps(report, indent=2)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")
    print(text)  # noqa: T201


def _describe_machine() -> dict[str, Any]:
    return {
        "machine": {
            "platform": f"{platform.system()} {platform.machine()}",
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "versions": {package: metadata.version(package) for package in _PACKAGES},
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), platform.processor())
