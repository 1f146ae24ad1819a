"""What the doctor makes of what it finds."""

from __future__ import annotations

import pytest

from zorse.doctor import Finding, check_providers, check_requirements, check_torch, findings

REQUIREMENTS = [
    "torch>=2.13",
    "ray[data,serve]>=2.60",
    "numpy>=2.0",
    "setuptools",
    "onnxruntime>=1.27; platform_system == 'Nowhere'",
    "pytest; extra == 'dev'",
]


def test_requirements_that_fit_are_one_finding() -> None:
    installed = {"torch": "2.13.0+cpu", "ray": "2.60.0", "numpy": "3.0.0rc1", "setuptools": "1"}
    text = "torch 2.13.0+cpu, ray 2.60.0, numpy 3.0.0rc1, setuptools 1"
    assert check_requirements(REQUIREMENTS, installed.get) == [Finding("packages", text)]


def test_a_missing_and_an_old_package_are_named_with_their_remedy() -> None:
    installed = {"torch": "2.12.1", "numpy": "2.0", "setuptools": "1"}
    assert check_requirements(REQUIREMENTS, installed.get)[1:] == [
        Finding("torch", "2.12.1, and zorse needs >=2.13", "pip install 'torch>=2.13'"),
        Finding("ray", "not installed", "pip install 'ray[data,serve]>=2.60'"),
    ]


@pytest.mark.parametrize(
    ("devices", "build", "gpus", "state", "mend"),
    [
        (0, None, [], "GPUs: none", ""),
        (2, "13.0", ["H100", "H100"], "GPUs: H100, H100", ""),
        (1, None, [], "this torch is built for the CPU alone", "install a CUDA build of torch"),
        (1, "13.0", [], "torch cannot use them", "update the NVIDIA driver to one for CUDA 13.0"),
    ],
)
def test_a_torch_that_leaves_gpus_idle_is_wrong(
    devices: int, build: str | None, gpus: list[str], state: str, mend: str
) -> None:
    found = check_torch(devices, build, gpus)
    assert state in found.state
    assert found.mend.startswith(mend)
    assert bool(found.mend) == bool(mend)


@pytest.mark.parametrize(
    ("devices", "provider", "wrong"), [(0, "CPU", False), (0, "CUDA", False), (1, "CUDA", False), (1, "CPU", True)]
)
def test_an_onnxruntime_without_cuda_is_wrong_where_there_are_gpus(devices: int, provider: str, wrong: bool) -> None:
    assert bool(check_providers(devices, [f"{provider}ExecutionProvider"]).mend) == wrong


def test_a_look_that_fails_is_a_finding() -> None:
    def look() -> list[Finding]:
        raise ImportError("first\nNo module named 'torch'")

    assert findings("devices", look, "pip install torch") == [
        Finding("devices", "No module named 'torch'", "pip install torch")
    ]
