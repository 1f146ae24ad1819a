"""The engines: a step through DeepSpeed equals a step of plain PyTorch."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.trainer.engine_steps import CASES, Case, record_cases
from tests.trainer.ranks import spawn
from tests.trainer.textures import write_textures
from trainer.tasks.base import OptimizerSection

GOLDEN = Path(__file__).parent / "deepspeed_config.json"
UPDATES = {None: 2e-6, "bf16": 2e-6}
"""The largest difference allowed, as a share of the update's norm. Both sides compute alike, in another order."""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("engine")
    write_textures(folder / "textures")
    spawn(record_cases, 1, str(folder))
    tensors: dict[str, Any] = torch.load(folder / "recorded.pt", weights_only=True)
    return tensors


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.double() - other.double()).norm() / other.double().norm())


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_engine_step_equals_a_step_of_plain_pytorch(recorded: dict[str, Any], case: Case) -> None:
    case_record = recorded[str(case)]
    for player, norm in case_record["gradient_norms"].items():
        assert norm > 3, f"the gradients of {player} are too small to show clipping"
    for step in (0, 1):
        for player, update in case_record["engine"][step].items():
            reference = case_record["torch"][step][player]
            ratio = float(update.norm() / reference.norm())
            assert math.isclose(ratio, 1, rel_tol=1e-4), f"{player} moves {ratio:.4f} times as far as in PyTorch"
            assert _difference(update, reference) < 1e-4, player


@pytest.mark.slow
def test_engine_effective_configuration_is_the_golden_one(recorded: dict[str, Any]) -> None:
    configurations = json.loads(recorded["configurations"])
    golden = json.loads(GOLDEN.read_text())
    differences = [
        f"{stage} {key}: {golden[stage].get(key, '(absent)')} -> {configurations[stage].get(key, '(absent)')}"
        for stage in golden
        for key in sorted({*golden[stage], *configurations[stage]})
        if golden[stage].get(key, "(absent)") != configurations[stage].get(key, "(absent)")
    ]
    assert not differences, (
        "DeepSpeed's configuration is another one: if a new version has a new default that changes numbers, write it "
        f"out in trainer/engine.py; then update {GOLDEN.name}:\n" + "\n".join(differences)
    )


@pytest.mark.slow
def test_engine_is_shared_by_phases_of_the_same_networks(recorded: dict[str, Any]) -> None:
    assert recorded["lazy"] == {"engines": 2, "steps": {"D": 3, "G": 2}}


@pytest.mark.slow
def test_engine_keeps_losses_weights_and_statistics_in_float32_under_bf16(recorded: dict[str, Any]) -> None:
    assert recorded["dtypes"] == {
        "losses": ["torch.float32"],
        "parameters": ["torch.float32"],
        "optimizer": ["torch.float32"],
        "statistics": ["torch.float32"],
        "convolutions": ["torch.bfloat16"],
    }


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_restored_optimizer_takes_the_step_of_one_that_was_never_stopped(device: str) -> None:
    from trainer.engine import _get_state, _set_state

    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")

    def engine(weight: torch.Tensor) -> tuple[Any, torch.nn.Parameter]:
        parameter = torch.nn.Parameter(weight.clone().to(device))
        optimizer = OptimizerSection(lr=0.1).build([parameter])
        return SimpleNamespace(optimizer=optimizer, zero_optimization=lambda: False), parameter

    def step(engine: Any, parameter: torch.nn.Parameter, gradient: float) -> None:
        parameter.grad = torch.full_like(parameter, gradient)
        engine.optimizer.step()

    whole, parameter = engine(torch.ones(3))
    step(whole, parameter, 0.5)
    saved = {key: value.cpu().clone() for key, value in _get_state(whole, parameter).items()}
    resumed, restored = engine(parameter.detach())
    _set_state(resumed, [(restored, saved)])
    step(whole, parameter, -0.2)
    step(resumed, restored, -0.2)
    assert torch.equal(parameter, restored)


def test_scalars_of_a_fused_optimizer_are_on_the_parameters_device() -> None:
    from trainer.engine import step_device

    parameter = torch.nn.Parameter(torch.zeros(2, device="meta"))
    fused, plain = (SimpleNamespace(param_groups=[{"fused": fused}]) for fused in (True, False))
    assert step_device(fused, parameter) == parameter.device  # type: ignore[arg-type]
    assert step_device(plain, parameter) == torch.device("cpu")  # type: ignore[arg-type]
