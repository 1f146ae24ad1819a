"""`zorse doctor`: versions, devices, providers and Ray; what is wrong and how to mend it."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import Requirement
from rich.console import Console
from rich.markup import escape

from zorse_common.tables import print_json

_TWINS = {"onnxruntime-gpu": "onnxruntime", "onnxruntime": "onnxruntime-gpu"}
"""Two packages of one module: either will do, save that a GPU needs the first (see `check_providers`)."""


@dataclass(frozen=True)
class Finding:
    """One thing looked at; `mend` says what to do where it is wrong."""

    name: str
    state: str
    mend: str = ""


def run(*, as_json: bool = False) -> bool:
    """Print every finding, as lines or as JSON; return whether nothing is wrong."""
    if as_json:
        found = [finding for name, look, mend in _LOOKS for finding in findings(name, look, mend)]
        print_json([{"name": f.name, "ok": not f.mend, "state": f.state, "fix": f.mend or None} for f in found])
        return not any(finding.mend for finding in found)
    console = Console(highlight=False)
    well = True
    for name, look, mend in _LOOKS:
        for finding in findings(name, look, mend):
            well = well and not finding.mend
            mark = "[red]wrong[/]" if finding.mend else "[green]ok[/]   "
            console.print(f"{mark} {finding.name}: {escape(finding.state)}")
            if finding.mend:
                console.print(f"      {finding.mend}", markup=False)
    return well


def findings(name: str, look: Callable[[], list[Finding]], mend: str) -> list[Finding]:
    """What `look` finds; where it fails, that `name` is wrong and `mend` is to be done."""
    try:
        return look()
    except Exception as error:  # noqa: BLE001  (a doctor reports whatever is wrong)
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return [Finding(name, lines[-1], mend)]


def check_requirements(requirements: Iterable[str], version: Callable[[str], str | None]) -> list[Finding]:
    """The packages that fit in one finding, and one for each that is missing or of a version that does not fit.

    `requirements` are those of a package's metadata, of which the ones for other machines and extras do not count;
    `version` says which version of a package is installed, if any.
    """
    fitting, wrong = [], []
    for requirement in map(Requirement, requirements):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        requirement.marker = None
        name, found = requirement.name, version(requirement.name)
        if found is not None and requirement.specifier.contains(found, prereleases=True):
            fitting.append(f"{name} {found}")
        else:
            state = "not installed" if found is None else f"{found}, and zorse needs {requirement.specifier}"
            wrong.append(Finding(name, state, f"pip install '{requirement}'"))
    return [Finding("packages", ", ".join(fitting) or "none"), *wrong]


def check_torch(devices: int, build: str | None, gpus: Sequence[str]) -> Finding:
    """Whether torch, built for the CUDA version `build`, sees GPUs where the driver shows `devices` of them."""
    if gpus or not devices:
        return Finding("devices", f"{os.cpu_count()} CPU cores, GPUs: {', '.join(gpus) or 'none'}")
    if build is None:
        mend = "install a CUDA build of torch: https://pytorch.org/get-started/locally"
        return Finding("devices", f"GPUs of the driver: {devices}; this torch is built for the CPU alone", mend)
    mend = f"update the NVIDIA driver to one for CUDA {build}, or install a torch built for the driver's CUDA"
    return Finding("devices", f"GPUs of the driver: {devices}; torch cannot use them", mend)


def check_providers(devices: int, providers: Sequence[str]) -> Finding:
    """Whether onnxruntime has its CUDA provider where the driver shows `devices` GPUs."""
    state = f"{', '.join(providers)} (compiled in)"
    if not devices or "CUDAExecutionProvider" in providers:
        return Finding("onnxruntime providers", state)
    mend = "pip uninstall -y onnxruntime, then pip install onnxruntime-gpu"
    return Finding("onnxruntime providers", f"{state}; GPUs of the driver: {devices}", mend)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _packages() -> list[Finding]:
    requirements = metadata.requires("zorse") or []
    found = check_requirements(requirements, lambda name: _version(name) or _version(_TWINS.get(name, name)))
    return [Finding("Python", platform.python_version()), *found]


def _onnxruntime() -> list[Finding]:
    if _version("onnxruntime") and _version("onnxruntime-gpu"):
        mend = "pip uninstall -y onnxruntime onnxruntime-gpu, then install the one you want"
        return [Finding("onnxruntime", "two packages share one folder, and one shadows the other", mend)]
    import onnxruntime

    from serving.engine import cuda_devices

    return [check_providers(cuda_devices(), onnxruntime.get_available_providers())]


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _devices() -> list[Finding]:
    import torch

    from serving.engine import cuda_devices

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())] if _cuda() else []
    return [check_torch(cuda_devices(), torch.version.cuda, gpus)]


def _deepspeed() -> list[Finding]:
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if _cuda() else "cpu")
    import deepspeed

    return [Finding("DeepSpeed", f"{deepspeed.__version__} can be imported")]


def _ray() -> list[Finding]:
    from trainer.cluster import cluster, cluster_address

    with cluster(workers=1):
        where = cluster_address()
        return [Finding("Ray", f"the cluster at {where} answers" if where else "a local one starts")]


_LOOKS = (
    ("packages", _packages, "pip install -c constraints.txt -e ."),
    ("onnxruntime", _onnxruntime, "pip install onnxruntime-gpu, or onnxruntime"),
    ("devices", _devices, "pip install torch"),
    ("DeepSpeed", _deepspeed, "pip install -c constraints.txt -e ."),
    ("Ray", _ray, "check RAY_ADDRESS, free memory and the temporary folder's space"),
)
"""What is looked at, and what mends it where the looking itself fails."""
