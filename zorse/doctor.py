"""`zorse doctor`: versions, devices, providers and Ray; what is wrong and how to mend it."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata

from rich.console import Console

PACKAGES = ("torch", "deepspeed", "ray", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime", "numpy", "pydantic")


@dataclass(frozen=True)
class Finding:
    """One thing looked at; `mend` says what to do where it is wrong."""

    name: str
    state: str
    mend: str = ""


def run() -> bool:
    """Print every finding; True when nothing is wrong."""
    console = Console(highlight=False)
    well = True
    for look in (_versions, _onnxruntime, _devices, _compiler, _deepspeed, _ray):
        for finding in look():
            well = well and not finding.mend
            mark = "[red]wrong[/]" if finding.mend else "[green]ok[/]   "
            console.print(f"{mark} {finding.name}: {finding.state}")
            if finding.mend:
                console.print(f"      {finding.mend}", markup=False)
    return well


def prepare() -> None:
    """Compile what DeepSpeed would otherwise compile in the first run on a CPU (about 35 s, once)."""
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if _cuda() else "cpu")
    from deepspeed.accelerator import get_accelerator

    builder = get_accelerator().create_op_builder("ShareMemCommBuilder")
    if builder is not None and hasattr(builder, "load"):
        builder.load(verbose=False)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _versions() -> list[Finding]:
    found = {package: _version(package) for package in PACKAGES}
    text = ", ".join(f"{package} {version}" for package, version in found.items() if version)
    missing = [package for package, version in found.items() if not version and not package.startswith("onnxruntime")]
    mend = f"install {', '.join(missing)}: pip install -c constraints.txt -e ." if missing else ""
    return [Finding("versions", f"Python {platform.python_version()}, {text}", mend)]


def _onnxruntime() -> list[Finding]:
    both = _version("onnxruntime") and _version("onnxruntime-gpu")
    if both:
        mend = "pip uninstall -y onnxruntime onnxruntime-gpu, then install the one you want"
        return [Finding("onnxruntime", "two packages share one folder, and one shadows the other", mend)]
    try:
        import onnxruntime
    except ImportError as error:
        return [Finding("onnxruntime", f"cannot be imported ({error})", "pip install onnxruntime-gpu, or onnxruntime")]
    return [Finding("onnxruntime providers", ", ".join(onnxruntime.get_available_providers()) + " (compiled in)")]


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _devices() -> list[Finding]:
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return [Finding("devices", f"{os.cpu_count()} CPU cores, GPUs: {', '.join(gpus) or 'none'}")]


def _compiler() -> list[Finding]:
    missing = [tool for tool in ("g++", "ninja") if not shutil.which(tool)]
    state = f"{' and '.join(missing)} not found" if missing else "g++ and ninja found"
    mend = "install them: DeepSpeed compiles its CPU communication once" if missing and not _cuda() else ""
    return [Finding("compiler", state, mend)]


def _deepspeed() -> list[Finding]:
    return [
        _attempt(
            "DeepSpeed", prepare, "its operators are compiled", "install g++ and ninja, then zorse doctor --prepare"
        )
    ]


def _ray() -> list[Finding]:
    from trainer.launch import local_ray

    def start() -> None:
        with local_ray(workers=1):
            pass

    where = os.environ.get("RAY_ADDRESS")
    state = f"the cluster at {where} answers" if where else "a local one starts"
    return [_attempt("Ray", start, state, "check RAY_ADDRESS, free memory and the temporary folder's space")]


def _attempt(name: str, action: Callable[[], None], state: str, mend: str) -> Finding:
    try:
        action()
    except Exception as error:  # noqa: BLE001  (a doctor reports whatever is wrong)
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return Finding(name, lines[-1], mend)
    return Finding(name, state)
