"""`zorse doctor` checks versions, devices, onnxruntime's providers and Ray, and says how to fix what is wrong."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import Requirement
from rich.console import Console
from rich.markup import escape

from zorse_common.tables import print_json

_ALTERNATIVES = {"onnxruntime-gpu": "onnxruntime", "onnxruntime": "onnxruntime-gpu"}
"""Two packages that install the same module. Either satisfies the requirement; GPUs need onnxruntime-gpu."""


@dataclass(frozen=True)
class Finding:
    """The result of one check. `fix` says what the user should do; it is empty if nothing is wrong."""

    name: str
    state: str
    fix: str = ""


def diagnose(*, as_json: bool = False) -> bool:
    """Run every check, print the findings as lines or as JSON, and return whether nothing is wrong.

    Lines are printed while the checks run; JSON is printed at the end.
    """
    findings = []
    console = Console(highlight=False)
    for finding in _all_findings():
        findings.append(finding)
        if not as_json:
            _print_finding(console, finding)
    if as_json:
        print_json([{"name": f.name, "ok": not f.fix, "state": f.state, "fix": f.fix or None} for f in findings])
    return not any(finding.fix for finding in findings)


def _all_findings() -> Iterator[Finding]:
    for name, check, fix in _CHECKS:
        yield from run_check(name, check, fix)


def _print_finding(console: Console, finding: Finding) -> None:
    mark = "[red]wrong[/]" if finding.fix else "[green]ok[/]   "
    console.print(f"{mark} {finding.name}: {escape(finding.state)}")
    if finding.fix:
        console.print(f"      {finding.fix}", markup=False)


def run_check(name: str, check: Callable[[], list[Finding]], fix: str) -> list[Finding]:
    """Return the findings of `check`. If it raises, return one finding with the error's last line and `fix`."""
    try:
        return check()
    except Exception as error:  # noqa: BLE001  (a check may fail in any way, and each failure is a finding)
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return [Finding(name, lines[-1], fix)]


def check_requirements(requirements: Iterable[str], version: Callable[[str], str | None]) -> list[Finding]:
    """Return one finding for all packages that fit, and one for each that is missing or has a wrong version.

    `requirements` are lines of package metadata. Those for other platforms and for extras are ignored. `version`
    returns the installed version of a package, or None.
    """
    fitting, wrong = [], []
    for requirement in map(Requirement, requirements):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        requirement.marker = None
        name, installed = requirement.name, version(requirement.name)
        if installed is not None and requirement.specifier.contains(installed, prereleases=True):
            fitting.append(f"{name} {installed}")
        else:
            state = "not installed" if installed is None else f"{installed}, and zorse needs {requirement.specifier}"
            wrong.append(Finding(name, state, f"pip install '{requirement}'"))
    return [Finding("packages", ", ".join(fitting) or "none"), *wrong]


def check_torch(devices: int, cuda_version: str | None, gpus: Sequence[str]) -> Finding:
    """Check that torch can use the GPUs of the NVIDIA driver.

    `devices` is the number of GPUs that the driver shows. `cuda_version` is the CUDA version that torch is built for;
    None means a CPU build. `gpus` are the names of the GPUs that torch can use.
    """
    if gpus or not devices:
        return Finding("devices", f"{os.cpu_count()} CPU cores, GPUs: {', '.join(gpus) or 'none'}")
    if cuda_version is None:
        fix = "install a CUDA build of torch: https://pytorch.org/get-started/locally"
        return Finding("devices", f"GPUs of the driver: {devices}; this torch is built for the CPU only", fix)
    fix = f"update the NVIDIA driver to one for CUDA {cuda_version}, or install a torch built for the driver's CUDA"
    return Finding("devices", f"GPUs of the driver: {devices}; torch cannot use them", fix)


def check_providers(devices: int, providers: Sequence[str]) -> Finding:
    """Check that onnxruntime has its CUDA provider if the driver shows GPUs (`devices` of them)."""
    state = f"{', '.join(providers)} (compiled in)"
    if not devices or "CUDAExecutionProvider" in providers:
        return Finding("onnxruntime providers", state)
    fix = "pip uninstall -y onnxruntime, then pip install onnxruntime-gpu"
    return Finding("onnxruntime providers", f"{state}; GPUs of the driver: {devices}", fix)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _check_packages() -> list[Finding]:
    requirements = metadata.requires("zorse") or []
    findings = check_requirements(requirements, lambda name: _version(name) or _version(_ALTERNATIVES.get(name, name)))
    return [Finding("Python", platform.python_version()), *findings]


def _check_onnxruntime() -> list[Finding]:
    if _version("onnxruntime") and _version("onnxruntime-gpu"):
        fix = "pip uninstall -y onnxruntime onnxruntime-gpu, then install the one you want"
        return [Finding("onnxruntime", "onnxruntime and onnxruntime-gpu overwrite each other's files", fix)]
    import onnxruntime

    from serving.cuda import cuda_devices

    return [check_providers(cuda_devices(), onnxruntime.get_available_providers())]


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _check_devices() -> list[Finding]:
    import torch

    from serving.cuda import cuda_devices

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())] if _has_cuda() else []
    return [check_torch(cuda_devices(), torch.version.cuda, gpus)]


def _check_deepspeed() -> list[Finding]:
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if _has_cuda() else "cpu")
    import deepspeed

    return [Finding("DeepSpeed", f"{deepspeed.__version__} can be imported")]


def _check_ray() -> list[Finding]:
    from trainer.cluster import cluster, cluster_address

    with cluster(workers=1):
        address = cluster_address()
        return [Finding("Ray", f"the cluster at {address} answers" if address else "a local one starts")]


_CHECKS = (
    ("packages", _check_packages, "pip install -c constraints.txt -e ."),
    ("onnxruntime", _check_onnxruntime, "pip install onnxruntime-gpu, or onnxruntime"),
    ("devices", _check_devices, "pip install torch"),
    ("DeepSpeed", _check_deepspeed, "pip install -c constraints.txt -e ."),
    ("Ray", _check_ray, "check RAY_ADDRESS, free memory and the temporary folder's space"),
)
"""Each check with its name and with the fix that is printed if the check itself raises."""
