"""The checks of `zorse doctor`."""

from __future__ import annotations

import pytest

from zorse.doctor import Finding, check_providers, check_requirements, check_torch, run_check

REQUIREMENTS = [
    "torch>=2.13",
    "ray[data,serve]>=2.60",
    "numpy>=2.0",
    "setuptools",
    "onnxruntime>=1.27; platform_system == 'Nowhere'",
    "pytest; extra == 'dev'",
]


def test_check_requirements_joins_fitting_packages_in_one_finding() -> None:
    installed = {"torch": "2.13.0+cpu", "ray": "2.60.0", "numpy": "3.0.0rc1", "setuptools": "1"}
    text = "torch 2.13.0+cpu, ray 2.60.0, numpy 3.0.0rc1, setuptools 1"
    assert check_requirements(REQUIREMENTS, installed.get) == [Finding("packages", text)]


def test_check_requirements_reports_missing_and_old_packages_with_the_fix() -> None:
    installed = {"torch": "2.12.1", "numpy": "2.0", "setuptools": "1"}
    assert check_requirements(REQUIREMENTS, installed.get)[1:] == [
        Finding("torch", "2.12.1, and zorse needs >=2.13", "pip install 'torch>=2.13'"),
        Finding("ray", "not installed", "pip install 'ray[data,serve]>=2.60'"),
    ]


@pytest.mark.parametrize(
    ("devices", "build", "gpus", "state", "fix"),
    [
        (0, None, [], "GPUs: none", ""),
        (2, "13.0", ["H100", "H100"], "GPUs: H100, H100", ""),
        (1, None, [], "this torch is built for the CPU only", "install a CUDA build of torch"),
        (1, "13.0", [], "torch cannot use them", "update the NVIDIA driver to one for CUDA 13.0"),
    ],
)
def test_check_torch_reports_gpus_that_torch_cannot_use(
    devices: int, build: str | None, gpus: list[str], state: str, fix: str
) -> None:
    finding = check_torch(devices, build, gpus)
    assert state in finding.state
    assert finding.fix.startswith(fix)
    assert bool(finding.fix) == bool(fix)


@pytest.mark.parametrize(
    ("devices", "provider", "wrong"), [(0, "CPU", False), (0, "CUDA", False), (1, "CUDA", False), (1, "CPU", True)]
)
def test_check_providers_reports_a_missing_cuda_provider_beside_gpus(devices: int, provider: str, wrong: bool) -> None:
    assert bool(check_providers(devices, [f"{provider}ExecutionProvider"]).fix) == wrong


def test_run_check_turns_an_error_into_a_finding() -> None:
    def check() -> list[Finding]:
        raise ImportError("first\nNo module named 'torch'")

    assert run_check("devices", check, "pip install torch") == [
        Finding("devices", "No module named 'torch'", "pip install torch")
    ]
